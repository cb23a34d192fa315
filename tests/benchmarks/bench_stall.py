"""How long exports hold up training, and what they cost in memory: one run at full size, with us and without.

    python -m tests.benchmarks.bench_stall --saves 5 --dir /on/the/disk/to/measure

The real Trainer saves a module with all tensors of a real fine-tune and AdamW's moments. The first way is the stock
recipe; its save is timed as it is. In the second the callback is on: the time in our hooks is all of a save that is not
the Trainer's own `torch.save`, and all of our other events.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tests.benchmarks.files import FULL_SIZE, SCALES
from tests.models.small_decoder import small_decoder

_LOOK_EVERY = 0.05  # seconds
_BETWEEN = 30.0  # seconds of training between saves; real ones are minutes apart


def one_way(output: Path, way: str, saves: int, scale: str) -> dict[str, Any]:
    """Train in this process and return the times of the saves, of our hooks, and the memory at its peak."""
    import torch

    from tests.models.light import light_config, light_trainer

    export = {"enabled": way == "with us"}
    config = light_config(
        output, export, scale=scale, epochs=1000, save_step=1, save_n_checkpoints=1, save_best_after=10**9
    )
    trainer: Any = light_trainer(config)
    writing: list[float] = []
    write = torch.save

    def timed_write(*arguments: Any, **options: Any) -> None:
        started = time.perf_counter()
        write(*arguments, **options)
        writing.append(time.perf_counter() - started)

    torch.save = timed_write
    batch = {"x": torch.zeros(1)}
    train_one_step(trainer, batch)  # the optimizer's state is there from now on
    memory = _Memory()
    times: list[float] = []
    for number in range(1, saves + 1):
        trainer.total_steps_done = number
        os.sync()
        started = time.perf_counter()
        trainer.save_checkpoint()
        times.append(time.perf_counter() - started)
        until = time.perf_counter() + (_BETWEEN if export["enabled"] and scale == "full" else 1.0)
        while time.perf_counter() < until:
            time.sleep(0.1)
            trainer.callbacks.on_train_step_end(trainer)
    trainer.epochs_done = config.epochs - 1
    started = time.perf_counter()
    trainer.callbacks.on_epoch_end(trainer)
    at_end = time.perf_counter() - started
    own, helper = memory.stop()
    return {"save": times, "torch.save": writing, "end": at_end, "own": own, "before": memory.before, "helper": helper}


def train_one_step(trainer: Any, batch: dict[str, Any]) -> None:
    """One step of the optimizer, after which it has its state."""
    _, losses = trainer.model.train_step(batch, None)
    losses["loss"].backward()
    optimizer = trainer.optimizer[0] if isinstance(trainer.optimizer, list) else trainer.optimizer
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class _Memory:
    """Peaks of what this process and its children hold for themselves (anonymous memory), from the kernel's books.

    Attributes:
        before: What this process held at the beginning. How much training leaves behind differs by hundreds of
            megabytes from run to run.
    """

    def __init__(self) -> None:
        self._helper = 0
        self._own = self.before = _anonymous(os.getpid())
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[int, int]:
        self._done.set()
        self._thread.join()
        return self._own, self._helper

    def _look(self) -> None:
        me = os.getpid()
        while not self._done.wait(_LOOK_EVERY):
            self._own = max(self._own, _anonymous(me))
            children = Path(f"/proc/{me}/task").glob("*/children")
            for pid in {int(pid) for path in children for pid in path.read_text().split()}:
                if _is_helper(pid):
                    self._helper = max(self._helper, _status(pid, "VmHWM"))


def _is_helper(pid: int) -> bool:
    """Until a child has replaced its program, the memory of this process stands under its name."""
    try:
        return b"xtts_export_callback.training.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _anonymous(pid: int) -> int:
    return _status(pid, "RssAnon") + _status(pid, "VmSwap")


def _status(pid: int, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def main() -> None:
    """Measure both ways, each in a process of its own, and print what they took."""
    parser = argparse.ArgumentParser(description="Time what exports hold up training.")
    parser.add_argument("--saves", type=int, default=5, help="saves of either way (default 5)")
    parser.add_argument("--dir", type=Path, help="folder for the files, on the disk to measure (default: a temporary)")
    parser.add_argument("--scale", choices=SCALES, default="full", help="small: to try the script, times say nothing")
    parser.add_argument("--way", choices=("stock", "with us"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        with small_decoder() if options.scale == "small" else nullcontext():
            print(json.dumps(one_way(options.dir, options.way, options.saves, options.scale)))
        return
    base = Path(tempfile.mkdtemp(prefix="xtts-export-stall-", dir=options.dir))
    try:
        if options.scale == "full" and shutil.disk_usage(base).free < 4 * FULL_SIZE:
            raise SystemExit(f"{base}: needs {4 * FULL_SIZE / 1e9:.0f} GB free")
        results = {way: _measured(base, way, options) for way in ("stock", "with us")}
    finally:
        shutil.rmtree(base, ignore_errors=True)
    stock, ours = results["stock"], results["with us"]
    print(f"{'save':>4} {'stock save':>11} {'with us':>9} {'torch.save':>11} {'our hooks':>10} {'ratio':>7}")
    for number, (plain, save, write) in enumerate(zip(stock["save"], ours["save"], ours["torch.save"], strict=True), 1):
        hooks = save - write
        print(f"{number:4} {plain:9.2f} s {save:7.2f} s {write:9.2f} s {hooks:8.3f} s {hooks / write:7.2%}")
    hooks = sum(ours["save"]) - sum(ours["torch.save"])
    print(
        f"our hooks over the Trainer's save, {options.saves} saves: {hooks / sum(ours['torch.save']):.2%} (at most 2%)"
    )
    print(f"saves with us over stock saves: {sum(ours['save']) / sum(stock['save']):.2f}")
    print(f"waited at the end for the last export: {ours['end']:.1f} s")
    for way, result in results.items():
        before, grown = result["before"] / 1e6, (result["own"] - result["before"]) / 1e6
        print(f"training process, {way}: {before:.0f} MB before the first save, {grown:+.0f} MB at its peak")
    growth = (ours["own"] - ours["before"] - stock["own"] + stock["before"]) / 1e6
    print(f"memory of the training process that is ours: {growth:+.0f} MB (at most +50)")
    print(f"peak of the helper process: {ours['helper'] / 1e6:.0f} MB (at most 150)")


def _measured(base: Path, way: str, options: argparse.Namespace) -> dict[str, Any]:
    folder = base / way.replace(" ", "-")
    command = [sys.executable, "-m", "tests.benchmarks.bench_stall", "--way", way, "--dir", str(folder)]
    done = subprocess.run(
        [*command, "--saves", str(options.saves), "--scale", options.scale], stdout=subprocess.PIPE, check=True
    )
    shutil.rmtree(folder)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
