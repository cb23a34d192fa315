"""Export where the file system can share blocks, XFS and btrfs, beside ext4 which cannot: time and space of the disk.

    python -m tests.benchmarks.bench_clone --rounds 5 --dir /on/the/disk/to/measure

Makes each file system in a sparse file, one after the other, which needs root and 8 GB. On each it writes a full
checkpoint, exports it, and copies the result with `cp`. Each export starts with everything synced and the checkpoint in
the page cache, where the training has just left it. In the end the checkpoint is deleted and the export read again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from tests.benchmarks.measure import Results, arguments, measure, print_machine, product, verdict, warm
from tests.models.file_systems import CLONING, SMALLEST, mounted, used_bytes

COPY = "cp and sync of the result"
READ = "xtts-export export, the source's checksums read"
KNOWN = "the helper's export of what the training has saved"

_SIZE = 12 << 30
_WAYS = (sys.executable, "-m", "tests.benchmarks.ways")


def main() -> None:
    """Measure every file system that the command line names."""
    parser = arguments("Time the export of a full checkpoint where blocks can be shared.")
    parser.add_argument("--file-systems", nargs="+", choices=SMALLEST, default=[*CLONING, "ext4"])
    parser.add_argument("--known", nargs=2, type=Path, help="internal: time one export of the helper")
    options = parser.parse_args()
    if options.known:
        print(*_known(options.known[0], options.known[1], options.scale))
        return
    print_machine()
    for kind in options.file_systems:
        with tempfile.TemporaryDirectory(dir=options.dir, prefix="xtts-export-clone-") as base:
            size = _SIZE if options.scale == "full" else None
            with mounted(kind, Path(base), size) as disk:
                _measure(kind, disk, options.rounds, options.scale)


def _measure(kind: str, disk: Path, rounds: int, scale: str) -> None:
    print(f"\n{kind}")
    run = disk / "run"
    subprocess.run([sys.executable, "-m", "tests.benchmarks.files", run, "--scale", scale], check=True)
    checkpoint, output, copy = run / "checkpoint_1000.pth", disk / "output", disk / "copy.pth"
    export: list[str | Path] = [*product(scale), "export", checkpoint, "--output", output]
    helper: list[str | Path] = [sys.executable, "-m", "tests.benchmarks.bench_clone"]
    helper += ["--known", checkpoint, output, "--scale", scale]
    results, space = Results(), dict.fromkeys((KNOWN, READ, COPY), 0)
    for number in range(1, rounds + 1):
        print(f"round {number} of {rounds}")
        for way, command in ((KNOWN, helper), (READ, export)):
            shutil.rmtree(output, ignore_errors=True)
            warm([(checkpoint, 0, checkpoint.stat().st_size)])
            before = used_bytes(disk)
            found, printed = measure(command)
            if way == KNOWN:
                seconds, processor = map(float, printed.split())
                found = found._replace(seconds=seconds, processor=processor)
            results.add(way, found)
            space[way] = max(space[way], used_bytes(disk) - before)
        model = output / "model.pth"
        warm([(model, 0, model.stat().st_size)])
        before = used_bytes(disk)
        results.add(COPY, measure(["sh", "-c", 'cp --reflink=never "$1" "$2" && sync "$2"', "sh", model, copy])[0])
        space[COPY] = max(space[COPY], used_bytes(disk) - before)
        copy.unlink()
    results.print_table(COPY)
    for way, nbytes in space.items():
        print(f"{way:<54} {nbytes / 1e6:10.2f} MB more of {kind} in use")
    if kind in CLONING and scale == "full":
        verdict(f"{kind}, checksums read, against cp and sync", results.ratio(READ, COPY), 0.5, "")
        verdict(f"{kind}, checksums known", results.seconds(KNOWN), 0.15, " s")
        verdict(f"{kind}, space of an export", max(space[KNOWN], space[READ]) / 1e6, 5, " MB")
    _check(output, checkpoint, scale)


def _check(output: Path, checkpoint: Path, scale: str) -> None:
    """Hold the export to what a copied one passes, and read it again when its source is gone."""
    model = output / "model.pth"
    measure([*_WAYS, "check-mean", model, checkpoint])
    print("every tensor bit for bit the checkpoint's, read by torch.load(mmap=True)")
    checkpoint.unlink()
    subprocess.run(["sync", "-f", output], check=True)
    with model.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read the file system, not the cache
    with zipfile.ZipFile(model) as archive:
        assert archive.testzip() is None
    measure([*product(scale), "verify", output])
    print("the checkpoint deleted: zipfile and xtts-export verify read the export anew and find no fault")


def _known(checkpoint: Path, output: Path, scale: str) -> tuple[float, float]:
    """Export as the helper process does in a training: it runs already, and knows what the training has written.

    Returns:
        Wall time and processor time of the second export, when everything is imported.
    """
    from contextlib import nullcontext

    from tests.models.small_decoder import small_decoder
    from xtts_export_callback.files.paths import signature
    from xtts_export_callback.process import prepare_process
    from xtts_export_callback.training.worker import perform

    prepare_process()  # as the helper does when it starts
    with small_decoder() if scale == "small" else nullcontext():
        job = {"source": str(checkpoint), "known_as": str(checkpoint), "target": str(output), "stored": {}}
        for _ in range(2):  # the first has the modules imported
            shutil.rmtree(output, ignore_errors=True)
            os.sync()
            started, on_processor = time.perf_counter(), time.process_time()
            done = perform({"task": "export", "written_as": list(signature(checkpoint)), **job})
            seconds, processor = time.perf_counter() - started, time.process_time() - on_processor
            if not done["ok"]:
                raise SystemExit(done["error"])
    return seconds, processor


if __name__ == "__main__":
    main()
