"""Read a file behind a URL in ranges: several at once, each once, and again where a connection breaks.

The bytes that will be read are announced first (`RemoteFile.expect`), so that pieces of some MB can be fetched ahead of
the reader and no byte is fetched that nobody needs. A piece is kept until later ones push it out: the memory does not
grow with the file.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from bisect import bisect_right
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import CheckpointError, ConfigError
from xtts_export_callback.files.random_access import RandomFile, ReadableFile
from xtts_export_callback.files.remote import HTTP, RemotePath, attempt, filesystem, identity, look

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

PIECE = 2 << 20
"""Largest range that is fetched at once, in bytes."""

_CONNECTIONS = 8
_AHEAD = 4
_KEPT = 64  # pieces of one file in memory: a reader that lags behind the others finds the end of its tensor still there
_GAP = 64 << 10  # between two ranges; what lies there is read with them
_BLOCK = 4 << 20


def open_remote(path: RemotePath) -> ReadableFile:
    """Open a file behind a URL.

    Returns:
        The file. Where the server cannot send parts of it, a temporary copy on this disk, which ends with it.

    Raises:
        CheckpointError: When there is no such file, or it cannot be read.
        ConfigError, MissingExtraError: As for `files.remote.filesystem`.
    """
    info = look(path)
    if info is None:
        msg = f"{path}: no such file, or no permission to read it; check the address and the credentials"
        raise CheckpointError(msg)
    if info.get("type") == "directory":
        msg = f"{path}: is a folder; name the file in it"
        raise CheckpointError(msg)
    if path.scheme in HTTP and not _sends_parts(path, info):
        return _Downloaded(path, info.get("size"))
    return RemoteFile(path, info)


def read_small(path: RemotePath, most: int) -> bytes:
    """Read a file of at most ``most`` bytes.

    Raises:
        ConfigError: When it is larger or cannot be read.
    """

    def read() -> bytes:
        content = bytearray()
        with stream(path) as file:
            while len(content) <= most and (block := file.read(most + 1 - len(content))):
                content += block
        return bytes(content)

    try:
        content = attempt(path, read)
    except CheckpointError as error:
        raise ConfigError(str(error)) from None
    if len(content) > most:
        msg = f"{path}: expected at most {most} bytes; name another file"
        raise ConfigError(msg)
    return content


def stream(path: RemotePath) -> Any:
    """Open a file to read from front to back; over HTTP as it comes, without asking for ranges."""
    fs, name = filesystem(path)
    return fs.open(name, "rb", **({"block_size": 0, "size": 1} if path.scheme in HTTP else {}))


def _sends_parts(path: RemotePath, info: dict[str, Any]) -> bool:
    """Whether an HTTP server answers with the bytes that it was asked for, and not with the whole file."""
    size = info.get("size")
    if not size or size < 2 or info.get("partial") is False:
        return False

    def probe() -> bool:
        try:
            return len(_range(*filesystem(path), size, 1, 2)) == 1
        except ValueError:  # fsspec has seen that the answer is the whole file, and has not read it
            return False

    return attempt(path, probe)


def _range(fs: Any, name: str, size: int, start: int, stop: int) -> bytes:
    """Fetch a range once; over HTTP in a way that never reads a whole file where a part was asked for."""
    from fsspec.spec import AbstractFileSystem

    is_http = name.partition(":")[0] in HTTP
    if not is_http and type(fs).cat_file is not AbstractFileSystem.cat_file:
        content = fs.cat_file(name, start=start, end=stop)
    else:
        options = {"size": size} if is_http else {}
        with fs.open(name, "rb", cache_type="none", **options) as file:
            file.seek(start)
            content = file.read(stop - start)
    if len(content) != stop - start:
        msg = f"{len(content)} bytes of {stop - start}"
        raise EOFError(msg)
    return bytes(content)


class RemoteFile(ReadableFile):
    """A file behind a URL. Ranges that were announced are fetched ahead; all others when they are read."""

    def __init__(self, path: RemotePath, info: dict[str, Any]) -> None:
        """Open ``path``, of which fsspec says ``info``."""
        self.path: RemotePath = path
        self._where = filesystem(path)  # one for all threads: each of its own would ask for credentials anew
        self._size = int(info["size"])
        self._identity = identity(info)
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._left: set[int] = set()
        self._pieces: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="xtts-export-fetch")

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._size

    @property
    def mode(self) -> int:
        """Permissions for a file made from this one: those that any new file gets."""
        return 0o666

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """See `ReadableFile.expect`; replaces what was announced before."""
        merged: list[list[int]] = []
        for start, stop in sorted(ranges):
            if merged and start <= merged[-1][1] + _GAP:
                merged[-1][1] = max(merged[-1][1], stop)
            else:
                merged.append([start, stop])
        pieces = [
            (first, min(first + PIECE, stop, self._size))
            for start, stop in merged
            for first in range(start, min(stop, self._size), PIECE)
        ]
        with self._lock:
            self._starts, self._stops = [start for start, _ in pieces], [stop for _, stop in pieces]
            self._left = set(range(len(pieces)))
            self._pieces.clear()

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """See `ReadableFile.read_into`.

        Raises:
            EOFError: When the file ends before the buffer is full.
            CheckpointError: When it cannot be read, or is another one by now.
        """
        if offset + len(buffer) > self._size:
            msg = f"{self.path}: the file ends at byte {self._size}, expected {offset + len(buffer)}"
            raise EOFError(msg)
        done = 0
        while done < len(buffer):
            start, content = self._holding(offset + done, offset + len(buffer))
            part = memoryview(content)[offset + done - start :][: len(buffer) - done]
            buffer[done : done + len(part)] = part
            done += len(part)

    def check_unchanged(self) -> None:
        """See `ReadableFile.check_unchanged`."""
        info = look(self.path, self._where)
        if info is None or identity(info) != self._identity:
            msg = f"{self.path}: has changed while it was read; run the command again"
            raise CheckpointError(msg)

    def close(self) -> None:
        """Close the file and stop fetching."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _holding(self, offset: int, stop: int) -> tuple[int, bytes]:
        """Return a range that begins before or at ``offset``, and its bytes."""
        wanted: Future[bytes] | None
        with self._lock:
            index = bisect_right(self._starts, offset) - 1
            if index >= 0 and offset < self._stops[index]:
                start = self._starts[index]
                wanted, *_ = [self._piece(each) for each in range(index, min(index + 1 + _AHEAD, len(self._starts)))]
            else:
                following = self._starts[index + 1] if index + 1 < len(self._starts) else self._size
                start, stop, wanted = offset, min(stop, following, offset + PIECE), None
        return start, self._fetch(start, stop) if wanted is None else wanted.result()

    def _piece(self, index: int) -> Future[bytes]:
        """Return a piece that may still be on its way; the caller holds the lock."""
        found = self._pieces.pop(index, None)
        if found is None:
            found = self._pool.submit(self._fetch_piece, index, self._starts[index], self._stops[index])
        self._pieces[index] = found
        too_many = max(0, len(self._pieces) - _KEPT)
        for oldest in [each for each, piece in self._pieces.items() if piece.done()][:too_many]:
            del self._pieces[oldest]
        return found

    def _fetch_piece(self, index: int, start: int, stop: int) -> bytes:
        content = self._fetch(start, stop)
        with self._lock:
            was_last = self._left == {index}
            self._left.discard(index)
        if was_last:
            self.check_unchanged()
        return content

    def _fetch(self, start: int, stop: int) -> bytes:
        return attempt(self.path, lambda: _range(*self._where, self._size, start, stop), stop=self._closed)


