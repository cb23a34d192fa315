"""What the running mean adds to a step of training: a real GPTTrainer at full size, under the real Trainer.

    python -m tests.benchmarks.bench_running_mean --dir /on/a/disk

Prints the median seconds of a training step, of an update of the sums in it, and their share for `running_mean_every`.
On a GPU, by arithmetic: an update moves 36 bytes a weight (4 read, 8 written and read as float64, 8 read and 8 written
of the sum, and the copy), 15.8 GB for the 438 million of XTTS v2; at 1 TB/s and every tenth step that is 1.6 ms of a
step that takes 300 ms or more.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.models.trainings import train
from xtts_export_callback.demo.tiny_model import tiny_trainer_config, write_tiny_assets
from xtts_export_callback.training.callback import export_callbacks
from xtts_export_callback.training.config import ExportConfig
from xtts_export_callback.training.running_mean import RunningMean

_FULL = {"gpt_layers": 30, "gpt_n_model_channels": 1024, "gpt_n_heads": 16, "decoder_input_dim": 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, help="folder for the files, which are removed afterwards")
    parser.add_argument("--way", choices=("mean", "ema"), default="mean")
    parser.add_argument("--layers", type=int, default=30, help="layers of the GPT (default: 30)")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=args.dir))
    updates: list[float] = []
    add = RunningMean._add

    def timed(self: RunningMean) -> None:
        started = time.perf_counter()
        add(self)
        updates.append(time.perf_counter() - started)

    RunningMean._add = timed  # type: ignore[method-assign]
    steps: list[float] = []
    began: list[float] = []
    events = {
        "on_train_step_start": lambda _: began.append(time.perf_counter()),
        "on_train_step_end": lambda _: steps.append(time.perf_counter() - began[-1]),
    }
    try:
        export = ExportConfig(enabled=True, running_mean=args.way, running_mean_every=1)
        config: Any = tiny_trainer_config(
            write_tiny_assets(folder / "files"),
            folder / "runs",
            epochs=1,
            export=export,
            save_best_after=10**9,
            save_step=10**9,
            test_sentences=[],
            run_eval=False,
        )
        for name, value in {**_FULL, "gpt_layers": args.layers}.items():
            setattr(config.model_args, name, value)
        config.save_checkpoints = False
        trainer = train(config, export_callbacks(config, events))
        weights = sum(each.numel() for each in trainer.model.xtts.gpt.parameters())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    plain = median([step - update for step, update in zip(steps, updates, strict=True)][1:])
    update = median(updates[1:])
    print(f"{weights:,} weights, sums of {8 * weights / 1e9:.2f} GB; medians of {len(steps) - 1} steps")
    print(f"step {plain:.3f} s, update {update:.3f} s")
    for every in (1, 10, 50):
        print(f"running_mean_every {every}: {update / every / plain:.2%} of a step")


if __name__ == "__main__":
    main()
