"""Read all of a file once, to check checksums and find NaN and infinity."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.reader import Checkpoint
from xtts_export_callback.checkpoint.zip_reader import read_directory
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.files.crc32 import crc32
from xtts_export_callback.files.digest import new_digest
from xtts_export_callback.files.threads import thread_pool
from xtts_export_callback.tensors.tensor import BLOCK, FileStorage, Storage, Tensor
from xtts_export_callback.verification.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing as npt

    from xtts_export_callback.checkpoint.fingerprint import Digests
    from xtts_export_callback.tensors.dtypes import DType

# Bits of the exponent; a float whose exponent bits are all set is NaN or infinite, whatever else it holds.
_EXPONENT = {
    "float64": ("<u8", 0x7FF0_0000_0000_0000),
    "float32": ("<u4", 0x7F80_0000),
    "float16": ("<u2", 0x7C00),
    "bfloat16": ("<u2", 0x7F80),
}


_MAX_KEY = 100


@dataclass
class _Job:
    """A storage and the tensors over it."""

    storage: Storage
    names: list[str] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Names of the tensors, in a few words."""
        shown = " and ".join(self.names[:2])
        return f"{shown} and {len(self.tensors) - 2} more" if len(self.tensors) > 2 else shown


def content_faults(
    checkpoint: Checkpoint, progress: Callable[[int], None] | None = None, digests: Digests | None = None
) -> list[Fault]:
    """Read every record of a file and check what was read.

    Args:
        checkpoint: An open checkpoint.
        progress: Called with the number of bytes read since the last call, from any thread.
        digests: Filled with the BLAKE3 of each storage, for `content_digest`.

    Returns:
        Records that do not match their checksum, and tensors with NaN or infinity, in file order.
    """
    jobs: dict[int, _Job] = {}
    checkpoint.expect(tensor for _, tensor in named_tensors(checkpoint))
    for name, tensor in named_tensors(checkpoint):
        job = jobs.setdefault(id(tensor.storage), _Job(tensor.storage))
        if len(job.names) < 2:  # a hostile file repeats a tensor a million times
            job.names.append(name)
        job.tensors.append(tensor)

    def work(job: _Job) -> list[Fault]:
        return _job_faults(job, progress, digests)

    with thread_pool() as pool:
        found = [fault for faults in pool.map(work, jobs.values()) for fault in faults]
    return found + _unnamed_faults(checkpoint, _labels(jobs.values()))


def named_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a file: those of the model by name, others by their place in the document."""
    yield from checkpoint.stored.items()
    yield from _walk(checkpoint.document, ())


def _walk(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield _place(path), value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, (*path, index))


def _place(path: tuple[str | int, ...]) -> str:
    """Return where in a document a value is, as Python would write it; long keys are cut."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part[:_MAX_KEY]}" for part in path)
    return "".join(parts).removeprefix(".")


def _job_faults(job: _Job, progress: Callable[[int], None] | None, digests: Digests | None) -> list[Fault]:
    import numpy as np

    dtype = next((tensor.dtype for tensor in job.tensors if tensor.dtype.name in _EXPONENT), None)
    fill = job.storage.reader()
    buffer = np.empty(min(BLOCK, job.storage.nbytes), np.uint8)
    digest = new_digest() if digests is not None and job.storage.nbytes else None
    bad = 0
    first = -1
    try:
        for start in range(0, job.storage.nbytes, BLOCK):
            part = buffer[: min(BLOCK, job.storage.nbytes - start)]
            fill(memoryview(part.data))
            if digest is not None:
                digest.update(memoryview(part.data))
            if dtype is not None:
                found = _nonfinite(part, dtype)
                if found.size and first < 0:
                    first = start // dtype.itemsize + int(found[0])
                bad += found.size
            if progress is not None:
                progress(len(part))
    except CheckpointError as error:
        path = f"{job.storage.file.path}: " if isinstance(job.storage, FileStorage) else ""
        return [Fault("checksums", f"{job.label}: {str(error).removeprefix(path)}")]
    if digests is not None and digest is not None and isinstance(job.storage, FileStorage):
        digests[job.storage.offset] = digest.digest()
    if not bad:
        return []
    what = "value is" if bad == 1 else "values are"
    return [Fault("values", f"{job.label}: {bad} {what} NaN or infinite, the first at element {first}")]


def _nonfinite(part: npt.NDArray[Any], dtype: DType) -> npt.NDArray[Any]:
    """Return the indices of the elements that are NaN or infinite."""
    import numpy as np

    kind, mask = _EXPONENT[dtype.name]
    bits = part[: part.size - part.size % dtype.itemsize].view(kind)
    exponents = bits & np.array(mask, kind)
    return np.flatnonzero(exponents == mask) if int(exponents.max(initial=0)) == mask else np.empty(0, np.intp)


def _labels(jobs: Iterable[_Job]) -> set[str]:
    return {job.storage.label for job in jobs if isinstance(job.storage, FileStorage)}


def _unnamed_faults(checkpoint: Checkpoint, named: set[str]) -> list[Fault]:
    """Check the checksums of records that no tensor uses; the reader has checked that of ``data.pkl``."""
    if checkpoint.format != "pth" or not checkpoint.has_checksums or checkpoint.file is None:
        return []
    from xtts_export_callback.checkpoint.zip_reader import data_offset

    faults = []
    for record in read_directory(checkpoint.file).values():
        label = f"record {record.name}"
        if label in named or record.name == "data.pkl":
            continue
        try:
            crc, position = 0, data_offset(checkpoint.file, label, record.header, record.nbytes)
            for start in range(0, record.nbytes, BLOCK):
                crc = crc32(checkpoint.file.read(position + start, min(BLOCK, record.nbytes - start)), crc)
        except (CheckpointError, EOFError) as error:
            faults.append(Fault("checksums", f"{label}: {error}"))
            continue
        if crc != record.crc32:
            faults.append(Fault("checksums", f"{label}: checksum {crc:08x}, expected {record.crc32:08x}"))
    return faults