class _Downloaded(RandomFile):
    """A copy of a file whose server does not send parts: of a checkpoint, the list of what it holds stands at its end.

    The copy has no name, so that it goes with this process.
    """

    def __init__(self, path: RemotePath, size: int | None) -> None:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if size is not None and free < size:
            msg = (
                f"{path}: the server sends no parts of a file, and a copy of all its {size:,} bytes does not fit into "
                f"{tempfile.gettempdir()}; set TMPDIR to a larger disk"
            )
            raise CheckpointError(msg)
        amount = f"all {size:,} bytes are" if size is not None else "it is"
        logger.warning("%s: the server sends no parts of a file; %s downloaded to a temporary file", path, amount)
        with tempfile.TemporaryFile() as copy:
            attempt(path, lambda: self._download(path, copy, size))
            copy.flush()
            self.path = path
            self._fd = os.dup(copy.fileno())
            self._lock = threading.Lock()

    @staticmethod
    def _download(path: RemotePath, copy: Any, size: int | None) -> None:
        copy.seek(0)
        copy.truncate()
        with stream(path) as file:
            while block := file.read(_BLOCK):
                copy.write(block)
        if size is not None and copy.tell() != size:
            msg = f"{copy.tell()} bytes of {size}"
            raise EOFError(msg)
