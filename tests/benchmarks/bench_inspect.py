"""Looking at a full-size checkpoint, against loading it and against only importing torch; and comparing two models.

python -m tests.benchmarks.bench_inspect --rounds 5 --dir /on/the/disk/to/measure
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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

INSPECT = "xtts-export inspect (a table)"
HELP = "xtts-export --help"
VERSION = "xtts-export --version"
LOAD = "torch.load"
MAPPED = "torch.load(mmap=True)"
TORCH = 'python -c "import torch"'
NUMPY = 'python -c "import numpy"'
COMPARE = "xtts-export compare with its own export"


def main() -> None:
    """Run every way in turn, as many rounds as asked for, and print the table."""
    options = arguments("Time a look at a full checkpoint.").parse_args()
    print_machine()
    program = product(options.scale)
    with inputs(options, files=1, outputs=SLIM_SIZE) as ((checkpoint,), folder):
        _check_sizes(checkpoint, program)
        export = folder / "export"
        subprocess.run([*program, "export", checkpoint, "--output", export], check=True)
        whole = [(checkpoint, 0, checkpoint.stat().st_size)]
        results = Results()
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}")
            warm(whole)
            for way, command in _ways(checkpoint, export, program).items():
                results.add(way, measure(command)[0])
        results.print_table(TORCH)
        if options.scale == "full":
            verdict("inspect", results.seconds(INSPECT), 0.3, " s")
            verdict("inspect, peak memory", results.peak(INSPECT) / 1e6, 100, " MB")
            verdict("--help", results.seconds(HELP), 0.25, " s")
            verdict("--version", results.seconds(VERSION), 0.25, " s")
            verdict("compare, peak memory", results.peak(COMPARE) / 1e9, 0.15, " GB")


def _ways(checkpoint: Path, export: Path, program: list[str]) -> dict[str, list[str | Path]]:
    python = sys.executable
    load = "import sys, torch; torch.load(sys.argv[1], map_location='cpu', weights_only=True{})"
    return {
        INSPECT: [*program, "inspect", checkpoint],
        HELP: [*program, "--help"],
        VERSION: [*program, "--version"],
        NUMPY: [python, "-c", "import numpy"],
        TORCH: [python, "-c", "import torch"],
        MAPPED: [python, "-c", load.format(", mmap=True"), checkpoint],
        LOAD: [python, "-c", load.format(""), checkpoint],
        COMPARE: [*program, "compare", checkpoint, export],
    }


def _check_sizes(checkpoint: Path, program: list[str]) -> None:
    """Print the sizes that inspect finds, which have to add up to the file."""
    printed = subprocess.run([*program, "inspect", checkpoint, "--json"], check=True, stdout=subprocess.PIPE).stdout
    components = json.loads(printed)["components"]
    for key, part in components.items():
        print(f"  {key:<16} {part['bytes']:>14,}")
    found = sum(part["bytes"] for part in components.values())
    print(f"  {'sum':<16} {found:>14,}")
    print(f"  {'file':<16} {checkpoint.stat().st_size:>14,}")
    if found != checkpoint.stat().st_size:
        raise SystemExit("the sizes do not add up to the file")


if __name__ == "__main__":
    main()
