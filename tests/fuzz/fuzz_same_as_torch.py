"""Mutate checkpoints at random and compare what is read with ``torch.load(weights_only=True)``: never other weights.

    python -m tests.fuzz.fuzz_same_as_torch --count 10000 --seed 1

Each case has a number of its own and nothing else decides what it is: ``--seed NUMBER --count 1`` repeats one. A
finding is a file that both read and of which the two hold other names, element types, shapes or bytes. A file that one
of them refuses is none; the share that both read says how much the comparison is worth.
"""

from __future__ import annotations

import argparse
import pickletools
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from tests.models.damage import FILES, PICKLE, with_pickle
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import CheckpointError

Model = dict[str, tuple[str, tuple[int, ...], bytes]]


def operations(pickled: bytes) -> list[bytes]:
    """A pickle taken apart into its operations."""
    starts = [position for _, _, position in pickletools.genops(pickled)] + [len(pickled)]
    return [pickled[start:stop] for start, stop in pairwise(starts)]


PROGRAM = operations(PICKLE)
NUMBERS = [bytes((0x4B, number)) for number in (0, 1, 2, 3, 4, 5, 6, 7, 24)]
KINDS = [f"ctorch\n{kind}Storage\n".encode() for kind in ("Float", "Int", "Half", "Long", "Byte", "QInt32")]
KEYS = [b"X\x01\x00\x00\x00" + key for key in (b"0", b"1", b"2", b"3")]
NAMES = [
    b"X\x0f\x00\x00\x00xtts.gpt.weight",
    b"U\x0fxtts.gpt.weight",
    b"X\x05\x00\x00\x00model",
    b"U\x05model",
    b"K\x01",
]
CALLS = [
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._utils\n_rebuild_tensor\n",
    b"ctorch\nSize\n",
    b"c_codecs\nencode\n",
    b"ccollections\nOrderedDict\n",
]


def similar(operation: bytes, chance: random.Random) -> bytes:
    """Another operation that may stand in the same place."""
    groups: list[tuple[bytes, list[bytes]]] = [
        (b"K", NUMBERS),
        (b"ctorch\n", KINDS),
        (b"X", KEYS + NAMES),
        (b"c", CALLS),
    ]
    for start, choices in groups:
        if operation.startswith(start):
            return chance.choice(choices)
    if operation[:1] in (b"h", b"q", b"j", b"r"):
        return operation[:1] + bytes((chance.randrange(60),)) + operation[2:]
    return operation


def edit(chance: random.Random, program: list[bytes]) -> bytes:
    """Exchange, repeat, remove or swap one to three operations."""
    program = list(program)
    for _ in range(chance.choice([1, 1, 2, 3])):
        where = chance.randrange(1, len(program) - 1)
        match chance.randrange(8):
            case 0:
                del program[where]
            case 1:
                program.insert(where, chance.choice(program))
            case 2:
                other = chance.randrange(1, len(program) - 1)
                program[where], program[other] = program[other], program[where]
            case _:
                program[where] = similar(program[where], chance)
    return b"".join(program)


CALLED = [index for index, operation in enumerate(PROGRAM) if operation == b"R"]
FIRST = next(index for index, operation in enumerate(PROGRAM) if b"_rebuild_tensor_v2" in operation)
OTHER = b"".join(PROGRAM[FIRST : CALLED[1] + 1])
"""The first tensor: the call that makes it, with the empty OrderedDict of hooks among its arguments."""

DATA = b"}X\x04\x00\x00\x00data" + OTHER + b"s"
STATES = [b"}b", b"Nb", b"K\x00b", b"0", b"2", b"\x85b", DATA + b"b", b"(N" + DATA + b"tb", OTHER + b"b"]
WRAPPERS = [
    b"ctorch._utils\n_rebuild_parameter_with_state\n(" + OTHER + b"\x89}%btR",
    b"ctorch._utils\n_rebuild_parameter\n(" + OTHER + b"\x89%btR",
]


