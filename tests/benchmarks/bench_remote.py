"""Looking at a checkpoint on a server and exporting it from there, against downloading it: bytes, time and memory.

The server is one of this machine, on the loopback address, in a process of its own. It counts what it sends. It also
cuts off ten answers in the middle, and sends as fast as a line of 200 MB/s.

python -m tests.benchmarks.bench_remote --rounds 3 --dir /on/the/disk/to/measure
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import SLIM_SIZE, Results, arguments, inputs, measure, print_machine, product, verdict
from xtts_export_callback.checkpoint import open_checkpoint

INSPECT = "xtts-export inspect URL"
EXPORT = "xtts-export export URL"
BROKEN = "the same, ten broken connections"
LOCAL = "xtts-export export of the file on this disk"
CURL = "curl of the whole file, written nowhere"
SLOW = ", 200 MB/s"
_LINE = 200e6
_BROKEN = 10


def main() -> None:
    """Run every way in turn, as many rounds as asked for, and print the table."""
    options = arguments("Time an export from a server.").parse_args()
    print_machine()
    os.environ["SOURCE_DATE_EPOCH"] = "0"  # for exports of equal bytes
    program = product(options.scale)
    sent: dict[str, list[int]] = {}
    with inputs(options, files=1, outputs=SLIM_SIZE) as ((checkpoint,), folder):
        subprocess.run([*program, "export", checkpoint, "--output", folder / "out", "-q"], check=True)
        expected = _digest(folder / "out" / "model.pth")
        shutil.rmtree(folder / "out")
        results = Results()
        for number in range(1, options.rounds + 1):
            print(f"round {number} of {options.rounds}")
            for way, (command, server_options) in _ways(checkpoint, folder / "out", program).items():
                with _server(checkpoint.parent, server_options) as (url, stop):
                    results.add(way, measure([str(part).replace("URL", url) for part in command])[0])
                    found = stop()
                sent.setdefault(way, []).append(found["sent"].get(checkpoint.name, 0))
                if way == BROKEN and found["broken"] != _BROKEN * (options.scale == "full"):
                    raise SystemExit(f"{found['broken']} connections were broken, expected {_BROKEN}")
                _check(folder / "out", expected)
        results.print_table(CURL)
        for way, counts in sent.items():
            print(f"{way:<54} sent {max(counts):>13,} bytes of {checkpoint.stat().st_size:,}")
        if options.scale == "full":
            verdict("inspect, bytes sent", max(sent[INSPECT]) / 1e6, 2, " MB")
            verdict("export, bytes sent", max(sent[EXPORT]) / 1e9, 1.87, " GB")
            verdict("export, peak memory", results.peak(EXPORT) / 1e9, 0.25, " GB")


def _ways(checkpoint: Path, out: Path, program: list[str]) -> dict[str, tuple[list[str | Path], list[str]]]:
    url = f"URL/{checkpoint.name}"
    export: list[str | Path] = [*program, "export", url, "--output", out, "-q"]
    curl: list[str | Path] = ["curl", "--silent", "--show-error", "--output", os.devnull, url]
    slowly = ["--bytes-per-second", str(_LINE)]
    return {
        INSPECT: ([*program, "inspect", url, "-q"], []),
        EXPORT: (export, []),
        BROKEN: (export, ["--broken", str(_BROKEN)]),
        CURL: (curl, []),
        LOCAL: ([*program, "export", checkpoint, "--output", out, "-q"], []),
        EXPORT + SLOW: (export, slowly),
        CURL + SLOW: (curl, slowly),
    }


@contextmanager
def _server(folder: Path, options: list[str]) -> Iterator[tuple[str, Any]]:
    """Start the server; yield its address and a function that ends it and returns what it counted."""
    command = [sys.executable, "-m", "tests.models.file_server", str(folder), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), lambda: json.loads(process.communicate("")[0])


def _check(out: Path, expected: str) -> None:
    """Compare the weights of an export with those of the export of the file, and remove it."""
    if out.is_dir():
        if _digest(out / "model.pth") != expected:
            raise SystemExit(f"{out}: other weights than the export of the file on this disk")
        shutil.rmtree(out)


def _digest(path: Path) -> str:
    """Return the SHA-256 of all tensors; their places differ, since only files of a disk share blocks."""
    digest = hashlib.sha256()
    with open_checkpoint(path) as checkpoint:
        for name, tensor in checkpoint.tensors.items():
            digest.update(name.encode())
            digest.update(tensor.read().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
