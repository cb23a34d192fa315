"""What the loss of N models costs, beside N of the Trainer's own evaluation passes.

    python -m tests.benchmarks.bench_evaluate --output FOLDER [--models 8]

A small GPT is trained with the real Trainer, which saves the models. Both sides are timed in this process, after all
imports; ours includes the loading of the data and the building of the model. Memory is the peak of a process that
evaluates 2 of the models, and of one that evaluates all.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import measure

_CODE = """
import sys
from xtts_export_callback import evaluate_checkpoints
evaluate_checkpoints(sys.argv[2:], config=sys.argv[1], device="cpu")
"""


def main() -> None:
    """Train, time, print."""
    parser = argparse.ArgumentParser(description="Time and memory of the losses of several models.")
    parser.add_argument("--output", type=Path, required=True, help="empty folder, about 4 GB")
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--clips", type=int, default=60, help="clips of the evaluation split (default 60)")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--channels", type=int, default=128)
    options = parser.parse_args()
    run, theirs = _train(options)
    models = sorted(run.glob("checkpoint_*.pth"))
    from xtts_export_callback import evaluate_checkpoints

    started = time.perf_counter()
    found = evaluate_checkpoints(models, config=run / "config.json", device="cpu")
    ours = time.perf_counter() - started
    assert len(found.candidates) == len(models)
    passes = theirs * len(models)
    print(f"the Trainer's pass over {options.clips} clips: {theirs:.2f} s; {len(models)} of them: {passes:.1f} s")
    print(f"evaluate, {len(models)} models: {ours:.1f} s, {ours / passes:.2f} times as long")
    for count in (2, len(models)):
        peak, _ = measure([sys.executable, "-c", _CODE, run / "config.json", *models[:count]])
        print(f"peak memory with {count} models: {peak.peak_bytes / 1e9:.2f} GB")


def _train(options: argparse.Namespace) -> tuple[Path, float]:
    """Return the run, and the seconds of one evaluation pass of its Trainer."""
    from tests.models.trainings import make_trainer
    from xtts_export_callback.demo.tiny_model import tiny_trainer_config, write_tiny_assets

    clips = options.clips + 2 * options.models
    assets = write_tiny_assets(options.output / "assets", clips=clips)
    config: Any = tiny_trainer_config(
        assets, options.output / "training", save_step=1, save_best_after=10**6, save_n_checkpoints=options.models,
        print_step=10**6, eval_split_size=options.clips, eval_split_max_size=options.clips,
    )  # fmt: skip
    args = config.model_args
    args.gpt_layers, args.gpt_n_model_channels, args.gpt_n_heads = options.layers, options.channels, 4
    args.decoder_input_dim = options.channels
    trainer = make_trainer(config)
    trainer.fit()
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        trainer.eval_epoch()
        seconds.append(time.perf_counter() - started)
    return Path(trainer.output_path), min(seconds)


if __name__ == "__main__":
    main()