def as_state(chance: random.Random) -> bytes:
    """A tensor that becomes another after the fact: by a state, by an attribute, as what wraps another."""
    where = chance.choice(CALLED) + 1
    program = list(PROGRAM)
    if chance.random() < 0.5:
        program.insert(where, chance.choice(STATES))
    else:
        # Below the name stands the tensor that was: a tuple of both would be no tensor, so the name is given again.
        name = b"X\x0f\x00\x00\x00xtts.gpt.weight"
        attributes = chance.choice([b"}", DATA, b"N" + DATA + b"\x86"])
        program.insert(where, name + chance.choice(WRAPPERS) % attributes)
    return b"".join(program)


def flip(chance: random.Random, data: bytes) -> bytes:
    """Other bytes in one or two places."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2])):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


MUTATIONS: dict[str, Callable[[random.Random], bytes]] = {
    "operations": lambda chance: with_pickle(edit(chance, PROGRAM)),
    "states": lambda chance: with_pickle(as_state(chance)),
    "bytes of the pickle": lambda chance: with_pickle(flip(chance, PICKLE)),
    "bytes of the archive": lambda chance: flip(chance, FILES["zip without checksums"]),
    "bytes of the directory": lambda chance: (
        FILES["zip without checksums"][:-800] + flip(chance, FILES["zip without checksums"][-800:])
    ),
    "bytes of the old format": lambda chance: flip(chance, FILES["old format"]),
}


def ours(path: Path) -> Model | None:
    """The model as this package reads it."""
    try:
        with open_checkpoint(path) as checkpoint:
            return {
                name: (view.dtype.name, view.shape, view.read().tobytes()) for name, view in checkpoint.tensors.items()
            }
    except CheckpointError:
        return None


def theirs(path: Path) -> Any:
    """What torch reads, None where it refuses."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        return found.get("model", found) if isinstance(found, dict) else found
    except Exception:
        return None


def differences(found: Model, expected: Any) -> list[str]:
    """Names that are not the same for both; a value that only torch can hold is one where we hold a tensor there."""
    if not isinstance(expected, dict):
        return sorted(found)
    names = {name for name, value in expected.items() if isinstance(value, torch.Tensor)}
    differing = sorted(set(found) - names)
    for name in sorted(set(found) & names):
        tensor = expected[name].detach()
        kind = str(tensor.dtype).removeprefix("torch.")
        shape = tuple(tensor.shape)
        flat = tensor.reshape(-1).clone(memory_format=torch.contiguous_format)
        content = bytes(flat.untyped_storage()) if flat.numel() else b""
        if found[name] != (kind, shape, content):
            differing.append(name)
    return differing


def run_case(number: int, folder: Path) -> tuple[str, str, list[str]]:
    """Run one case.

    Returns:
        The kind of mutation, who read the file, and what differs.
    """
    chance = random.Random(number)
    kind = chance.choice(list(MUTATIONS))
    path = folder / "case.pth"
    path.write_bytes(MUTATIONS[kind](chance))
    expected = theirs(path)
    found = ours(path)
    if expected is None or found is None:
        return kind, "neither" if expected is found else "torch alone" if found is None else "we alone", []
    return kind, "both", differences(found, expected)


def main() -> int:
    """Run the cases; 1 when any reads as other weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="how many cases (1000)")
    parser.add_argument("--seed", type=int, default=1, help="number of the first case (1)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # torch's, about old formats and protocols
    counts: Counter[str] = Counter()
    per_kind: Counter[tuple[str, str]] = Counter()
    findings = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in range(arguments.seed, arguments.seed + arguments.count):
            kind, who, differing = run_case(case, Path(folder))
            counts[who] += 1
            per_kind[kind, who] += 1
            if differing:
                findings += 1
                print(f"case {case} ({kind}): other weights of {', '.join(differing)}")
    for (kind, who), count in sorted(per_kind.items()):
        print(f"{kind}, read by {who}: {count}")
    total = ", ".join(f"{who} {100 * counts[who] / arguments.count:.1f} %" for who in sorted(counts))
    print(f"{arguments.count} cases from seed {arguments.seed}: {total}; {findings} read as other weights")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
