"""What averaging does to the evaluation loss, on a real run of a small XTTS.

    python -m tests.benchmarks.bench_average_loss --dataset LJSPEECH_FOLDER --output FOLDER

Trains a GPT of a few layers with the real Trainer, saves a checkpoint after every epoch, averages the last N and
evaluates every checkpoint and every mean on the same clips with the same random conditioning segments.
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path
from typing import Any

COUNTS = (2, 3, 4, 6)


def main() -> None:
    """Train, average, evaluate and print."""
    parser = argparse.ArgumentParser(description="Evaluation loss of single checkpoints and of their means.")
    parser.add_argument("--dataset", type=Path, required=True, help="folder in LJSpeech's format")
    parser.add_argument("--output", type=Path, required=True, help="empty folder for the run, about 3 GB")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=5, help="evaluations of each model (default 5)")
    options = parser.parse_args()
    run, evaluate = _train(options)
    from xtts_export_callback import average_checkpoints
    from xtts_export_callback.run.checkpoints import find_checkpoints

    saved = [one for one in find_checkpoints(run) if one.kind == "checkpoint"][-max(COUNTS) :]
    singles = {f"checkpoint_{one.step}": evaluate(one.path) for one in saved}
    means = {}
    for count in COUNTS:
        folder = average_checkpoints([one.path for one in saved[-count:]], run / "inference" / f"average_last_{count}")
        means[f"average of the last {count}"] = evaluate(folder.path / "model.pth")
    for name, losses in {**singles, **means}.items():
        print(f"{name:<24} eval loss {statistics.mean(losses):.4f}  (from {min(losses):.4f} to {max(losses):.4f})")
    best = min(statistics.mean(losses) for losses in singles.values())
    better = [name for name, losses in means.items() if statistics.mean(losses) < best]
    print(f"better than the best single checkpoint ({best:.4f}): {', '.join(better) or 'none'}")


def _train(options: argparse.Namespace) -> tuple[Path, Any]:
    """A finished run, and a function from a file to its evaluation losses, one for each seed."""
    import numpy as np
    import torch

    from tests.models.trainings import make_trainer
    from xtts_export_callback.demo.tiny_model import tiny_trainer_config, write_tiny_assets

    assets = write_tiny_assets(options.output / "assets")
    config: Any = tiny_trainer_config(
        assets, options.output / "training", epochs=options.epochs, lr=options.lr, save_best_after=10**6,
        save_n_checkpoints=max(COUNTS), save_checkpoints=True, save_step=10**6, print_step=10**6,
    )  # fmt: skip
    config.datasets[0].path = str(options.dataset)
    args = config.model_args
    args.gpt_layers, args.gpt_n_model_channels, args.gpt_n_heads = options.layers, options.channels, 4
    args.decoder_input_dim = options.channels
    args.max_wav_length, args.gpt_max_audio_tokens, args.gpt_max_text_tokens, args.max_text_length = (
        255995,
        605,
        402,
        400,
    )
    trainer = make_trainer(config, {"on_epoch_end": lambda trainer: trainer.save_checkpoint()})
    trainer.fit()

    def evaluate(path: Path) -> list[float]:
        losses = []
        state = trainer.model.xtts.get_compatible_checkpoint_state_dict(path)
        trainer.model.xtts.load_state_dict(state)
        for seed in range(options.seeds):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            trainer.keep_avg_eval = None
            with torch.no_grad():
                trainer.eval_epoch()
            losses.append(float(trainer.keep_avg_eval["avg_loss"]))
        return losses

    return Path(trainer.output_path), evaluate


if __name__ == "__main__":
    main()
