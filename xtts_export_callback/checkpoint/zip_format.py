"""The records of a zip archive, field by field (PKWARE APPNOTE 6.3, sections 4.3 and 4.5)."""

from __future__ import annotations

import struct
from typing import NamedTuple

LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")
END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR64 = struct.Struct("<4sLQL")

LOCAL_MAGIC, ENTRY_MAGIC, END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END64_MAGIC, LOCATOR64_MAGIC, DESCRIPTOR_MAGIC = b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08"

FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
"""Value of a field whose number is in the zip64 record or extra field."""

MAX_COMMENT = 0xFFFF
ZIP64_EXTRA = 1
ENCRYPTED_FLAG, DESCRIPTOR_FLAG, UTF8_FLAG = 0x1, 0x8, 0x800
FOLDER_ATTRIBUTE = 0x10


class Local(NamedTuple):
    """The header that stands before a record's name, extra field and bytes."""

    magic: bytes
    version: int
    flags: int
    method: int
    time: int
    date: int
    crc32: int
    packed: int
    nbytes: int
    name_size: int
    extra_size: int


class Entry(NamedTuple):
    """The entry of a record in the directory; name, extra field and comment follow."""

    magic: bytes
    made_by: int
    version: int
    flags: int
    method: int
    time: int
    date: int
    crc32: int
    packed: int
    nbytes: int
    name_size: int
    extra_size: int
    comment_size: int
    disk: int
    internal: int
    external: int
    header: int


class End(NamedTuple):
    """The record that ends the archive; a comment follows."""

    magic: bytes
    disk: int
    directory_disk: int
    entries_here: int
    entries: int
    size: int
    start: int
    comment_size: int


class End64(NamedTuple):
    """The end record in 64 bits, which torch always writes."""

    magic: bytes
    record_size: int
    made_by: int
    version: int
    disk: int
    directory_disk: int
    entries_here: int
    entries: int
    size: int
    start: int


class Locator64(NamedTuple):
    """The place of the `End64` record; it stands right before `End`."""

    magic: bytes
    disk: int
    end64: int
    disks: int
