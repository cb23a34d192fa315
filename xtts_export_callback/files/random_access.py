"""Read and write files at an offset, copy ranges between files, and sync them to the disk.

Calls that only some systems have (``preadv``, ``copy_file_range``, ``sync_file_range``, opening a directory) are used
where they exist, with a portable path beside them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

_O_BINARY = getattr(os, "O_BINARY", 0)
_COPY_BLOCK = 1 << 20
_PIECE = 8 << 20
# linux/fs.h: the first starts to write dirty pages and does not wait; the second waits until they are written
_SYNC_FILE_RANGE_WRITE, _SYNC_FILE_RANGE_WAIT = 2, 1 | 2 | 4
# Errors of copy_file_range where a file system does not support it: the bytes are then copied through memory.
_NO_RANGE_COPY = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}


class Moved:
    """A count of the work done on files, which shows whether this process still makes progress.

    Attributes:
        nbytes: Grows with every read, write and sync of any file. Threads may lose a count.
    """

    nbytes = 0


class ReadableFile(ABC):
    """An open file that is read at offsets, by several threads at once, wherever it lies.

    Attributes:
        path: Its name in messages.
    """

    path: Path

    def __enter__(self) -> ReadableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes in the file."""

    @property
    @abstractmethod
    def mode(self) -> int:
        """Permissions for a file made from this one."""

    @abstractmethod
    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset``.

        Raises:
            EOFError: When the file ends before the buffer is full.
            OSError, CheckpointError: When it cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file; closing twice is fine."""

    def read(self, offset: int, size: int) -> bytes:
        """Read ``size`` bytes from ``offset``; raises as `read_into` does."""
        buffer = bytearray(size)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def fileno(self) -> int:
        """Return the descriptor, for calls of the system that take one.

        Raises:
            OSError: Without a number, for a file that is not on this machine.
        """
        raise OSError

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:  # noqa: B027 - only a file that is far away needs it
        """Tell a file that is far away which bytes will be read, as first and past-the-last one, so that it begins."""

    def check_unchanged(self) -> None:  # noqa: B027 - an open file of this machine stays the same
        """Refuse a file that somebody has replaced since it was opened, where that can happen.

        Raises:
            CheckpointError: When it is another.
        """


class RandomFile(ReadableFile):
    """An open file of this machine that is read and written at offsets, by several threads at once.

    It keeps its descriptor, so that a file deleted meanwhile (the Trainer's retention does that) stays readable on
    POSIX systems.
    """

    def __init__(self, path: Path, *, create: bool = False, mode: int = 0o666) -> None:
        """Open ``path`` for reading, or create it (it must not exist) for reading and writing.

        Args:
            path: The file.
            create: Whether to create it.
            mode: Permissions of a created file, narrowed by the umask.

        Raises:
            OSError: As ``os.open``.
        """
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL if create else os.O_RDONLY
        self._fd = os.open(path, flags | _O_BINARY, mode)
        # Guards the file position where preadv is missing, and range copies into the file: the kernel admits one
        # thread at a time and lets the others spin.
        self._lock = threading.Lock()

    def __enter__(self) -> RandomFile:
        return self

    def fileno(self) -> int:
        """See `ReadableFile.fileno`."""
        return self._fd

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._fd).st_size

    @property
    def mode(self) -> int:
        """Permissions for a file made from this one: the same, and its owner can always read it."""
        return 0o666 if sys.platform == "win32" else os.fstat(self._fd).st_mode & 0o777 | 0o400

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` from ``offset``.

        Raises:
            EOFError: When the file ends before the buffer is full.
            OSError: As the system reports it.
        """
        done = 0
        while done < len(buffer):
            try:
                count = self._read_some(buffer[done:], offset + done)
            except OSError as error:
                self._name(error)
                raise
            if count == 0:
                msg = f"{self.path}: the file ends at byte {offset + done}, expected {offset + len(buffer)}"
                raise EOFError(msg)
            done += count
            Moved.nbytes += count

    def write_at(self, data: memoryview | bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``.

        Raises:
            OSError: As the system reports it, also for a full disk.
        """
        view = memoryview(data)
        done = 0
        while done < len(view):
            try:
                count = self._write_some(view[done:], offset + done)
                if count == 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self._name(error)
                raise
            done += count
            Moved.nbytes += count

    def copy_range_from(self, source: ReadableFile, source_offset: int, offset: int, size: int) -> None:
        """Copy ``size`` bytes from ``source``, inside the kernel where possible.

        Raises:
            EOFError: When the source ends early.
            OSError: As the system reports it.
        """
        with self._lock:
            done = self._copy_in_kernel(source, source_offset, offset, size)
        buffer = memoryview(bytearray(min(_COPY_BLOCK, size - done)))
        while done < size:
            part = buffer[: min(len(buffer), size - done)]
            source.read_into(part, source_offset + done)
            self.write_at(part, offset + done)
            done += len(part)

    def sync(self) -> None:
        """Return once the bytes are on the disk."""
        try:
            if self._sync_pieces(_SYNC_FILE_RANGE_WRITE):
                self._sync_pieces(_SYNC_FILE_RANGE_WAIT)
            os.fsync(self._fd)
        except OSError as error:
            self._name(error)
            raise

    def start_sync(self) -> None:
        """Start to write the bytes so far to the disk, without blocking writers where the system can do that.

        The next `sync` raises the errors of the disk.
        """
        if not self._sync_pieces(_SYNC_FILE_RANGE_WRITE):
            self.sync()

    def _sync_pieces(self, flags: int) -> bool:
        """Call ``sync_file_range`` piece by piece, so that a slow disk shows progress; False where it fails.

        Raises:
            OSError: When the disk fails to write a piece that is waited for: the system reports that only once.
        """
        sync_range = _sync_file_range()
        if sync_range is None:
            return False
        import ctypes

        try:
            size = self.size
        except OSError:
            return False
        for start in range(0, size, _PIECE):
            if sync_range(self._fd, start, _PIECE, flags) != 0:
                number = ctypes.get_errno()
                if flags == _SYNC_FILE_RANGE_WAIT and number not in _NO_RANGE_COPY:
                    raise OSError(number, os.strerror(number))
                return False
            Moved.nbytes += 1
        return True

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _name(self, error: OSError) -> None:
        """Add the file's name to an error: the system does not know it from the descriptor."""
        error.filename = os.fspath(self.path)

    def _copy_in_kernel(self, source: ReadableFile, source_offset: int, offset: int, size: int) -> int:
        if not (isinstance(source, RandomFile) and hasattr(os, "copy_file_range")):
            return 0
        done = 0
        while done < size:
            try:
                count = os.copy_file_range(source._fd, self._fd, size - done, source_offset + done, offset + done)
            except OSError as error:
                if error.errno in _NO_RANGE_COPY:
                    break
                self._name(error)
                raise
            if count == 0:  # the source ended, or the file system lies: the portable path finds out which
                break
            done += count
            Moved.nbytes += count
        return done

    def _read_some(self, buffer: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._fd, [buffer], offset)
        with self._lock:
            os.lseek(self._fd, offset, os.SEEK_SET)
            data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _write_some(self, data: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._fd, data, offset)
        with self._lock:
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.write(self._fd, data)


@cache
def _sync_file_range() -> Callable[..., int] | None:
    """Return ``sync_file_range`` of the C library: descriptor, first byte, number of bytes (0: all), flags."""
    try:
        import ctypes

        function: Any = ctypes.CDLL(None, use_errno=True).sync_file_range
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    except (ImportError, AttributeError, OSError, TypeError):  # Python without libffi, other systems, Windows
        return None
    return function  # type: ignore[no-any-return]


def sync_file(path: Path) -> None:
    """Return once the bytes of a file are on the disk, where the file system can tell.

    Raises:
        OSError: As the system reports it.
    """
    fd = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # some mounts lack this call
            raise
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable, where the system can sync directories (Windows cannot)."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
