"""Lay out a zip archive of stored records before any byte is written.

Sizes are known in advance, so every record has its offset at once and several threads can write at the same time; only
the checksums are filled in afterwards. The layout is torch's: data aligned to 64 bytes with an extra field ``FB``
(``caffe2/serialize/inline_container.cc``), so that ``torch.load(mmap=True)`` works.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from xtts_export_callback.checkpoint.zip_format import (
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    ENTRY,
    ENTRY_MAGIC,
    FULL16,
    FULL32,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR64,
    LOCATOR64_MAGIC,
    UTF8_FLAG,
    End,
    End64,
    Entry,
    Local,
    Locator64,
)
from xtts_export_callback.files.clone import BLOCK

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALIGNMENT = 64
_LARGE = 64 * BLOCK  # from this size on, up to a block of padding is worth it
_DATE = 0x21  # 1980-01-01, the earliest zip date: the same input gives the same bytes
_VERSION, _VERSION64 = 20, 45


@dataclass
class Slot:
    """A record's place.

    Attributes:
        name: Its name in the archive.
        nbytes: Its length.
        header: Offset of its local header.
        data: Offset of its bytes, a multiple of 64.
        crc32: Its checksum, set after the record is written.
    """

    name: str
    nbytes: int
    header: int
    data: int
    crc32: int = 0

    @property
    def local_header(self) -> bytes:
        """Its local header, with the checksum known so far."""
        name = self.name.encode()
        big = self.nbytes >= FULL32
        size = FULL32 if big else self.nbytes
        extra = struct.pack("<HHQQ", 1, 16, self.nbytes, self.nbytes) if big else b""
        padding = self.data - self.header - LOCAL.size - len(name) - len(extra) - 4
        extra += struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        version = _VERSION64 if big else _VERSION
        local = Local(LOCAL_MAGIC, version, UTF8_FLAG, 0, 0, _DATE, self.crc32, size, size, len(name), len(extra))
        return LOCAL.pack(*local) + name + extra

    @property
    def central_entry(self) -> bytes:
        """Its entry in the directory."""
        name = self.name.encode()
        numbers = [value for value in (self.nbytes, self.nbytes, self.header) if value >= FULL32]
        extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
        size, header = min(self.nbytes, FULL32), min(self.header, FULL32)
        version = _VERSION64 if numbers else _VERSION
        fixed = (version, version, UTF8_FLAG, 0, 0, _DATE, self.crc32, size, size)
        entry = Entry(ENTRY_MAGIC, *fixed, len(name), len(extra), 0, 0, 0, 0, header)
        return ENTRY.pack(*entry) + name + extra


def lay_out(records: list[tuple[str, int]], origins: Sequence[tuple[object, int] | None] = ()) -> list[Slot]:
    """Assign places to records.

    A file can share blocks with another only where both hold the same bytes at the same place within the block. A large
    record therefore gets the place that it has within its block in the file that it comes from, and those that follow
    it there keep their distance, which moves them into place as well.

    Args:
        records: Name and length of each, in file order.
        origins: For each record, the file that holds its bytes already, and where; None for one that is computed.

    Returns:
        A slot for each, one after the other, each slot's data aligned to 64 bytes.
    """
    slots = []
    position = 0
    before: tuple[object, int] | None = None  # where the bytes before this record end in the file they come from
    for (name, nbytes), origin in zip_longest(records, origins):
        fixed = position + LOCAL.size + len(name.encode()) + (20 if nbytes >= FULL32 else 0) + 4
        data = -(-fixed // _ALIGNMENT) * _ALIGNMENT
        if origin is not None and origin[1] % _ALIGNMENT == 0:
            file, start = origin
            distance = start - before[1] if before is not None and before[0] is file else -1
            if data - position <= distance <= BLOCK:
                data = position + distance
            if nbytes >= _LARGE:
                data += (start - data) % BLOCK
        slots.append(Slot(name, nbytes, position, data))
        position = data + nbytes
        before = (origin[0], origin[1] + nbytes) if origin is not None else None
    return slots


def directory(slots: list[Slot]) -> bytes:
    """Return the directory that ends the archive.

    Args:
        slots: Every record in file order, each with its checksum.

    Returns:
        Bytes to write right after the last slot's data.
    """
    start = slots[-1].data + slots[-1].nbytes
    entries = b"".join(slot.central_entry for slot in slots)
    count = len(slots)
    tail = b""
    if start >= FULL32 or count >= FULL16:
        end64 = start + len(entries)
        rest = END64.size - 12  # the record's size counts the bytes after the size field
        record = End64(END64_MAGIC, rest, _VERSION64, _VERSION64, 0, 0, count, count, len(entries), start)
        tail = END64.pack(*record) + LOCATOR64.pack(*Locator64(LOCATOR64_MAGIC, 0, end64, 1))
    few, where = min(count, FULL16), min(start, FULL32)
    return entries + tail + END.pack(*End(END_MAGIC, 0, 0, few, few, len(entries), where, 0))
