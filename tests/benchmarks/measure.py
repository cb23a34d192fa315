"""Time and peak memory of whole processes, as the operating system counts them. Linux and macOS.

This process must stay small: a child starts with the memory of its parent on its account until it has replaced its
program, so that nothing here may import torch or numpy.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.files import FULL_SIZE, SCALES, STEPS_PER_FILE
from tests.models.small_decoder import START

SLIM_SIZE = 1_860_000_000
"""About what an inference model takes."""

_BLOCK = 1 << 20
_SECTOR = 512

_AS_USERS = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of what is measured. With that variable, as in many containers, Python compiles numpy and everything
else anew in each process: 0.2 s more, a tenth of an average of three checkpoints."""


class Measurement(NamedTuple):
    """What one run took.

    Attributes:
        seconds: Wall time of the process, or of the part that it timed itself.
        peak_bytes: Largest resident set of the process and those it waited for.
        processor: Seconds that their threads were on a processor. Where a machine is busy with something else, wall
            time grows and this does not.
        read_bytes: What they read from the disk, because it was not in the page cache.
    """

    seconds: float
    peak_bytes: int
    processor: float
    read_bytes: int


def measure(command: Sequence[str | Path]) -> tuple[Measurement, str]:
    """Run a command after everything before it has reached the disk.

    Args:
        command: Program and arguments.

    Returns:
        What it took, and what it printed.

    Raises:
        SystemExit: When the command fails; its errors are on stderr.
    """
    os.sync()
    arguments = [str(argument) for argument in command]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, env=_AS_USERS)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)}: exit code {process.returncode}\n{printed}")
    unit = 1 if sys.platform == "darwin" else 1024
    processor = usage.ru_utime + usage.ru_stime
    return Measurement(seconds, usage.ru_maxrss * unit, processor, usage.ru_inblock * _SECTOR), printed


class Results:
    """The measurements of several ways to do one job, taken in turn, round by round."""

    def __init__(self) -> None:
        self._runs: dict[str, list[Measurement]] = {}

    def add(self, way: str, measurement: Measurement) -> None:
        """Note one run of a way and print it."""
        self._runs.setdefault(way, []).append(measurement)
        print(
            f"  {way:<52} {measurement.seconds:7.2f} s {measurement.peak_bytes / 1e9:8.3f} GB, processor "
            f"{measurement.processor:.2f} s, {measurement.read_bytes / 1e9:.2f} GB from the disk",
            flush=True,
        )

    def seconds(self, way: str) -> float:
        """Median wall time of a way."""
        return statistics.median(run.seconds for run in self._runs[way])

    def peak(self, way: str) -> int:
        """Largest peak memory of a way, in bytes."""
        return max(run.peak_bytes for run in self._runs[way])

    def ratio(self, way: str, reference: str) -> float:
        """Median over the rounds of the time of a way by the time of another in the same round."""
        pairs = zip(self._runs[way], self._runs[reference], strict=True)
        return statistics.median(run.seconds / other.seconds for run, other in pairs)

    def print_table(self, reference: str) -> None:
        """Print every way with its time, as a multiple of the reference's too, and its peak memory."""
        print(f"\n{'way':<54} {'median':>8} {'from':>8} {'to':>8} {'ratio':>6} {'processor':>10} {'peak RSS':>11}")
        for way, runs in self._runs.items():
            times = [run.seconds for run in runs]
            ratio = f"{self.ratio(way, reference):.2f}" if len(runs) == len(self._runs[reference]) else "-"
            print(
                f"{way:<54} {self.seconds(way):6.2f} s {min(times):6.2f} s {max(times):6.2f} s {ratio:>6} "
                f"{statistics.median(run.processor for run in runs):8.2f} s {self.peak(way) / 1e9:8.3f} GB"
            )
        print(f"ratio: to '{reference}' of the same round, median of the rounds")


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options that the benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5, help="runs of every way (default 5)")
    parser.add_argument("--dir", type=Path, help="folder for the files, on the disk to measure (default: a temporary)")
    parser.add_argument("--keep", action="store_true", help="leave the input files in --dir, for the next run")
    parser.add_argument("--scale", choices=SCALES, default="full", help="small: to try the script, times say nothing")
    return parser


