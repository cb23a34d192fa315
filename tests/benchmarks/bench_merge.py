"""Merging at full size: time beside the floor, the usual script and mergekit-pytorch; memory of every method.

    python -m tests.benchmarks.bench_merge --rounds 5 --dir /on/the/disk/to/measure --mergekit ENV/bin/mergekit-pytorch
    python -m tests.benchmarks.bench_merge --memory --dir ...
    python -m tests.benchmarks.bench_merge --growth

The ratio to the floor differs from day to day because the floor does: it is kernel time, 0.9 to 3.6 s of processor for
the same bytes, by how fast the system finds memory for what it reads and writes (fast after torch has given back 10 GB,
so that `--without-script` differs). Ours takes 2.6 to 3 s of processor on two cores, and 1.8 to 2.1 s, on all of them.

mergekit wants an environment of its own. It cannot open what the Trainer saves, so it gets slim files that are a bare
state_dict of float tensors, written for it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.measure import (
    SLIM_SIZE,
    Results,
    arguments,
    available_memory,
    inputs,
    measure,
    print_machine,
    product,
    verdict,
    warm,
)
from tests.benchmarks.ways import needed_ranges

OURS = "xtts-export average, full files (verified, synced)"
FLOOR = "floor: read the needed bytes once, write, sync"
SCRIPT = "torch: load all, sum, save (not synced)"
OURS_SLIM = "xtts-export average, 5 slim files (verified, synced)"
MERGEKIT = "mergekit-pytorch --lazy-unpickle, 5 slim files"

_WAYS = (sys.executable, "-m", "tests.benchmarks.ways")
_CLI = [sys.executable, "-m", "xtts_export_callback"]
_SLIM_FILES = 5


def main() -> None:
    """Measure what the command line asks for."""
    parser = arguments("Time merges of full checkpoints and take their memory.")
    parser.add_argument("--files", type=int, default=3, help="how many checkpoints to average (default 3)")
    parser.add_argument("--mergekit", type=Path, help="the program mergekit-pytorch; left out without it")
    parser.add_argument("--without-script", action="store_true", help="leave out torch's way")
    parser.add_argument("--memory", action="store_true", help="take the memory of every method instead")
    parser.add_argument("--growth", action="store_true", help="take time and memory for 2 to 50 small files instead")
    options = parser.parse_args()
    if options.growth:
        options.scale = "small"
    if options.scale == "small":
        _CLI[:] = product(options.scale)
    print_machine()
    outputs = (_SLIM_FILES + 2) * SLIM_SIZE if options.mergekit else 2 * SLIM_SIZE
    files = 2 if options.growth else 3 if options.memory else options.files
    with inputs(options, files=files, outputs=outputs) as (checkpoints, folder):
        if options.growth:
            _growth(folder, options.rounds)
        elif options.memory:
            _memory(checkpoints, folder)
        else:
            # One after the other: together their files are more than the system can keep in memory.
            _full_files(checkpoints, folder, options.rounds, with_script=not options.without_script)
            if options.mergekit:
                _slim_files(checkpoints, folder, options.rounds, options.mergekit)


def _full_files(checkpoints: list[Path], folder: Path, rounds: int, *, with_script: bool) -> None:
    ranges = [part for path in checkpoints for part in needed_ranges(path)]
    warm(ranges)
    runs_script = with_script and sum(path.stat().st_size for path in checkpoints) + SLIM_SIZE < available_memory()
    if with_script and not runs_script:
        print(f"{SCRIPT}: left out, it needs more memory than there is")
    results = Results()
    for number in range(1, rounds + 1):
        print(f"full files, round {number} of {rounds}")
        warm(ranges)
        results.add(FLOOR, measure([*_WAYS, "floor", folder / "floor.bin", *checkpoints])[0])
        (folder / "floor.bin").unlink()
        warm(ranges)
        output = folder / "ours"
        results.add(OURS, measure([*_CLI, "average", *checkpoints, "--output", output])[0])
        if number == 1:
            subprocess.run([*_WAYS, "check-mean", str(output / "model.pth"), *map(str, checkpoints)], check=True)
        shutil.rmtree(output)
        if runs_script:
            warm(ranges)
            results.add(SCRIPT, measure([*_WAYS, "torch-average", folder / "script.pth", *checkpoints])[0])
            (folder / "script.pth").unlink()
    results.print_table(FLOOR)
    verdict("time against the floor", results.ratio(OURS, FLOOR), 1.25, "")
    if runs_script:
        verdict("time against the script", results.ratio(OURS, SCRIPT), 1 / 6, "")
    verdict("peak memory", results.peak(OURS) / 1e9, 0.15, " GB")


def _slim_files(checkpoints: list[Path], folder: Path, rounds: int, mergekit: Path) -> None:
    slim = _write_slim_files(checkpoints, folder)
    ranges = [(path, 0, path.stat().st_size) for path in slim]
    assets: list[str | Path] = ["--vocab", slim[0].parent / "vocab.json", "--config", slim[0].parent / "config.json"]
    recipe = folder / "mergekit.yaml"
    entries = [{"model": str(path), "parameters": {"weight": 1.0}} for path in slim]
    recipe.write_text(json.dumps({"merge_method": "linear", "models": entries, "dtype": "float32"}), encoding="utf-8")
    results = Results()
    for number in range(1, rounds + 1):
        print(f"slim files, round {number} of {rounds}")
        warm(ranges)
        output = folder / "ours"
        results.add(OURS_SLIM, measure([*_CLI, "average", *slim, *assets, "--output", output])[0])
        shutil.rmtree(output)
        warm(ranges)
        output = folder / "mergekit"
        results.add(MERGEKIT, measure([mergekit, recipe, output, "--lazy-unpickle"])[0])
        shutil.rmtree(output)
    results.print_table(OURS_SLIM)
    verdict("time against mergekit-pytorch", results.ratio(OURS_SLIM, MERGEKIT), 1 / 3, "")


def _write_slim_files(checkpoints: list[Path], folder: Path) -> list[Path]:
    """Five files of the inference model alone, three different ones and two of them once more."""
    run = folder / "slim"
    run.mkdir()
    shutil.copy(checkpoints[0].parent / "vocab.json", run)
    shutil.copy(checkpoints[0].parent / "config.json", run)
    paths = []
    for number in range(_SLIM_FILES):
        path = run / f"slim_{number}.pth"
        subprocess.run([*_WAYS, "bare", str(path), str(checkpoints[number % len(checkpoints)])], check=True)
        paths.append(path)
    return paths


def _memory(checkpoints: list[Path], folder: Path) -> None:
    three, ten = checkpoints, [checkpoints[number % 3] for number in range(10)]
    base: list[str | Path] = ["--base", checkpoints[2]]
    jobs: list[tuple[str, float, list[str | Path]]] = [
        ("average of 3", 0.15, ["average", *three]),
        ("average of 10 (3 files, named again)", 0.15, ["average", *ten]),
        ("average of 3 to bfloat16", 0.15, ["average", *three, "--dtype", "bfloat16"]),
        ("slerp", 0.4, ["merge", *three[:2], "--method", "slerp"]),
        ("task_arithmetic", 0.4, ["merge", *three[:2], "--method", "task_arithmetic", *base]),
        ("interpolate", 0.4, ["merge", *three[:1], "--method", "interpolate", *base]),
        ("ties of 2", 0.4, ["merge", *three[:2], "--method", "ties", *base]),
        ("ties of 9", 0.4, ["merge", *ten[:9], "--method", "ties", *base]),
    ]
    for label, limit, job in jobs:
        measurement, _ = measure([*_CLI, *job, "--output", folder / "out"])
        shutil.rmtree(folder / "out")
        print(f"{label:<40} {measurement.seconds:7.2f} s", flush=True)
        verdict("  peak memory of the process", measurement.peak_bytes / 1e9, limit, " GB")


def _growth(folder: Path, rounds: int) -> None:
    """Time by number of files has to be a line, and memory flat."""
    many = folder / "many"  # written by another process: what this one has in memory counts for its children
    command = [sys.executable, "-m", "tests.benchmarks.files", str(many), "--files", "50", "--scale", "small"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    paths = sorted(many.glob("*.pth"), key=lambda path: int(path.stem.rpartition("_")[2]))
    results = Results()
    counts = (2, 5, 10, 20, 30, 40, 50)
    for _ in range(rounds):
        for count in counts:
            results.add(f"{count} files", measure([*_CLI, "average", *paths[:count], "--output", folder / "out"])[0])
            shutil.rmtree(folder / "out")
    results.print_table(f"{counts[0]} files")
    few, half, all_ = (results.seconds(f"{count} files") for count in (2, 20, 50))
    verdict(
        "time added by files 21 to 50, by that of files 3 to 20, per file",
        ((all_ - half) / 30) / ((half - few) / 18),
        1.5,
        "",
    )
    verdict("memory for 50 files by that for 2", results.peak("50 files") / results.peak("2 files"), 1.5, "")


if __name__ == "__main__":
    main()
