"""The zip directory of a ``.pth``: which stored record lies where.

Written for this one use, because a checkpoint may come from anywhere: every number is checked against the file's size
before it is believed, memory is bounded by the directory, and nothing is ever extracted. Format: PKWARE APPNOTE 6.3;
what torch writes: ``caffe2/serialize/inline_container.cc``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from xtts_export_callback.errors import CheckpointError, DamagedError

if TYPE_CHECKING:
    from xtts_export_callback.files.random_access import RandomFile

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s2B4HL2L2H")
_MAX_COMMENT = 0xFFFF
_MAX_DIRECTORY = 32 << 20  # a full-size training checkpoint has 0.2 MB
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ZIP64_EXTRA = 1
_ENCRYPTED = 0x1
_DIRECTORY = 0x10


class Record(NamedTuple):
    """One stored record.

    Attributes:
        name: Its name below the archive's root folder.
        header: Offset of its local header in the file.
        nbytes: Its length.
        crc32: Its checksum as the directory says it.
    """

    name: str
    header: int
    nbytes: int
    crc32: int


def read_directory(file: RandomFile) -> dict[str, Record]:
    """Read and check the directory of a checkpoint archive.

    Args:
        file: A file that starts with a zip header.

    Returns:
        Records by their name below the archive's root (``data.pkl``, ``data/0`` ...), in file order.

    Raises:
        DamagedError: When the archive is truncated, damaged or overlapping.
        CheckpointError: When it is compressed, encrypted, or names records in a way that no checkpoint does.
    """
    start, size, count, end_of_data = _locate_directory(file)
    try:
        raw = file.read(start, size)
        entries = _parse_entries(raw, count)
    except (struct.error, UnicodeDecodeError, EOFError) as error:
        msg = f"{file.path}: the zip directory is damaged ({error}); get the file again or use another checkpoint"
        raise DamagedError(msg) from error
    except _BadRecordError as error:
        msg = f"{file.path}: {error}"
        raise CheckpointError(msg) from error
    _check_layout(file, entries, end_of_data)
    return _strip_root(file, entries)


def data_offset(file: RandomFile, label: str, header: int, nbytes: int) -> int:
    """Where a record's bytes begin, from its local header.

    Args:
        file: The archive.
        label: What errors call the record.
        header: Offset of its local header.
        nbytes: Its length.

    Raises:
        DamagedError: When the local header is damaged.
    """
    try:
        fields = _LOCAL.unpack(file.read(header, _LOCAL.size))
        start = header + _LOCAL.size + int(fields[-2]) + int(fields[-1])
        if fields[0] == b"PK\x03\x04" and start + nbytes > file.size:
            raise EOFError
    except EOFError as error:
        msg = f"{file.path}: {label}: truncated; get the file again or use another checkpoint"
        raise DamagedError(msg) from error
    if fields[0] != b"PK\x03\x04":
        msg = f"{file.path}: {label}: damaged local header; get the file again or use another checkpoint"
        raise DamagedError(msg)
    return start


class _BadRecordError(Exception):
    pass


def _locate_directory(file: RandomFile) -> tuple[int, int, int, int]:
    """Offset and size of the directory, number of entries, and where the records must have ended."""
    size = file.size
    tail_start = max(0, size - _END.size - _MAX_COMMENT)
    tail = file.read(tail_start, size - tail_start)
    position = tail.rfind(b"PK\x05\x06")
    if position < 0 or len(tail) - position < _END.size:
        msg = (
            f"{file.path}: truncated: {size} bytes without the zip directory that ends a whole checkpoint; "
            "get the file again or use an earlier checkpoint"
        )
        raise DamagedError(msg)
    _, disk, directory_disk, _, count, directory_size, start, _ = _END.unpack_from(tail, position)
    end = tail_start + position
    locator = tail[max(position - _END64_LOCATOR.size, 0) : position]
    # torch writes the zip64 records always, needed or not.
    if count == _FULL16 or _FULL32 in (directory_size, start) or locator.startswith(b"PK\x06\x07"):
        end, disk, directory_disk, count, directory_size, start = _read_end64(file, end)
    if disk or directory_disk or directory_size > _MAX_DIRECTORY or start + directory_size != end:
        msg = (
            f"{file.path}: the zip directory should lie at {start} to {start + directory_size}, found its end at "
            f"{end}; the file is damaged, get it again or use another checkpoint"
        )
        raise DamagedError(msg)
    return start, directory_size, count, start


def _read_end64(file: RandomFile, end: int) -> tuple[int, int, int, int, int, int]:
    locator_start = end - _END64_LOCATOR.size
    try:
        magic, _, end64, _ = _END64_LOCATOR.unpack(file.read(max(locator_start, 0), _END64_LOCATOR.size))
        if magic != b"PK\x06\x07" or end64 + _END64.size > locator_start:
            raise EOFError
        fields = _END64.unpack(file.read(end64, _END64.size))
    except EOFError as error:
        msg = f"{file.path}: the zip64 directory is damaged; get the file again or use another checkpoint"
        raise DamagedError(msg) from error
    magic, _, _, _, disk, directory_disk, _, count, size, start = fields
    if magic != b"PK\x06\x06":
        msg = f"{file.path}: the zip64 directory is damaged; get the file again or use another checkpoint"
        raise DamagedError(msg)
    return end64, disk, directory_disk, count, size, start


def _parse_entries(raw: bytes, count: int) -> list[Record]:
    records = []
    position = 0
    for _ in range(count):
        fields = _CENTRAL.unpack_from(raw, position)
        magic, flags, method, crc32, packed, nbytes = fields[0], fields[5], fields[6], fields[9], fields[10], fields[11]
        name_size, extra_size, comment_size, header = fields[12], fields[13], fields[14], fields[18]
        position += _CENTRAL.size
        name = raw[position : position + name_size].decode("utf-8")
        extra = raw[position + name_size : position + name_size + extra_size]
        position += name_size + extra_size + comment_size
        if magic != b"PK\x01\x02" or position > len(raw):
            msg = "bad entry"
            raise struct.error(msg)
        if _FULL32 in (packed, nbytes, header):
            nbytes, packed, header = _zip64_numbers(extra, nbytes, packed, header)
        if flags & _ENCRYPTED:
            msg = f"record {name!r} is encrypted, expected a plain checkpoint; decrypt it first"
            raise _BadRecordError(msg)
        if method != 0 or packed != nbytes:
            msg = f"record {name!r} is compressed, expected stored records; save it again with torch.save"
            raise _BadRecordError(msg)
        if fields[17] & _DIRECTORY:  # torch would read nothing there
            msg = f"record {name!r} is marked as a folder, which torch never does; save it again with torch.save"
            raise _BadRecordError(msg)
        if nbytes == 0 and crc32 != 0:  # nobody reads nothing to find out
            msg = f"record {name!r} is empty with checksum {crc32:08x}; the file is damaged, get it again"
            raise _BadRecordError(msg)
        records.append(Record(name, header, nbytes, crc32))
    return records


def _zip64_numbers(extra: bytes, nbytes: int, packed: int, header: int) -> tuple[int, int, int]:
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        if kind == _ZIP64_EXTRA:
            values = list(struct.unpack_from(f"<{size // 8}Q", extra, position + 4))
            wanted = (nbytes, packed, header)
            if len(values) < wanted.count(_FULL32):
                break
            found = [values.pop(0) if value == _FULL32 else value for value in wanted]
            return found[0], found[1], found[2]
        position += 4 + size
    msg = "zip64 sizes missing"
    raise struct.error(msg)


def _check_layout(file: RandomFile, records: list[Record], end_of_data: int) -> None:
    """No two records may share bytes: overlapping ones are how a small file claims to hold a huge model."""
    previous_end = 0
    previous = ""
    for record in sorted(records, key=lambda record: record.header):
        if record.header < previous_end:
            msg = f"{file.path}: records {previous!r} and {record.name!r} overlap; the file is damaged or hostile"
            raise DamagedError(msg)
        previous = record.name
        previous_end = record.header + _LOCAL.size + len(record.name.encode()) + record.nbytes
    if previous_end > end_of_data:
        msg = f"{file.path}: record {previous!r} runs into the directory; the file is damaged or hostile"
        raise DamagedError(msg)


def _strip_root(file: RandomFile, records: list[Record]) -> dict[str, Record]:
    """Names below the root folder, which is the stem the file was saved under, or ``archive``."""
    roots = [record.name[: -len("/data.pkl")] for record in records if record.name.endswith("/data.pkl")]
    if len(roots) != 1 or "/" in roots[0]:
        msg = f"{file.path}: a zip archive, but not a torch checkpoint: expected one ROOT/data.pkl, found {len(roots)}"
        raise CheckpointError(msg)
    prefix = roots[0] + "/"
    found: dict[str, Record] = {}
    seen: set[str] = set()  # torch finds a record whatever the case of its letters
    for record in records:
        name = record.name.removeprefix(prefix)
        strange = not record.name.startswith(prefix) or ".." in record.name.split("/") or "\\" in record.name
        if strange or name.startswith("/") or name.lower() in seen or not name.isprintable():
            msg = f"{file.path}: record name {record.name!r} is not one that torch writes; the file is hostile"
            raise CheckpointError(msg)
        seen.add(name.lower())
        found[name] = Record(name, *record[1:])
    return found
