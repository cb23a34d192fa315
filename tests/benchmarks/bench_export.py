"""Export of a full checkpoint against `cp` and `sync` of the result, and against what people do today.

python -m tests.benchmarks.bench_export --rounds 5 --dir /on/the/disk/to/measure
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.benchmarks.files import FULL_SIZE
from tests.benchmarks.measure import (
    SLIM_SIZE,
    Results,
    arguments,
    inputs,
    measure,
    print_machine,
    product,
    verdict,
    warm,
)

OURS = "xtts-export export (verified and synced)"
COPY = "cp and sync of the result"
FLOOR = "read the needed bytes, write them, sync"
USUAL = "torch.load, filter, torch.save (not synced)"
TRAINER = "the Trainer's own save of all (not synced)"
TRAINER_SYNCED = "the Trainer's own save of all, and sync"

_WAYS = (sys.executable, "-m", "tests.benchmarks.ways")


def main() -> None:
    """Run every way in turn, as many rounds as asked for, and print the table."""
    options = arguments("Time the export of a full checkpoint.").parse_args()
    print_machine()
    with inputs(options, files=1, outputs=FULL_SIZE + 2 * SLIM_SIZE) as ((checkpoint,), folder):
        cached = warm([(checkpoint, 0, checkpoint.stat().st_size)])
        print(
            f"input: {checkpoint.stat().st_size:,} bytes, {'in' if cached else 'not in'} the page cache before each run"
        )
        results = Results()
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}")
            _one_round(results, checkpoint, folder, product(options.scale), check=number == 1)
        results.print_table(COPY)
        if options.scale == "full":
            verdict("time against cp and sync", results.ratio(OURS, COPY), 1.25, "")
            verdict("peak memory", results.peak(OURS) / 1e9, 0.15, " GB")


def _one_round(results: Results, checkpoint: Path, folder: Path, program: list[str], *, check: bool) -> None:
    whole = [(checkpoint, 0, checkpoint.stat().st_size)]
    ours, other = folder / "ours", folder / "other.pth"

    warm(whole)
    results.add(OURS, measure([*program, "export", checkpoint, "--output", ours])[0])
    result = next(ours.rglob("model.pth"))
    if check:
        measure([*_WAYS, "check-mean", result, checkpoint])
        print(f"  {result.stat().st_size:,} bytes, every tensor bit for bit the checkpoint's")

    warm([(result, 0, result.stat().st_size)])
    results.add(COPY, measure(["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", result, other])[0])
    other.unlink()
    shutil.rmtree(ours)

    for way, name in ((FLOOR, "floor"), (USUAL, "torch-export")):
        warm(whole)
        results.add(way, measure([*_WAYS, name, other, checkpoint])[0])
        other.unlink()

    warm(whole)
    whole_process, printed = measure([*_WAYS, "trainer-save", other, checkpoint])
    save, synced = map(float, printed.split())
    results.add(TRAINER, whole_process._replace(seconds=save))
    results.add(TRAINER_SYNCED, whole_process._replace(seconds=synced))
    other.unlink()


if __name__ == "__main__":
    main()
