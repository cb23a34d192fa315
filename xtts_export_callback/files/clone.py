"""Blocks that files share: give a file the blocks of another, and find those that a file shares.

XFS, btrfs and others on Linux can do this (``FICLONERANGE`` in ``linux/fs.h``, ``linux/fiemap.h``). A shared block
takes space once; a file that is written there gets a block of its own.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from xtts_export_callback.files.random_access import Moved

if TYPE_CHECKING:
    from xtts_export_callback.files.random_access import RandomFile, ReadableFile

BLOCK = 4096
"""Bytes of a block where XFS and btrfs have their usual settings; only whole blocks can be shared."""

_FICLONERANGE, _FIEMAP = 0x4020940D, 0xC020660B
_RANGE = struct.Struct("=qQQQ")  # source, its offset, length, offset
_MAP = struct.Struct("=QQ4L")  # start, length, flags, extents found, room for extents, reserved
_EXTENT = struct.Struct("=3Q16xL12x")  # logical, physical, length, flags
_LAST, _ENCODED, _SHARED = 0x1, 0x8, 0x2000
_ROOM = 4096  # extents for each call
_REFUSED = {
    *(errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.EBADF),
    *(errno.ETXTBSY, errno.EACCES),
}
"""Errors where a file system cannot clone these ranges; the bytes are then copied."""


def clone_range(out: RandomFile, offset: int, source: ReadableFile, source_offset: int, size: int) -> bool:
    """Give ``out`` the blocks of ``source``: nothing is copied, and a change of one file never shows in the other.

    The system first writes what it holds of the source's range to the disk.

    Args:
        out: The file to write.
        offset: Where, a multiple of the block.
        source: The file to clone from, on the same file system.
        source_offset: A multiple of the block.
        size: Bytes, a multiple of the block or up to the end of the source.

    Returns:
        Whether it was done. Where it was not, nothing has changed.

    Raises:
        OSError: As the system reports it, such as a full disk.
    """
    try:
        import fcntl

        fcntl.ioctl(out.fileno(), _FICLONERANGE, _RANGE.pack(source.fileno(), source_offset, size, offset))
    except (ImportError, AttributeError):  # Windows
        return False
    except OSError as error:
        if error.errno in _REFUSED or error.errno is None:  # no number: a file without a descriptor
            return False
        error.filename = str(out.path)
        raise
    Moved.nbytes += size
    return True


def whole_blocks(offset: int, source_offset: int, size: int) -> tuple[int, int]:
    """Return the part of a range that can be cloned: all whole blocks, if they begin at the same byte in both files.

    Args:
        offset: Where the range will lie.
        source_offset: Where it lies.
        size: Its bytes.

    Returns:
        First and past-the-last byte in the range; equal where nothing can be cloned.
    """
    first = -source_offset % BLOCK
    last = size - (source_offset + size) % BLOCK
    return (first, last) if (offset - source_offset) % BLOCK == 0 and first < last else (0, 0)


def shared_extents(fd: int) -> list[tuple[int, int]]:
    """Return the first and past-the-last byte on the device of each extent that other files may use too.

    Args:
        fd: Descriptor of an open file.

    Returns:
        None of them where the system does not tell. Compressed extents of btrfs are left out: their length on the disk
        is unknown.
    """
    found: list[tuple[int, int]] = []
    try:
        import fcntl

        buffer = bytearray(_MAP.size + _ROOM * _EXTENT.size)
        start, flags = 0, 0
        while not flags & _LAST:
            _MAP.pack_into(buffer, 0, start, (1 << 64) - 1 - start, 0, 0, _ROOM, 0)
            fcntl.ioctl(fd, _FIEMAP, buffer)
            count = _MAP.unpack_from(buffer)[3]
            if not count:
                break
            extents = memoryview(buffer)[_MAP.size : _MAP.size + count * _EXTENT.size]
            for logical, physical, length, flags in _EXTENT.iter_unpack(extents):  # noqa: B007 - the last is looked at
                if flags & _SHARED and not flags & _ENCODED:
                    found.append((physical, physical + length))
            start = logical + length
            extents.release()
    except (ImportError, AttributeError, OSError):
        return []
    return found
