"""Mean of full checkpoints against the floor, reading and writing the same bytes once, and the usual script.

python -m tests.benchmarks.bench_average --rounds 5 --files 3 --dir /on/the/disk/to/measure
"""

from __future__ import annotations

import shutil
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

OURS = "xtts-export average (verified and synced)"
FLOOR = "floor: read the needed bytes once, write, sync"
SCRIPT = "torch: load all, sum, save (not synced)"

_WAYS = (sys.executable, "-m", "tests.benchmarks.ways")


def main() -> None:
    """Run every way in turn, as many rounds as asked for, and print the table."""
    parser = arguments("Time the mean of full checkpoints.")
    parser.add_argument("--files", type=int, default=3, help="how many checkpoints to average (default 3)")
    options = parser.parse_args()
    print_machine()
    with inputs(options, files=options.files, outputs=2 * SLIM_SIZE) as (checkpoints, folder):
        ranges = [part for path in checkpoints for part in needed_ranges(path)]
        needed = sum(length for _, _, length in ranges)
        cached = warm(ranges)
        print(
            f"inputs: {options.files} files, {needed:,} bytes needed of them, "
            f"{'in' if cached else 'too many for'} the page cache before each run"
        )
        script_fits = sum(path.stat().st_size for path in checkpoints) + SLIM_SIZE < available_memory()
        if not script_fits:
            print(f"{SCRIPT}: left out, it needs more memory than there is")
        results = Results()
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}")
            _one_round(results, checkpoints, folder, check=number == 1, script=script_fits)
        results.print_table(FLOOR)
        if options.scale == "full":
            verdict("time against the floor", results.ratio(OURS, FLOOR), 1.5, "")
            verdict("peak memory", results.peak(OURS) / 1e9, 0.15, " GB")


def _one_round(results: Results, checkpoints: list[Path], folder: Path, *, check: bool, script: bool) -> None:
    ranges = [part for path in checkpoints for part in needed_ranges(path)]
    ours, other = folder / "ours", folder / "other.pth"

    warm(ranges)
    results.add(OURS, measure([product(), "average", *checkpoints, "--output", ours])[0])
    if check:
        result = next(ours.rglob("model.pth"))
        measure([*_WAYS, "check-mean", result, *checkpoints])
        print(f"  {result.stat().st_size:,} bytes, every tensor the mean rounded once")
    shutil.rmtree(ours)

    warm(ranges)
    results.add(FLOOR, measure([*_WAYS, "floor", other, *checkpoints])[0])
    other.unlink()

    if script:
        warm(ranges)
        results.add(SCRIPT, measure([*_WAYS, "torch-average", other, *checkpoints])[0])
        other.unlink()


if __name__ == "__main__":
    main()
