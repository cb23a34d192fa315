"""A zip archive of stored records whose places are fixed before any byte is written.

Sizes are known in advance, so every record has its offset at once and several threads can write at the same time; only
the checksums are filled in afterwards. Laid out as torch does it: data aligned to 64 bytes with an extra field ``FB``
(``caffe2/serialize/inline_container.cc``), so that ``torch.load(mmap=True)`` works.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_ALIGNMENT = 64
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_END64_LOCATOR = struct.Struct("<4sLQL")
_UTF8_NAME = 0x800
_DATE = 0x21  # 1980-01-01, the earliest a zip can say: the same input gives the same bytes
_VERSION, _VERSION64 = 20, 45
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


@dataclass
class Slot:
    """A record's place.

    Attributes:
        name: Its name in the archive.
        nbytes: Its length.
        header: Offset of its local header.
        data: Offset of its bytes, a multiple of 64.
        crc32: Its checksum, set once it is known.
    """

    name: str
    nbytes: int
    header: int
    data: int
    crc32: int = 0

    @property
    def local_header(self) -> bytes:
        """The local header with everything that is known now."""
        name = self.name.encode()
        big = self.nbytes >= _FULL32
        size = _FULL32 if big else self.nbytes
        extra = struct.pack("<HHQQ", 1, 16, self.nbytes, self.nbytes) if big else b""
        padding = self.data - self.header - _LOCAL.size - len(name) - len(extra) - 4
        extra += struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        version = _VERSION64 if big else _VERSION
        fixed = (b"PK\x03\x04", version, _UTF8_NAME, 0, 0, _DATE, self.crc32, size, size, len(name), len(extra))
        return _LOCAL.pack(*fixed) + name + extra

    @property
    def central_entry(self) -> bytes:
        """Its entry in the directory."""
        name = self.name.encode()
        numbers = [value for value in (self.nbytes, self.nbytes, self.header) if value >= _FULL32]
        extra = struct.pack(f"<HH{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
        size, header = min(self.nbytes, _FULL32), min(self.header, _FULL32)
        version = _VERSION64 if numbers else _VERSION
        fixed = (b"PK\x01\x02", version, version, _UTF8_NAME, 0, 0, _DATE, self.crc32, size, size, len(name))
        return _CENTRAL.pack(*fixed, len(extra), 0, 0, 0, 0, header) + name + extra


def lay_out(records: list[tuple[str, int]]) -> list[Slot]:
    """Places for records.

    Args:
        records: Name and length of each, in the order they shall lie in the file.

    Returns:
        A slot for each, one after the other, each slot's data aligned to 64 bytes.
    """
    slots = []
    position = 0
    for name, nbytes in records:
        fixed = position + _LOCAL.size + len(name.encode()) + (20 if nbytes >= _FULL32 else 0) + 4
        data = -(-fixed // _ALIGNMENT) * _ALIGNMENT
        slots.append(Slot(name, nbytes, position, data))
        position = data + nbytes
    return slots


def directory(slots: list[Slot]) -> bytes:
    """The directory that ends the archive.

    Args:
        slots: Every record in file order, each with its checksum.

    Returns:
        Bytes to write right behind the last slot's data.
    """
    start = slots[-1].data + slots[-1].nbytes
    entries = b"".join(slot.central_entry for slot in slots)
    count = len(slots)
    tail = b""
    if start >= _FULL32 or count >= _FULL16:
        end64 = start + len(entries)
        tail = _END64.pack(b"PK\x06\x06", 44, _VERSION64, _VERSION64, 0, 0, count, count, len(entries), start)
        tail += _END64_LOCATOR.pack(b"PK\x06\x07", 0, end64, 1)
    few, where = min(count, _FULL16), min(start, _FULL32)
    return entries + tail + _END.pack(b"PK\x05\x06", 0, 0, few, few, len(entries), where, 0)