@contextmanager
def inputs(options: argparse.Namespace, *, files: int, outputs: int) -> Iterator[tuple[list[Path], Path]]:
    """Full-size checkpoints to work on, and an empty folder for what is made of them.

    Args:
        options: From a parser of `arguments`.
        files: How many checkpoints.
        outputs: Bytes on disk that the results take at one time.

    Yields:
        The checkpoints and the folder. Both are removed afterwards, the checkpoints unless they are to be kept.

    Raises:
        SystemExit: When the disk has not enough room.
    """
    if options.keep and options.dir is None:
        raise SystemExit("--keep needs --dir, the folder to keep the files in")
    base = options.dir or Path(tempfile.mkdtemp(prefix="xtts-export-benchmark-"))
    run = base / f"run-{options.scale}"
    results = base / "results"
    results.mkdir(parents=True)  # never somebody else's folder
    try:
        yield _checkpoints(run, files, options.scale, outputs), results
    finally:
        shutil.rmtree(results, ignore_errors=True)
        if not options.keep:
            shutil.rmtree(run, ignore_errors=True)
        if options.dir is None:
            base.rmdir()


def _checkpoints(run: Path, files: int, scale: str, outputs: int) -> list[Path]:
    paths = [run / f"checkpoint_{number * STEPS_PER_FILE}.pth" for number in range(1, files + 1)]
    smallest = FULL_SIZE if scale == "full" else 1
    present = 0
    while present < files and paths[present].is_file() and paths[present].stat().st_size >= smallest:
        present += 1
    if scale == "full":
        needed = (files - present) * FULL_SIZE + outputs
        free = shutil.disk_usage(run.parent).free
        print(f"{run.parent}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free", flush=True)
        if free < needed * 1.05:
            raise SystemExit(f"{run.parent}: not enough room; name a folder on another disk with --dir")
    if present < files:
        command = [sys.executable, "-m", "tests.benchmarks.files", str(run), "--scale", scale]
        subprocess.run([*command, "--files", str(files), "--first", str(present + 1)], check=True)
    return paths


def product(scale: str) -> list[str]:
    """What starts the package: at full scale the console script of this interpreter's environment.

    Raises:
        SystemExit: When the package is not installed there.
    """
    if scale == "small":
        return [*START, "xtts_export_callback"]
    script = Path(sys.executable).with_name("xtts-export")
    if not script.is_file():
        raise SystemExit(f"{script}: no such file; install the package first: pip install -e .")
    return [str(script)]


def warm(ranges: Sequence[tuple[Path, int, int]]) -> bool:
    """Bring parts of files into the page cache.

    Args:
        ranges: Path, offset and length of each part.

    Returns:
        False when they are more than half of the memory that is free for it, and nothing was done.
    """
    if sum(length for _, _, length in ranges) > available_memory() / 2:
        return False
    buffer = bytearray(_BLOCK)
    for path, start, length in ranges:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            left = length
            while left > 0 and (count := file.readinto(memoryview(buffer)[: min(left, _BLOCK)])):
                left -= count
    return True


def available_memory() -> int:
    """Bytes of memory that can still be had without swapping, page cache included."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) // 2


def print_machine() -> None:
    """Print what the figures depend on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    print(
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} cores, {memory / 1e9:.0f} GB "
        f"memory ({available_memory() / 1e9:.0f} GB available), load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}"
    )


def verdict(what: str, value: float, limit: float, unit: str) -> None:
    """Print a figure beside the most it should be."""
    print(f"{what}: {value:.3f}{unit}, at most {limit}{unit}: {'held' if value <= limit else 'EXCEEDED'}")
