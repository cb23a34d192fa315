"""A small checkpoint in every format, and what can happen to its bytes."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import save as save_safetensors

from tests.models.generated import SAVES_WITHOUT_CHECKSUMS, StateDict, no_checksums, zip_of
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.tensors.tensor import FileStorage

MODEL: StateDict = {
    "xtts.gpt.weight": torch.arange(24.0).reshape(4, 6),
    "xtts.gpt.view": torch.arange(24.0).reshape(4, 6).t(),
    "xtts.gpt.half": torch.ones(5, dtype=torch.bfloat16),
    "xtts.gpt.count": torch.tensor(7),
    "xtts.gpt.empty": torch.zeros(0, 3),
}
DOCUMENT: dict[str, Any] = {
    "config": {"languages": ["en", "de"], "lr": 1e-5, "test": None, "deep": {"a": [True, (1, 2)]}},
    "optimizer": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    "step": 12345,
}


def saved(**options: Any) -> bytes:
    out = io.BytesIO()
    torch.save({"model": MODEL, **DOCUMENT}, out, **options)
    return out.getvalue()


def saved_without_checksums() -> bytes:
    with no_checksums():
        return saved()


FILES: dict[str, bytes] = {
    "zip": saved(),
    "old format": saved(_use_new_zipfile_serialization=False),
    "safetensors": save_safetensors({name: tensor.contiguous() for name, tensor in MODEL.items()}, {"format": "pt"}),
}
if SAVES_WITHOUT_CHECKSUMS:
    FILES["zip without checksums"] = saved_without_checksums()
PICKLE = zipfile.ZipFile(io.BytesIO(FILES["zip"])).read("archive/data.pkl")
PICKLE4 = zipfile.ZipFile(io.BytesIO(saved(pickle_protocol=4))).read("archive/data.pkl")
RECORDS = {
    name.removeprefix("archive/"): zipfile.ZipFile(io.BytesIO(FILES["zip"])).read(name)
    for name in zipfile.ZipFile(io.BytesIO(FILES["zip"])).namelist()
}


def with_record(changed: str, content: bytes) -> bytes:
    """The whole checkpoint, every checksum right, with something else in one record."""
    return zip_of({f"archive/{name}": data for name, data in {**RECORDS, changed: content}.items()})


def with_pickle(pickled: bytes) -> bytes:
    """The whole checkpoint, every checksum right, with another ``data.pkl``."""
    return with_record("data.pkl", pickled)


def flip(data: bytearray, position: int, value: int) -> None:
    data[position] ^= 1 << (value % 8)


def overwrite(data: bytearray, position: int, value: int) -> None:
    data[position] = value % 256


def fill_with_ones(data: bytearray, position: int, value: int) -> None:
    """What makes of a length the longest there is."""
    data[position : position + value % 9] = b"\xff" * len(data[position : position + value % 9])


def fill_with_zeros(data: bytearray, position: int, value: int) -> None:
    data[position : position + value % 600] = bytes(len(data[position : position + value % 600]))


def delete(data: bytearray, position: int, value: int) -> None:
    del data[position : position + value % 40]


def repeat(data: bytearray, position: int, value: int) -> None:
    data[position:position] = data[position : position + value % 40]


def move(data: bytearray, position: int, value: int) -> None:
    target = value % len(data)
    data[position : position + 8] = data[target : target + 8]


def truncate(data: bytearray, position: int, value: int) -> None:
    del data[position:]


Damage: TypeAlias = Callable[[bytearray, int, int], None]

DAMAGES: list[Damage] = [flip, flip, overwrite, fill_with_ones, fill_with_zeros, delete, repeat, move, truncate]
"""Each takes the bytes, a position in them and any number, and changes the bytes in place."""


def forge(path: Path, name: str) -> None:
    """Put other weights of the same checksum in place of a tensor of a file."""
    with open_checkpoint(path) as checkpoint:
        storage = checkpoint.stored[name].storage
        assert isinstance(storage, FileStorage)
        start, stop = storage.offset, storage.offset + storage.nbytes
    content = bytearray(path.read_bytes())
    content[start:stop] = forged(bytes(content[start:stop]))
    path.write_bytes(content)


def forged(content: bytes) -> bytes:
    """Other bytes of the same length and CRC-32: all zero but the last eight, of which four are free to choose.

    CRC-32 is linear, so that the four bytes solve 32 equations in 32 bits.
    """
    wanted = zlib.crc32(content)
    other = bytearray(len(content))
    other[-8:] = b"\0\0\x80\x3f\0\0\0\0"  # a 1.0 in float32, and the four bytes
    start = zlib.crc32(other)
    pivots: dict[
        int, tuple[int, int]
    ] = {}  # by the highest bit that they change: what they change, and the bits to flip
    for bit in range(32):
        flipped = bytearray(other)
        flipped[-4 + bit // 8] ^= 1 << bit % 8
        change, bits = _reduced(zlib.crc32(flipped) ^ start, 1 << bit, pivots)
        pivots[change.bit_length()] = change, bits
    _, bits = _reduced(wanted ^ start, 0, pivots)
    other[-4:] = bits.to_bytes(4, "little")
    return bytes(other)


def _reduced(change: int, bits: int, pivots: dict[int, tuple[int, int]]) -> tuple[int, int]:
    while change and change.bit_length() in pivots:
        pivot, flips = pivots[change.bit_length()]
        change, bits = change ^ pivot, bits ^ flips
    return change, bits
