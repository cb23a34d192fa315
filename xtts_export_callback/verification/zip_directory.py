"""Compare all that a zip archive states twice, to find any flipped byte in its directory.

`checkpoint.zip_reader` refuses what it cannot use. This module compares each entry of the directory with the header
before its record, or the descriptor after it, and the records that end the archive with each other. Fields that are
stated only once must be the same in every entry, because one program writes them all. Layout: PKWARE APPNOTE 6.3,
sections 4.3 and 4.5.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from xtts_export_callback.checkpoint.zip_format import (
    DESCRIPTOR_FLAG,
    DESCRIPTOR_MAGIC,
    END,
    END64,
    ENTRY,
    FULL16,
    FULL32,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR64,
    LOCATOR64_MAGIC,
    ZIP64_EXTRA,
    End,
    End64,
    Entry,
    Local,
    Locator64,
)
from xtts_export_callback.checkpoint.zip_reader import read_tail

if TYPE_CHECKING:
    from xtts_export_callback.files.random_access import ReadableFile

_VERSIONS = frozenset((0, 10, 20, 30, 45))
_SYSTEMS = (0, 3)  # MS-DOS, Unix


class _Described(NamedTuple):
    """An entry with its 64-bit sizes, and in ``once`` the fields that should be the same in all entries."""

    name: bytes
    entry: Entry
    nbytes: int
    header: int
    once: tuple[Any, ...]


def directory_faults(file: ReadableFile) -> list[str]:
    """Compare all that a zip archive states twice.

    Args:
        file: An archive that `zip_reader.read_directory` has accepted.

    Returns:
        The differences; empty for a whole archive.
    """
    try:
        end, faults = _end_faults(file)
        entries, stop = _entries(file, end.start, end.entries)
        if stop - end.start != end.size:
            faults.append(f"the directory is not {end.size} bytes of {end.entries} entries")
        for entry in entries:
            faults += _header_faults(file, entry)
    except (struct.error, EOFError) as error:
        return [f"the zip directory cannot be followed ({error})"]
    usual = Counter(entry.once for entry in entries).most_common(1)
    for entry in entries:
        if usual and entry.once != usual[0][0]:
            faults.append(f"{_text(entry.name)}: attributes or extra fields unlike those of the other entries")
    return faults


def _end_faults(file: ReadableFile) -> tuple[End | End64, list[str]]:
    """Return the record that says where the directory is, and the faults of the records after the directory."""
    tail, position = read_tail(file)
    short = End._make(END.unpack_from(tail, position))
    found: End | End64 = short
    faults = []
    if len(tail) - position - END.size != short.comment_size:
        faults.append(f"the end record announces {short.comment_size} bytes of comment")
    end = file.size - len(tail) + position
    locator = tail[max(0, position - LOCATOR64.size) : position]
    if locator.startswith(LOCATOR64_MAGIC):
        found, agree = _read_end64(file, short, locator, end)
        if not agree:
            faults.append("the zip64 end record and the end record disagree")
    elif found.start + found.size != end:
        faults.append("the end record puts the directory elsewhere")
    if short.disk or short.directory_disk or found.entries_here != found.entries:
        faults.append("the end record names several disks")
    return found, faults


def _read_end64(file: ReadableFile, short: End, locator: bytes, end: int) -> tuple[End64, bool]:
    """Return the zip64 end record, and whether it agrees with the end record."""
    where = Locator64._make(LOCATOR64.unpack(locator))
    full = End64._make(END64.unpack(file.read(where.end64, END64.size)))
    narrow = (
        *(min(number, FULL16) for number in (full.entries_here, full.entries)),
        *(min(number, FULL32) for number in (full.size, full.start)),
    )
    limits = (FULL16, FULL16, FULL32, FULL32)
    said = (short.entries_here, short.entries, short.size, short.start)
    agree = all(number in (least, limit) for number, least, limit in zip(said, narrow, limits, strict=True))
    sane = full.record_size == END64.size - 12 and {full.made_by & 0xFF, full.version} <= _VERSIONS
    one_disk = not (where.disk or full.disk or full.directory_disk) and where.disks == 1
    ends_here = where.end64 + END64.size == end - LOCATOR64.size
    return full, agree and sane and full.made_by >> 8 in _SYSTEMS and one_disk and ends_here


def _entries(file: ReadableFile, start: int, count: int) -> tuple[list[_Described], int]:
    """Return the entries of the directory, and where they end."""
    entries = []
    position = start
    for _ in range(count):
        entry = Entry._make(ENTRY.unpack(file.read(position, ENTRY.size)))
        rest = file.read(position + ENTRY.size, entry.name_size + entry.extra_size + entry.comment_size)
        position += ENTRY.size + len(rest)
        extra = rest[entry.name_size : entry.name_size + entry.extra_size]
        wide = {"packed": entry.packed, "nbytes": entry.nbytes, "header": entry.header}
        extra_ids = _read_wide(extra, wide)
        # Large records need another version and a zip64 field, so entries may differ in both.
        disk = entry.disk if entry.disk != FULL16 else 0
        attributes = (entry.internal, entry.external)
        once = (entry.made_by >> 8, entry.comment_size, disk, attributes, extra_ids - {ZIP64_EXTRA})
        entries.append(_Described(rest[: entry.name_size], entry, wide["nbytes"], wide["header"], once))
    return entries, position


def _read_wide(extra: bytes, wide: dict[str, int]) -> frozenset[int]:
    """Replace sizes that did not fit by the 64-bit ones of a zip64 field; return the ids of all extra fields."""
    position, ids = 0, set()
    while position < len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        if kind == ZIP64_EXTRA:
            missing = [key for key in ("nbytes", "packed", "header") if wide[key] == FULL32]
            values = struct.unpack_from(f"<{len(missing)}Q", extra, position + 4)
            wide.update(zip(missing, values, strict=True))
            if size != 8 * len(missing):
                ids.add(-1)
        ids.add(kind)
        position += 4 + size
    if position != len(extra):
        ids.add(-1)
    return frozenset(ids)


def _header_faults(file: ReadableFile, described: _Described) -> list[str]:
    entry = described.entry
    local = Local._make(LOCAL.unpack(file.read(described.header, LOCAL.size)))
    name = file.read(described.header + LOCAL.size, local.name_size)
    where = _text(described.name)
    if local.magic != LOCAL_MAGIC or name != described.name:
        return [f"{where}: another record stands where the directory puts it"]
    faults = []
    if (local.flags, local.method, local.time, local.date) != (entry.flags, entry.method, entry.time, entry.date):
        faults.append(f"{where}: the directory and the record's header differ in flags, method or date")
    if not {local.version, entry.made_by & 0xFF, entry.version} <= _VERSIONS:
        faults.append(f"{where}: a zip version that no program writes")
    if local.flags & DESCRIPTOR_FLAG:
        data_end = described.header + LOCAL.size + local.name_size + local.extra_size + described.nbytes
        agree = _descriptor_agrees(file, data_end, described)
    else:
        agree = local.crc32 == entry.crc32 and {local.packed, local.nbytes} <= {described.nbytes, FULL32}
    if not agree:
        faults.append(f"{where}: the directory and the record differ in checksum or size")
    return faults


def _descriptor_agrees(file: ReadableFile, position: int, described: _Described) -> bool:
    crc32, nbytes = described.entry.crc32, described.nbytes
    found = file.read(position, min(24, file.size - position))
    body = found[4:] if found.startswith(DESCRIPTOR_MAGIC) else found
    narrow = struct.pack("<3L", crc32, *(min(nbytes, FULL32),) * 2)
    wide = struct.pack("<L2Q", crc32, nbytes, nbytes)
    return body.startswith((narrow, wide))


def _text(name: bytes) -> str:
    return f"record {name.decode('utf-8', 'replace').partition('/')[2]!r}"
