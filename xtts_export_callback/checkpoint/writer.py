"""Write a checkpoint: the one place where tensors are read, checksummed, verified and synced.

The layout of the file is fixed first. Threads then fill it storage by storage through small buffers (numpy, zlib and
file calls release the interpreter lock). Bytes that a source file holds in their final form are copied inside the
kernel, together with their checksum. Each block is read back as soon as it is written, before the file gets its name.

Where the file system can share blocks, those of a source file that lie inside a record are cloned and not copied: the
layout puts records where that is possible (`zip_writer.lay_out`). The file holds the same bytes either way.
"""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import as_completed
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.pickler import dumps
from xtts_export_callback.checkpoint.safetensors import DOCUMENT_KEY
from xtts_export_callback.checkpoint.zip_writer import Slot, directory, lay_out
from xtts_export_callback.errors import CheckpointError, ConfigError, VerificationError
from xtts_export_callback.files.atomic import whole_file
from xtts_export_callback.files.clone import clone_range, whole_blocks
from xtts_export_callback.files.crc32 import crc32
from xtts_export_callback.files.digest import new_digest
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.files.threads import thread_pool
from xtts_export_callback.tensors.shared_storage import pack
from xtts_export_callback.tensors.tensor import (
    BLOCK,
    ArrayStorage,
    FileStorage,
    Storage,
    Tensor,
    place_in_source,
    skip,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import TypeAlias

    from xtts_export_callback.checkpoint.fingerprint import Digests

    Progress: TypeAlias = Callable[[int], None]

_THREADS = min(4, os.cpu_count() or 1)
_SYNC_EVERY = 64 << 20
_VERSION = b"3\n"  # torch/csrc/jit/serialization: the file format version torch.save writes


def _origin(storage: Storage) -> tuple[object, int] | None:
    """Return the file that holds a storage's bytes already, and where, if this machine can share blocks with it.

    A file behind a URL cannot, and its records would each be asked for their place.
    """
    if isinstance(storage, FileStorage) and isinstance(storage.file, RandomFile):
        return storage.file, storage.offset
    return None


@dataclass
class _Job:
    """Bytes to write: a storage, where it goes, its checksum once written, and its BLAKE3 where that is asked for."""

    storage: Storage
    offset: int
    label: str
    crc32: int = 0
    is_hashed: bool = False
    blake3: bytes | None = None

    @property
    def copies(self) -> bool:
        """Whether a source file holds bytes and checksum in their final form."""
        return isinstance(self.storage, FileStorage) and self.storage.crc32 is not None


def write_pth(
    path: Path,
    document: dict[str, Any],
    *,
    force: bool = False,
    mode: int = 0o666,
    progress: Progress | None = None,
    digests: Digests | None = None,
) -> None:
    """Write a file that ``torch.load(weights_only=True)``, also with ``mmap=True``, and ``unzip -t`` accept.

    Args:
        path: The file to write.
        document: Its contents: nested dicts and lists of plain values and `Tensor`. Tensors that share storage
            share it in the file.
        force: Replace an existing file.
        mode: Permissions of the file from the start, narrowed by the umask.
        progress: Called with the number of bytes written since the last call, from any thread.
        digests: Filled with the BLAKE3 of what is read back, for `content_digest`.

    Raises:
        CheckpointError: When a source is damaged.
        OutputExistsError: When the file exists and ``force`` is not given.
        VerificationError: When the bytes read back differ from the bytes written.
        OSError: As the system reports it. Nothing is left behind in any case.
    """
    packed = pack(_tensors_in(document))
    keys: dict[int, str] = {}
    storages: list[Storage] = []
    for tensor in packed.values():
        if id(tensor.storage) not in keys:
            keys[id(tensor.storage)] = str(len(storages))
            storages.append(tensor.storage)

    def place(tensor: Tensor) -> tuple[Tensor, str]:
        rebased = packed[id(tensor)]
        return rebased, keys[id(rebased.storage)]

    records: list[tuple[str, Storage]] = [("data.pkl", ArrayStorage(dumps(document, place)))]
    small = ((".format_version", b"1"), (".storage_alignment", b"64"), ("byteorder", b"little"))
    records += [(name, ArrayStorage(content)) for name, content in small]
    records += [(f"data/{key}", storage) for key, storage in enumerate(storages)]
    records.append(("version", ArrayStorage(_VERSION)))

    slots = lay_out(
        [(f"archive/{name}", storage.nbytes) for name, storage in records],
        [_origin(storage) for _, storage in records],
    )
    jobs = [_Job(storage, slot.data, slot.name) for slot, (_, storage) in zip(slots, records, strict=True)]
    _write_file(path, jobs, lambda: _zip_frame(slots, jobs), digests, force=force, mode=mode, progress=progress)


def write_safetensors(
    path: Path,
    tensors: dict[str, Tensor],
    document: dict[str, Any],
    *,
    force: bool = False,
    mode: int = 0o666,
    progress: Progress | None = None,
    digests: Digests | None = None,
) -> dict[str, int]:
    """Write a ``.safetensors``.

    The format has neither strides nor ties: each name gets its elements in row-major order.

    Args:
        path: The file to write.
        tensors: The state_dict.
        document: Plain values to keep beside it, as JSON in ``__metadata__``.
        force: Replace an existing file.
        mode: As for `write_pth`.
        progress: As for `write_pth`.
        digests: As for `write_pth`.

    Returns:
        The CRC-32 of each tensor's elements, by name, which the format does not hold.

    Raises:
        ConfigError: When a tensor has a name or a type that the format does not allow.
        CheckpointError, OutputExistsError, VerificationError, OSError: As for `write_pth`.
    """
    # The largest elements come first, as in the library's own serializer: every tensor is then aligned to its elements.
    order = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    metadata = {"format": "pt", DOCUMENT_KEY: json.dumps(document)}
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    jobs = []
    for name, tensor in order:
        if not tensor.dtype.safetensors or name in header:
            msg = f"{path}: {name} of type {tensor.dtype.name} cannot be stored as safetensors; write a .pth instead"
            raise ConfigError(msg)
        header[name] = {
            "dtype": tensor.dtype.safetensors,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        jobs.append(_Job(tensor.packed(), position, name))
        position += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    for job in jobs:
        job.offset += start

    head = [(0, len(text).to_bytes(8, "little") + text)]
    _write_file(path, jobs, lambda: head, digests, force=force, mode=mode, progress=progress)
    return {job.label: job.crc32 for job in jobs}


def write_zip(
    path: Path,
    files: dict[str, RandomFile],
    *,
    force: bool = False,
    mode: int = 0o666,
    progress: Progress | None = None,
) -> None:
    """Write a zip archive of stored files.

    Args:
        path: The file to write.
        files: The open files by their names in the archive.
        force: Replace an existing file.
        mode: As for `write_pth`.
        progress: As for `write_pth`.

    Raises:
        OutputExistsError, VerificationError, OSError: As for `write_pth`.
    """
    slots = lay_out([(name, file.size) for name, file in files.items()], [(file, 0) for file in files.values()])
    jobs = [
        _Job(FileStorage(file, 0, file.size, None, name), slot.data, name)
        for slot, (name, file) in zip(slots, files.items(), strict=True)
    ]
    _write_file(path, jobs, lambda: _zip_frame(slots, jobs), None, force=force, mode=mode, progress=progress)


def _zip_frame(slots: list[Slot], jobs: list[_Job]) -> list[tuple[int, bytes]]:
    """Return what lies between the records of an archive whose checksums are known by now, and its directory."""
    for slot, job in zip(slots, jobs, strict=True):
        slot.crc32 = job.crc32
    end = slots[-1].data + slots[-1].nbytes
    return [*((slot.header, slot.local_header) for slot in slots), (end, directory(slots))]


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)


def _write_file(
    path: Path,
    jobs: list[_Job],
    frame: Callable[[], list[tuple[int, bytes]]],
    digests: Digests | None,
    *,
    force: bool,
    mode: int,
    progress: Progress | None,
) -> None:
    """Write the storages, then the bytes around them: ``frame`` returns these with offsets once checksums are known."""
    for each in jobs:
        each.is_hashed = digests is not None and each.storage.nbytes > 0
    with (
        whole_file(path, force=force) as temporary,
        RandomFile(temporary, create=True, mode=mode) as out,
        _Syncer(out) as sync,
    ):
        stop = threading.Event()
        queue: SimpleQueue[_Job | None] = SimpleQueue()
        # In the order of the source: a disk, or a server, is then read from front to back.
        for job in (*sorted(jobs, key=lambda job: place_in_source(job.storage)), *[None] * _THREADS):
            queue.put(job)
        with thread_pool(_THREADS, stop) as pool:
            tasks = [pool.submit(_write_jobs, out, queue, stop, sync, progress) for _ in range(_THREADS)]
            for task in as_completed(tasks):
                task.result()
        pieces = frame()
        for offset, data in pieces:
            out.write_at(data, offset)
        sync.start_last()
        for offset, data in pieces:
            _verify_piece(out, offset, data)
        sync.wait_for_last()
    if digests is not None:
        digests |= {job.offset: job.blake3 for job in jobs if job.blake3 is not None}


class _Syncer:
    """Makes the disk write while we still compute: otherwise the system keeps gigabytes for the final sync."""

    def __init__(self, out: RandomFile) -> None:
        self._out = out
        self._pending = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._abandoned = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="xtts-export-sync", daemon=True)

    def __enter__(self) -> _Syncer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abandoned = True  # after an error the bytes need not reach the disk
        self._wake.set()
        self._thread.join()

    def written(self, nbytes: int) -> None:
        with self._lock:
            self._pending += nbytes
            if self._pending < _SYNC_EVERY:
                return
            self._pending = 0
        self._wake.set()

    def start_last(self) -> None:
        """Start the last sync, now that everything is written."""
        self._closing = True
        self._wake.set()

    def wait_for_last(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._wake.wait()
            self._wake.clear()
            if self._abandoned:
                return
            is_last = self._closing  # read before the sync begins: a running sync may miss later bytes
            try:
                if is_last:
                    self._out.sync()
                else:
                    self._out.start_sync()
            except Exception as error:  # after any error, the bytes are not on the disk
                self._error = error
                return


class _StoppedError(Exception):
    """Another thread failed."""


def _write_jobs(
    out: RandomFile, queue: SimpleQueue[_Job | None], stop: threading.Event, sync: _Syncer, progress: Progress | None
) -> None:
    """Do the work of one thread: take jobs from the queue that all threads share, until it gives None.

    One task of the pool for each job would wake the main thread a thousand times.
    """
    buffers = memoryview(bytearray(BLOCK)), memoryview(bytearray(BLOCK))
    for job in iter(queue.get, None):
        _write_job(out, job, buffers, stop, sync, progress)


def _write_job(
    out: RandomFile,
    job: _Job,
    buffers: tuple[memoryview, memoryview],
    stop: threading.Event,
    sync: _Syncer,
    progress: Progress | None,
) -> None:
    storage = job.storage
    if isinstance(storage, FileStorage):
        first, last = whole_blocks(job.offset, storage.offset, storage.nbytes)
        if last and clone_range(out, job.offset + first, storage.file, storage.offset + first, last - first):
            _finish_clone(out, job, storage, (first, last), buffers[0], stop, progress)
            return
    fill = None if job.copies else storage.reader()
    digest = new_digest() if job.is_hashed else None
    crc = crc_back = 0
    for start in range(0, storage.nbytes, BLOCK):
        if stop.is_set():
            raise _StoppedError
        size = min(BLOCK, storage.nbytes - start)
        part, back = buffers[0][:size], buffers[1][:size]
        if fill is None:
            _copy_block(out, job, start, size)
        else:
            fill(part)
            crc = crc32(part, crc)
            out.write_at(part, job.offset + start)
        _read_back(out, back, job.offset + start)
        crc_back = crc32(back, crc_back)
        if digest is not None:
            digest.update(back)
        sync.written(size)
        if progress is not None:
            progress(size)
    job.crc32 = storage.crc32 if job.copies and storage.crc32 is not None else crc
    job.blake3 = digest.digest() if digest is not None else None
    _verify_job(out, job, crc_back)


def _finish_clone(
    out: RandomFile,
    job: _Job,
    source: FileStorage,
    cloned: tuple[int, int],
    buffer: memoryview,
    stop: threading.Event,
    progress: Progress | None,
) -> None:
    """Write what lies around the blocks that a record shares with its source, and verify it.

    Shared blocks have no second copy that could differ, so that the source is read in place of them, unless its
    checksum is known to be right: then there is no digest either.
    """
    is_known = job.copies and source.is_verified
    digest = new_digest() if job.is_hashed and not is_known else None
    fill = source.reader()
    crc = 0
    for start, size in _pieces(source.nbytes, cloned):
        if stop.is_set():
            raise _StoppedError
        part, is_edge = buffer[:size], not cloned[0] <= start < cloned[1]
        if is_edge or not is_known:
            (source.range_reader(start) if is_known else fill)(part)
        if is_edge:
            out.write_at(part, job.offset + start)
            _verify_piece(out, job.offset + start, bytes(part))
        if not job.copies:
            crc = crc32(part, crc)
        if digest is not None:
            digest.update(part)
        if progress is not None:
            progress(size)
    job.crc32 = source.crc32 if job.copies and source.crc32 is not None else crc
    job.blake3 = digest.digest() if digest is not None else None


def _pieces(nbytes: int, cloned: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Return offset and length of the pieces of a record, none of them partly cloned."""
    for first, last in ((0, cloned[0]), cloned, (cloned[1], nbytes)):
        for start in range(first, last, BLOCK):
            yield start, min(BLOCK, last - start)


def _copy_block(out: RandomFile, job: _Job, start: int, size: int) -> None:
    source = job.storage
    assert isinstance(source, FileStorage)
    try:
        out.copy_range_from(source.file, source.offset + start, job.offset + start, size)
    except EOFError as error:
        msg = f"{source.file.path}: {source.label}: truncated; download the file again or use another checkpoint"
        raise CheckpointError(msg) from error


def _verify_job(out: RandomFile, job: _Job, crc_back: int) -> None:
    if crc_back == job.crc32:
        return
    if isinstance(job.storage, FileStorage):
        _blame_source(job.storage)
    msg = f"{out.path}: {job.label}: read back with checksum {crc_back:08x}, expected {job.crc32:08x}; check the disk"
    raise VerificationError(msg)


def _verify_piece(out: RandomFile, offset: int, data: bytes) -> None:
    buffer = bytearray(len(data))
    _read_back(out, memoryview(buffer), offset)
    if buffer != data:
        msg = f"{out.path}: the {len(data)} bytes at {offset} read back differ from those written; check the disk"
        raise VerificationError(msg)


def _read_back(out: RandomFile, buffer: memoryview, offset: int) -> None:
    try:
        out.read_into(buffer, offset)
    except EOFError as error:
        msg = f"{error}; it was truncated during the write, check the disk"
        raise VerificationError(msg) from error


def _blame_source(storage: FileStorage) -> None:
    """Raise if the source does not match its own checksum."""
    skip(storage.reader(), storage.nbytes)
