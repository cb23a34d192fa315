"""Mutate valid checkpoints at random and report every file that makes the reader do anything but read or refuse.

    python -m tests.fuzz.fuzz_reader --minutes 10

Each case has a number of its own and nothing else decides what it is: ``--seed NUMBER --cases 1`` repeats one. A
finding is an exception other than ``CheckpointError``, a message that is not one line naming the file, more than ten
seconds or one gigabyte, a damaged file with checksums whose tensors read differently, or a model that was read but
cannot be written and read again. Linux only: the bounds are the system's.
"""

from __future__ import annotations

import argparse
import contextlib
import pickletools
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.models.damage import DAMAGES, FILES, PICKLE, PICKLE4, RECORDS, with_pickle, with_record
from xtts_export_callback.checkpoint import Checkpoint, Tensor, open_checkpoint, write_pth, write_safetensors
from xtts_export_callback.errors import CheckpointError

SECONDS, MEMORY = 10, 1 << 30

Read = dict[str, tuple[str, tuple[int, ...], bytes]]


class FindingError(Exception):
    """The reader did something that it must not do."""


# Mutations


def damage(data: bytes, chance: random.Random) -> bytes:
    """One to four random damages."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if changed:
            chance.choice(DAMAGES)(changed, chance.randrange(len(changed)), chance.randrange(1 << 16))
    return bytes(changed)


def operations(pickled: bytes) -> list[bytes]:
    """A pickle taken apart into its operations."""
    starts = [position for _, _, position in pickletools.genops(pickled)] + [len(pickled)]
    return [pickled[start:stop] for start, stop in pairwise(starts)]


OPERATIONS = operations(PICKLE) + operations(PICKLE4)
SIMPLE = [bytes((code,)) for code in b"(0123NtabelsuRQb\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94])}."]


def number(chance: random.Random) -> bytes:
    """An integer, most often one at which something overflows."""
    edges = [0, 3, 24, 255, 1 << 31, 1 << 32, 1 << 48, 1 << 62, 1 << 63, -(1 << 63), 1 << 70, 1 << 2030]
    value = chance.choice(edges)
    value += chance.choice([-1, 0, 1])
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<I", len(data)) + data


def operation(chance: random.Random) -> bytes:
    """Some operation."""
    kind = chance.randrange(6)
    if kind == 0:
        return chance.choice(SIMPLE)
    if kind == 1:
        return number(chance)
    if kind == 2:
        return b"h" + bytes((chance.randrange(60),))
    if kind == 3:
        return b"q" + bytes((chance.randrange(60),))
    return chance.choice(OPERATIONS)


def edit_program(pickled: bytes, chance: random.Random) -> bytes:
    """Change, insert, remove, swap or repeat whole operations."""
    program = operations(pickled)
    for _ in range(chance.randint(1, 6)):
        where = chance.randrange(len(program))
        match chance.randrange(6):
            case 0:
                program[where] = operation(chance)
            case 1:
                program.insert(where, operation(chance))
            case 2 if len(program) > 1:
                del program[where]
            case 3:
                other = chance.randrange(len(program))
                program[where], program[other] = program[other], program[where]
            case 4:
                part = program[where : where + chance.randint(1, 30)]
                program[where:where] = part * chance.choice([1, 2, 100])
            case _:
                program[where] = number(chance)
    return b"".join(program)


def write_program(chance: random.Random) -> bytes:
    """Operations one after the other, without a plan."""
    return b"\x80\x02" + b"".join(operation(chance) for _ in range(chance.randint(1, 60))) + b"."


def mutate_safetensors(chance: random.Random) -> bytes:
    """A damaged header, its length right most of the time, over the same data."""
    data = FILES["safetensors"]
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end]
    if chance.random() < 0.5:
        words = b'[ ] { } " , -1 0 null 1e9 999999999999999999999999 true "F64" "shape":'.split()
        where = chance.randrange(len(header))
        header = header[:where] + chance.choice(words) + header[where + chance.randrange(4) :]
    else:
        header = damage(header, chance)
    length = len(header) + (chance.choice([-1, 1, 8, 1 << 40]) if chance.random() < 0.1 else 0)
    return max(length, 0).to_bytes(8, "little") + header + data[end:]


def damage_record(chance: random.Random) -> bytes:
    """One record damaged, with the right checksum."""
    name = chance.choice(sorted(RECORDS))
    return with_record(name, damage(RECORDS[name], chance))


MUTATIONS: dict[str, Callable[[random.Random], bytes]] = {
    "zip": lambda chance: damage(FILES["zip"], chance),
    "zip without checksums": lambda chance: damage(FILES["zip without checksums"], chance),
    "zip directory": lambda chance: FILES["zip"][:-800] + damage(FILES["zip"][-800:], chance),
    "record": damage_record,
    "pickle bytes": lambda chance: with_pickle(damage(chance.choice([PICKLE, PICKLE4]), chance)),
    "pickle operations": lambda chance: with_pickle(edit_program(chance.choice([PICKLE, PICKLE4]), chance)),
    "pickle program": lambda chance: with_pickle(write_program(chance)),
    "safetensors": mutate_safetensors,
    "old format": lambda chance: damage(FILES["old format"], chance),
}


# What is done with each


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raise when the time or the memory for one case is used up."""

    def late(*args: Any) -> None:
        msg = f"more than {SECONDS} s"
        raise FindingError(msg)

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def values(tensors: dict[str, Tensor]) -> Read:
    """Every tensor, read."""
    return {name: (view.dtype.name, view.shape, view.read().tobytes()) for name, view in tensors.items()}


