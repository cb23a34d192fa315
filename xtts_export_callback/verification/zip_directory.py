"""A second opinion on a zip directory.

`checkpoint.archive` refuses what it cannot use. Here every field that says something twice is compared: each entry of
the directory with the header that stands before its record, or the descriptor behind it, and the records that end the
archive with each other. Fields that stand only once have to be the same in every entry, as any one program writes them,
so that a flipped byte is noticed wherever it falls. Layout: PKWARE APPNOTE 6.3, sections 4.3 and 4.5.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from xtts_export_callback.files.random_access import RandomFile

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_DESCRIPTOR_FLAG = 0x8
_VERSIONS = frozenset((0, 10, 20, 30, 45))
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


class _Entry(NamedTuple):
    name: bytes
    versions: tuple[int, int]
    flags: int
    method: int
    stamp: tuple[int, int]
    crc32: int
    nbytes: int
    header: int
    once: tuple[Any, ...]


def directory_faults(file: RandomFile) -> list[str]:
    """Compare what a zip archive says twice.

    Args:
        file: An archive that `archive.read_directory` has accepted.

    Returns:
        What does not agree; empty for a whole archive.
    """
    try:
        start, count, faults = _end_faults(file)
        entries = _entries(file, start, count)
        for entry in entries:
            faults += _header_faults(file, entry)
    except (struct.error, EOFError) as error:
        return [f"the zip directory cannot be followed ({error})"]
    usual = Counter(entry.once for entry in entries).most_common(1)
    for entry in entries:
        if usual and entry.once != usual[0][0]:
            faults.append(f"{_text(entry.name)}: attributes or extra fields unlike those of the other entries")
    return faults


def _end_faults(file: RandomFile) -> tuple[int, int, list[str]]:
    """Start of the directory, number of entries, and what the records behind it say differently."""
    tail_start = max(0, file.size - _END.size - _FULL16)
    tail = file.read(tail_start, file.size - tail_start)
    position = tail.rfind(b"PK\x05\x06")
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(tail, position)
    faults = []
    if len(tail) - position - _END.size != comment:
        faults.append(f"the end record announces {comment} bytes of comment")
    end = tail_start + position
    locator = tail[max(0, position - _LOCATOR.size) : position]
    if locator.startswith(b"PK\x06\x07"):
        _, locator_disk, end64, disks = _LOCATOR.unpack(locator)
        fields = _END64.unpack(file.read(end64, _END64.size))
        _, record_size, made, needed, disk64, first_disk64, here64, count64, size64, start64 = fields
        pairs = ((here, here64, _FULL16), (count, count64, _FULL16), (size, size64, _FULL32), (start, start64, _FULL32))
        agree = all(short in (min(full, limit), limit) for short, full, limit in pairs)
        sane = record_size == _END64.size - 12 and {made & 0xFF, needed} <= _VERSIONS and made >> 8 in (0, 3)
        disks_agree = not (locator_disk or disk64 or first_disk64) and disks == 1
        if not (agree and sane and disks_agree and end64 + _END64.size == end - _LOCATOR.size):
            faults.append("the zip64 end record and the end record disagree")
        here, count, size, start = here64, count64, size64, start64
    elif start + size != end:
        faults.append("the end record puts the directory elsewhere")
    if disk or first_disk or here != count:
        faults.append("the end record speaks of several disks")
    if _entries_size(file, start, count) != size:
        faults.append(f"the directory is not {size} bytes of {count} entries")
    return start, count, faults


def _entries_size(file: RandomFile, start: int, count: int) -> int:
    position = start
    for _ in range(count):
        fields = _CENTRAL.unpack(file.read(position, _CENTRAL.size))
        position += _CENTRAL.size + sum(fields[10:13])
    return position - start


def _entries(file: RandomFile, start: int, count: int) -> list[_Entry]:
    entries = []
    position = start
    for _ in range(count):
        fields = _CENTRAL.unpack(file.read(position, _CENTRAL.size))
        (_, made, needed, flags, method, time, date, crc32, packed, nbytes) = fields[:10]
        name_size, extra_size, comment_size, disk, internal, external, header = fields[10:]
        rest = file.read(position + _CENTRAL.size, name_size + extra_size + comment_size)
        position += _CENTRAL.size + len(rest)
        extra = rest[name_size : name_size + extra_size]
        wide = {"packed": packed, "nbytes": nbytes, "header": header}
        extra_ids = _read_wide(extra, wide)
        # Large records need a version of their own, and a zip64 field: neither sets an entry apart.
        once = (made >> 8, comment_size, disk if disk != _FULL16 else 0, internal, external, extra_ids - {1})
        versions = (made & 0xFF, needed)
        entries.append(
            _Entry(rest[:name_size], versions, flags, method, (time, date), crc32, wide["nbytes"], wide["header"], once)
        )
    return entries


def _read_wide(extra: bytes, wide: dict[str, int]) -> frozenset[int]:
    """Put the 64-bit sizes of a zip64 field in place of those that did not fit; returns the ids of all fields."""
    position, ids = 0, set()
    while position < len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            missing = [key for key in ("nbytes", "packed", "header") if wide[key] == _FULL32]
            values = struct.unpack_from(f"<{len(missing)}Q", extra, position + 4)
            wide.update(zip(missing, values, strict=True))
            if size != 8 * len(missing):
                ids.add(-1)
        ids.add(kind)
        position += 4 + size
    if position != len(extra):
        ids.add(-1)
    return frozenset(ids)


def _header_faults(file: RandomFile, entry: _Entry) -> list[str]:
    fields = _LOCAL.unpack(file.read(entry.header, _LOCAL.size))
    magic, needed, flags, method, time, date, crc32, packed, nbytes, name_size, extra_size = fields
    name = file.read(entry.header + _LOCAL.size, name_size)
    where = _text(entry.name)
    if magic != b"PK\x03\x04" or name != entry.name:
        return [f"{where}: another record stands where the directory puts it"]
    faults = []
    if (flags, method, (time, date)) != (entry.flags, entry.method, entry.stamp):
        faults.append(f"{where}: the directory and the record's header differ in flags, method or date")
    if not {needed, *entry.versions} <= _VERSIONS:
        faults.append(f"{where}: a zip version that no program writes")
    if flags & _DESCRIPTOR_FLAG:
        data_end = entry.header + _LOCAL.size + name_size + extra_size + entry.nbytes
        agree = _descriptor_agrees(file, data_end, entry)
    else:
        agree = crc32 == entry.crc32 and {packed, nbytes} <= {entry.nbytes, _FULL32}
    if not agree:
        faults.append(f"{where}: the directory and the record differ in checksum or size")
    return faults


def _descriptor_agrees(file: RandomFile, position: int, entry: _Entry) -> bool:
    found = file.read(position, min(24, file.size - position))
    body = found[4:] if found.startswith(b"PK\x07\x08") else found
    narrow = struct.pack("<3L", entry.crc32, *(min(entry.nbytes, _FULL32),) * 2)
    wide = struct.pack("<L2Q", entry.crc32, entry.nbytes, entry.nbytes)
    return body.startswith((narrow, wide))


def _text(name: bytes) -> str:
    return f"record {name.decode('utf-8', 'replace').partition('/')[2]!r}"
