"""What a full-size run takes on the disk: the stock recipe beside each option, written by the Trainer's own functions.

    python -m tests.benchmarks.bench_disk --dir /on/the/disk/to/measure

Every way saves two checkpoints and one best model with the real Trainer (`save_checkpoint`, `save_best_model`) of a
module with all tensors of a real fine-tune and AdamW's moments, waits for the exports, and counts what the file system
has allotted; a file with two names counts once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tests.benchmarks.files import FULL_SIZE, SCALES
from tests.models.small_decoder import small_decoder

WAYS: dict[str, dict[str, Any]] = {
    "stock recipe": {},
    "exports": {"enabled": True},
    "exports in bfloat16": {"enabled": True, "dtype": "bfloat16"},
    "link_best_model": {"enabled": True, "link_best_model": True},
    "best_model_state weights": {"enabled": True, "best_model_state": "weights"},
    "checkpoint_state weights": {"enabled": True, "checkpoint_state": "weights"},
    "keep_optimizer_for 1": {"enabled": True, "keep_optimizer_for": 1},
    "max_disk_gb 2": {"enabled": True, "max_disk_gb": 2.0},
    "keep_optimizer_for 1, best weights, linked": {
        "enabled": True,
        "keep_optimizer_for": 1,
        "best_model_state": "weights",
        "link_best_model": True,
    },
    "all weights, linked, max_disk_gb 2": {
        "enabled": True,
        "checkpoint_state": "weights",
        "best_model_state": "weights",
        "link_best_model": True,
        "max_disk_gb": 2.0,
    },
}


def run_of(output: Path, export: dict[str, Any], scale: str) -> Path:
    """Save two checkpoints and one best model, and return the run folder."""
    import torch

    from tests.benchmarks.bench_stall import train_one_step
    from tests.models.light import light_config, light_trainer

    config = light_config(output, export, scale=scale, epochs=1, save_step=1, save_n_checkpoints=2)
    trainer: Any = light_trainer(config)
    train_one_step(trainer, {"x": torch.zeros(1)})
    from trainer.generic_utils import KeepAverage

    trainer.keep_avg_train, trainer.keep_avg_eval = KeepAverage(), KeepAverage()
    for average in (trainer.keep_avg_train, trainer.keep_avg_eval):
        average.update_values({"avg_loss": 1.0})
    for step in (1000, 2000):
        trainer.total_steps_done = step
        trainer.save_checkpoint()
    trainer.total_steps_done = 2001
    trainer.save_best_model()
    trainer.callbacks.on_epoch_end(trainer)
    return Path(trainer.output_path)


def sizes(run: Path) -> tuple[int, int]:
    """Bytes of the Trainer's files and of the exports, as the file system has allotted them."""
    counted: set[int] = set()
    totals = [0, 0]
    for parent, _, names in os.walk(run):
        for name in names:
            stat = Path(parent, name).stat()
            if stat.st_ino not in counted:
                counted.add(stat.st_ino)
                totals["inference" in Path(parent).parts] += stat.st_blocks * 512
    return totals[0], totals[1]


def main() -> None:
    """Measure every way, each in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description="Count what a run takes on the disk.")
    parser.add_argument("--dir", type=Path, help="folder for the files (default: a temporary)")
    parser.add_argument("--scale", choices=SCALES, default="full", help="small: to try the script")
    options = parser.parse_args()
    import torch

    import tests.models.light  # noqa: F401 - once for all that are forked

    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports half of torch
    base = Path(tempfile.mkdtemp(prefix="xtts-export-disk-", dir=options.dir))
    try:
        if options.scale == "full" and shutil.disk_usage(base).free < 6 * FULL_SIZE:
            raise SystemExit(f"{base}: needs {6 * FULL_SIZE / 1e9:.0f} GB free")
        found = {name: _forked(base, export, options.scale) for name, export in WAYS.items()}
    finally:
        shutil.rmtree(base, ignore_errors=True)
    stock = sum(found["stock recipe"])
    print(f"{'way':<46} {'Trainer files':>14} {'exports':>10} {'together':>10} {'of stock':>9}")
    for name, (own, exports) in found.items():
        total = own + exports
        print(f"{name:<46} {own / 1e9:11.2f} GB {exports / 1e9:7.2f} GB {total / 1e9:7.2f} GB {total / stock:9.0%}")


def _forked(base: Path, export: dict[str, Any], scale: str) -> tuple[int, int]:
    """In a process of its own, so that every way starts with the memory free."""
    result = base / "result.json"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with small_decoder() if scale == "small" else nullcontext():
                result.write_text(json.dumps(sizes(run_of(base / "run", export, scale))))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    shutil.rmtree(base / "run", ignore_errors=True)
    if status:
        raise SystemExit(f"{export}: failed")
    own, exports = json.loads(result.read_text())
    return own, exports


if __name__ == "__main__":
    main()
