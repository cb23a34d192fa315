"""Read the zip directory of a ``.pth``: the place of every stored record.

The reader is our own because a checkpoint may come from anywhere: it checks every number against the file's size before
use, needs no more memory than the directory takes, and extracts nothing. Format: PKWARE APPNOTE 6.3; what torch writes:
``caffe2/serialize/inline_container.cc``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from xtts_export_callback.checkpoint.zip_format import (
    ENCRYPTED_FLAG,
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    ENTRY,
    ENTRY_MAGIC,
    FOLDER_ATTRIBUTE,
    FULL16,
    FULL32,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR64,
    LOCATOR64_MAGIC,
    MAX_COMMENT,
    ZIP64_EXTRA,
    End,
    End64,
    Local,
    Locator64,
)
from xtts_export_callback.errors import CheckpointError, DamagedError

if TYPE_CHECKING:
    from xtts_export_callback.files.random_access import ReadableFile

_MAX_DIRECTORY = 32 << 20  # a full-size training checkpoint has 0.2 MB


class Record(NamedTuple):
    """One stored record.

    Attributes:
        name: Its name below the archive's root folder.
        header: Offset of its local header in the file.
        nbytes: Its length.
        crc32: Its checksum according to the directory.
    """

    name: str
    header: int
    nbytes: int
    crc32: int


def read_directory(file: ReadableFile) -> dict[str, Record]:
    """Read and check the directory of a checkpoint archive.

    Args:
        file: A file that starts with a zip header.

    Returns:
        Records by their name below the archive's root (``data.pkl``, ``data/0`` ...), in file order.

    Raises:
        DamagedError: When the archive is truncated, damaged or overlapping.
        CheckpointError: When it is compressed, encrypted, or has record names that no checkpoint has.
    """
    end = _locate_directory(file)
    try:
        entries = _parse_entries(file.read(end.start, end.size), end.entries)
    except (struct.error, UnicodeDecodeError, EOFError) as error:
        msg = f"{file.path}: the zip directory is damaged ({error}); download it again or use another checkpoint"
        raise DamagedError(msg) from error
    except _BadRecordError as error:
        msg = f"{file.path}: {error}"
        raise CheckpointError(msg) from error
    _check_layout(file, entries, end.start)
    return _strip_root(file, entries)


def data_offset(file: ReadableFile, label: str, header: int, nbytes: int) -> int:
    """Return the offset of a record's bytes, according to its local header.

    Args:
        file: The archive.
        label: Name of the record in errors.
        header: Offset of its local header.
        nbytes: Its length.

    Raises:
        DamagedError: When the local header is damaged.
    """
    try:
        local = Local._make(LOCAL.unpack(file.read(header, LOCAL.size)))
        start = header + LOCAL.size + local.name_size + local.extra_size
        if local.magic == LOCAL_MAGIC and start + nbytes > file.size:
            raise EOFError
    except EOFError as error:
        msg = f"{file.path}: {label}: truncated; download the file again or use another checkpoint"
        raise DamagedError(msg) from error
    if local.magic != LOCAL_MAGIC:
        msg = f"{file.path}: {label}: damaged local header; download it again or use another checkpoint"
        raise DamagedError(msg)
    return start


class _BadRecordError(Exception):
    pass


def read_tail(file: ReadableFile) -> tuple[bytes, int]:
    """Return the last bytes of an archive, all that can hold its end record, and the record's place in them or -1."""
    start = max(0, file.size - END.size - MAX_COMMENT)
    tail = file.read(start, file.size - start)
    return tail, tail.rfind(END_MAGIC)


def _locate_directory(file: ReadableFile) -> End | End64:
    """Return the record that says where the directory is, which is where the records before it must have ended."""
    tail, position = read_tail(file)
    if position < 0 or len(tail) - position < END.size:
        msg = (
            f"{file.path}: truncated: {file.size} bytes without the zip directory that ends a whole checkpoint; "
            "download it again or use an earlier checkpoint"
        )
        raise DamagedError(msg)
    found: End | End64 = End._make(END.unpack_from(tail, position))
    end = file.size - len(tail) + position
    locator = tail[max(position - LOCATOR64.size, 0) : position]
    if found.entries == FULL16 or FULL32 in (found.size, found.start) or locator.startswith(LOCATOR64_MAGIC):
        end, found = _read_end64(file, end)
    if found.disk or found.directory_disk or found.size > _MAX_DIRECTORY or found.start + found.size != end:
        msg = (
            f"{file.path}: the zip directory should lie at {found.start} to {found.start + found.size}, found its end "
            f"at {end}; the file is damaged, download it again or use another checkpoint"
        )
        raise DamagedError(msg)
    return found