def read_all(value: Any) -> None:
    """Read the tensors in a document."""
    if isinstance(value, Tensor):
        value.read()
    elif isinstance(value, dict):
        for item in value.values():
            read_all(item)
    elif isinstance(value, list):
        for item in value:
            read_all(item)


def rewrite(checkpoint: Checkpoint, folder: Path, expected: Read) -> None:
    """Write the model in both formats and compare what is read back."""
    write_pth(folder / "copy.pth", {"model": checkpoint.tensors}, force=True)
    paths = [folder / "copy.pth"]
    if not any("complex" in kind for kind, _, _ in expected.values()) and "__metadata__" not in expected:
        write_safetensors(folder / "copy.safetensors", checkpoint.tensors, {}, force=True)
        paths.append(folder / "copy.safetensors")
    for path in paths:
        with open_checkpoint(path) as copy:
            if values(copy.tensors) != expected:
                msg = f"{path.name} reads differently"
                raise FindingError(msg)


def try_out(path: Path, folder: Path) -> Read | None:
    """Read a file with all that is in it; None when it is refused as it should be."""
    try:
        with open_checkpoint(path) as checkpoint:
            checkpoint.fingerprint()
            found = values(checkpoint.tensors)
            read_all(checkpoint.document)
            rewrite(checkpoint, folder, found)
            return found
    except CheckpointError as error:
        message = str(error)
        if not message.startswith(str(path)) or not message.isprintable() or len(message) > 2000:
            msg = f"the message {message[:300]!r} is not one line about the file"
            raise FindingError(msg) from error
        return None


def run_case(number: int, folder: Path) -> tuple[str, bool]:
    """Run one case.

    Returns:
        The kind of mutation, and whether the file was read.
    """
    chance = random.Random(number)
    name = chance.choice(list(MUTATIONS))
    path = folder / ("case.safetensors" if name == "safetensors" else "case.pth")
    path.write_bytes(MUTATIONS[name](chance))
    with bounded():
        found = try_out(path, folder)
    if found is not None and name in ("zip", "zip directory") and found != ORIGINAL:
        msg = "the tensors read differently although the file has checksums"
        raise FindingError(msg)
    return name, found is not None


def original() -> Read:
    """What the undamaged file holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        path.write_bytes(FILES["zip"])
        with open_checkpoint(path) as checkpoint:
            return values(checkpoint.tensors)


ORIGINAL = original()


def main() -> int:
    """Run cases until the time is over; 1 when anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long to search (1)")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="stop after this many cases")
    parser.add_argument("--seed", type=int, default=None, help="number of the first case (from the clock)")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_findings"), help="where to keep the files found")
    arguments = parser.parse_args()
    first = time.time_ns() // 1_000_000 % 10**9 if arguments.seed is None else arguments.seed
    print(f"seed {first}")
    counts: Counter[tuple[str, bool]] = Counter()
    findings: Counter[str] = Counter()
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        for case in range(first, first + arguments.cases):
            if time.monotonic() > end:
                break
            try:
                counts[run_case(case, Path(folder))] += 1
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                kind = f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
                findings[kind] += 1
                if findings[kind] == 1:
                    keep(arguments.keep, Path(folder), case)
                    print(f"seed {case}: {kind}: {str(error)[:300]}")
                    traceback.print_exc()
    for name in MUTATIONS:
        print(f"{name:22} {counts[name, True]:7} read {counts[name, False]:7} refused")
    print(f"{sum(counts.values())} cases without a finding, {sum(findings.values())} with: {dict(findings)}")
    return 1 if findings else 0


def keep(folder: Path, source: Path, case: int) -> None:
    """Keep the file of a case."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.glob("case.*"):
        (folder / f"{case}{path.suffix}").write_bytes(path.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
