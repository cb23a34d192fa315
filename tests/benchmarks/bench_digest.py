"""Which hash an export can afford: nothing, BLAKE3 or SHA-256 of every byte that is read back, and the floor.

python -m tests.benchmarks.bench_digest --rounds 7 --dir /on/the/disk/to/measure
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

from tests.benchmarks.files import FULL_SIZE
from tests.benchmarks.measure import SLIM_SIZE, Results, arguments, inputs, measure, print_machine, verdict, warm

NONE, BLAKE3, SHA256 = "export without a hash", "export with BLAKE3 (as it is)", "export with SHA-256"
FLOOR = "read the needed bytes, write them, sync"
_WAYS = {NONE: "none", BLAKE3: "blake3", SHA256: "sha256"}


def main() -> None:
    """Run every way in turn, as many rounds as asked for, and print the table."""
    if sys.argv[1:2] == ["export"]:
        _export(*sys.argv[2:])
        return
    options = arguments("Time the export of a full checkpoint with several hashes.").parse_args()
    print_machine()
    with inputs(options, files=1, outputs=FULL_SIZE + 2 * SLIM_SIZE) as ((checkpoint,), folder):
        results = Results()
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}")
            _one_round(results, checkpoint, folder, options.scale)
        results.print_table(NONE)
        if options.scale == "full":
            verdict("time with BLAKE3 against none", results.ratio(BLAKE3, NONE), 1.10, "")


def _one_round(results: Results, checkpoint: Path, folder: Path, scale: str) -> None:
    whole = [(checkpoint, 0, checkpoint.stat().st_size)]
    for way, name in _WAYS.items():
        warm(whole)
        command = [sys.executable, "-m", "tests.benchmarks.bench_digest", "export", name, scale, str(checkpoint)]
        results.add(way, measure([*command, folder / "ours"])[0])
        shutil.rmtree(folder / "ours")
    warm(whole)
    results.add(
        FLOOR, measure([sys.executable, "-m", "tests.benchmarks.ways", "floor", folder / "other", checkpoint])[0]
    )
    (folder / "other").unlink()


def _export(name: str, scale: str, checkpoint: str, output: str) -> None:
    """Export in this process, with another hash in place of BLAKE3."""
    from contextlib import nullcontext
    from unittest.mock import patch

    from tests.models.small_decoder import small_decoder
    from xtts_export_callback.cli.main import main as command

    place = "xtts_export_callback.checkpoint.writer.new_digest"
    other = hashlib.sha256 if name == "sha256" else lambda: None
    sys.argv = ["xtts-export", "export", checkpoint, "--output", output]
    with (
        small_decoder() if scale == "small" else nullcontext(),
        nullcontext() if name == "blake3" else patch(place, other),
    ):
        if command() != 0:
            raise SystemExit("the export failed")


if __name__ == "__main__":
    main()