def _read_end64(file: ReadableFile, end: int) -> tuple[int, End64]:
    locator_start = end - LOCATOR64.size
    try:
        locator = Locator64._make(LOCATOR64.unpack(file.read(max(locator_start, 0), LOCATOR64.size)))
        if locator.magic != LOCATOR64_MAGIC or locator.end64 + END64.size > locator_start:
            raise EOFError
        found = End64._make(END64.unpack(file.read(locator.end64, END64.size)))
        if found.magic != END64_MAGIC:
            raise EOFError
    except EOFError as error:
        msg = f"{file.path}: the zip64 directory is damaged; download the file again or use another checkpoint"
        raise DamagedError(msg) from error
    return locator.end64, found


def _parse_entries(raw: bytes, count: int) -> list[Record]:
    records = []
    position, unpack = 0, ENTRY.unpack_from
    for _ in range(count):
        # The fields of an `Entry`, without making one: a file has two thousand records.
        magic, _, _, flags, method, _, _, crc32, packed, nbytes, *sizes, _, _, external, header = unpack(raw, position)
        name_size, extra_size, comment_size = sizes
        position += ENTRY.size
        name = raw[position : position + name_size].decode("utf-8")
        position += name_size
        extra = raw[position : position + extra_size]
        position += extra_size + comment_size
        if magic != ENTRY_MAGIC or position > len(raw):
            msg = "bad entry"
            raise struct.error(msg)
        if FULL32 in (packed, nbytes, header):
            nbytes, packed, header = _zip64_numbers(extra, nbytes, packed, header)
        if flags & ENCRYPTED_FLAG:
            msg = f"record {name!r} is encrypted, expected a plain checkpoint; decrypt it first"
            raise _BadRecordError(msg)
        if method != 0 or packed != nbytes:
            msg = f"record {name!r} is compressed, expected stored records; save it again with torch.save"
            raise _BadRecordError(msg)
        if external & FOLDER_ATTRIBUTE:  # torch would read nothing there
            msg = f"record {name!r} is marked as a folder, which torch never does; save it again with torch.save"
            raise _BadRecordError(msg)
        if nbytes == 0 and crc32 != 0:  # an empty record is never read, so no later check finds it
            msg = f"record {name!r} is empty with checksum {crc32:08x}; the file is damaged, download it again"
            raise _BadRecordError(msg)
        records.append(Record(name, header, nbytes, crc32))
    return records


def _zip64_numbers(extra: bytes, nbytes: int, packed: int, header: int) -> tuple[int, int, int]:
    position = 0
    while position + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, position)
        if kind == ZIP64_EXTRA:
            values = list(struct.unpack_from(f"<{size // 8}Q", extra, position + 4))
            wanted = (nbytes, packed, header)
            if len(values) < wanted.count(FULL32):
                break
            found = [values.pop(0) if value == FULL32 else value for value in wanted]
            return found[0], found[1], found[2]
        position += 4 + size
    msg = "zip64 sizes missing"
    raise struct.error(msg)


def _check_layout(file: ReadableFile, records: list[Record], end_of_data: int) -> None:
    """Refuse records that share bytes: with them, a small file claims to hold a huge model."""
    previous_end = 0
    previous = ""
    for record in sorted(records, key=lambda record: record.header):
        if record.header < previous_end:
            msg = f"{file.path}: records {previous!r} and {record.name!r} overlap; the file is damaged or hostile"
            raise DamagedError(msg)
        previous = record.name
        previous_end = record.header + LOCAL.size + len(record.name.encode()) + record.nbytes
    if previous_end > end_of_data:
        msg = f"{file.path}: record {previous!r} runs into the directory; the file is damaged or hostile"
        raise DamagedError(msg)


def _strip_root(file: ReadableFile, records: list[Record]) -> dict[str, Record]:
    """Return records by name below the root folder, which is ``archive`` or the stem that the file was saved under."""
    roots = [record.name[: -len("/data.pkl")] for record in records if record.name.endswith("/data.pkl")]
    if len(roots) != 1 or "/" in roots[0]:
        msg = f"{file.path}: a zip archive, but not a torch checkpoint: expected one ROOT/data.pkl, found {len(roots)}"
        raise CheckpointError(msg)
    prefix = roots[0] + "/"
    found: dict[str, Record] = {}
    seen: set[str] = set()  # torch ignores case when it looks up a record
    for full, header, nbytes, crc32 in records:
        name = full.removeprefix(prefix)
        folded = name.lower()
        strange = not full.startswith(prefix) or (".." in full and "/../" in f"/{full}/") or "\\" in full
        if strange or name.startswith("/") or folded in seen or not name.isprintable():
            msg = f"{file.path}: record name {full!r} is not one that torch writes; the file is hostile"
            raise CheckpointError(msg)
        seen.add(folded)
        found[name] = Record(name, header, nbytes, crc32)
    return found
