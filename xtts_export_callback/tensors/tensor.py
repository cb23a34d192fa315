"""Tensors that have not been read: the place and the shape of their bytes, not the bytes.

A `Storage` is a run of bytes that can be read from front to back; a `Tensor` is a strided view of one, as in torch.
Each change of a model (cast, average, merge) is a storage whose reader computes. A model can therefore be selected,
renamed and merged as a mapping, and nothing is read until the writer asks for bytes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from xtts_export_callback.errors import CheckpointError, DamagedError
from xtts_export_callback.files.crc32 import crc32
from xtts_export_callback.tensors.dtypes import BY_NAME, DType

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from xtts_export_callback.files.random_access import ReadableFile

    Reader: TypeAlias = Callable[[memoryview], None]

BLOCK = 1 << 20
"""Bytes that are read, computed and written at a time; small enough to stay in a core's cache."""

MAX_DIMENSIONS = 32  # what every numpy can index
MAX_NUMBER = 1 << 48
_MAX_EXPANSION = 64 << 20


class Storage(ABC):
    """A run of bytes.

    Attributes:
        nbytes: Its length in bytes.
        crc32: The CRC-32 of all bytes if it is known without reading them, else None.
    """

    __slots__ = ()

    nbytes: int
    crc32: int | None = None

    @abstractmethod
    def reader(self) -> Reader:
        """Return a function that fills a given buffer with the next bytes.

        All calls together must ask for `nbytes` bytes. Each reader has its own state, so that several can be used at
        once; one reader belongs to one thread.
        """


class FileStorage(Storage):
    """A range of a file. Reading all of it verifies the checksum that the file holds for it, if any."""

    # Slots save memory: fifty open checkpoints have fifty thousand of them.
    __slots__ = ("crc32", "file", "is_verified", "label", "nbytes", "offset")

    def __init__(self, file: ReadableFile, offset: int, nbytes: int, crc32: int | None, label: str) -> None:
        """Describe ``nbytes`` bytes at ``offset`` of ``file``; ``label`` names them in errors."""
        self.file = file
        self.offset = offset
        self.nbytes = nbytes
        self.crc32 = crc32
        self.label = label
        self.is_verified = crc32 is None
        """Whether a full read has matched the checksum, or there is no checksum to match."""

    @property
    def span(self) -> tuple[int, int]:
        """First and past-the-last byte of the file that a read takes."""
        return self.offset, self.offset + self.nbytes

    def reader(self) -> Reader:
        """See `Storage.reader`.

        Raises:
            CheckpointError: From the reader, when the file cannot be read, is shorter than its directory says, or its
                bytes do not match the checksum in the directory.
        """
        position = 0
        crc = 0
        fill_range = self.range_reader(0)

        def fill(buffer: memoryview) -> None:
            nonlocal position, crc
            fill_range(buffer)
            position += len(buffer)
            if self.crc32 is None:
                return
            crc = crc32(buffer, crc)
            if position == self.nbytes:
                if crc != self.crc32:
                    self.file.check_unchanged()
                    msg = (
                        f"{self.file.path}: {self.label}: checksum {crc:08x}, expected {self.crc32:08x}; "
                        "the file is damaged, download it again or use another checkpoint"
                    )
                    raise DamagedError(msg)
                self.is_verified = True

        return fill

    def range_reader(self, start: int) -> Reader:
        """Do the same as `reader`, but from byte ``start``, for any number of bytes, and without the checksum."""
        position = start

        def fill(buffer: memoryview) -> None:
            nonlocal position
            try:
                self.file.read_into(buffer, self.offset + position)
            except (EOFError, OSError) as error:
                reason = "truncated" if isinstance(error, EOFError) else f"cannot be read ({error.strerror})"
                msg = f"{self.file.path}: {self.label}: {reason}; download the file again or use another checkpoint"
                raise (DamagedError if isinstance(error, EOFError) else CheckpointError)(msg) from error
            position += len(buffer)

        return fill


class ArrayStorage(Storage):
    """Bytes in memory."""

    def __init__(self, data: bytes | memoryview) -> None:
        """Wrap ``data``."""
        self.data = memoryview(data).cast("B")
        self.nbytes = len(self.data)

    def reader(self) -> Reader:
        """See `Storage.reader`."""
        position = 0

        def fill(buffer: memoryview) -> None:
            nonlocal position
            buffer[:] = self.data[position : position + len(buffer)]
            position += len(buffer)

        return fill


class SliceStorage(Storage):
    """A part of another storage.

    The first read goes over all of the other storage, which verifies its checksum. Later reads go over the part alone:
    a thousand views of one flat buffer do not read it a thousand times.
    """

    def __init__(self, base: Storage, start: int, stop: int) -> None:
        """Describe the bytes from ``start`` to ``stop`` of ``base``."""
        self.base = base
        self.start = start
        self.nbytes = stop - start

    def reader(self) -> Reader:
        """See `Storage.reader`."""
        if isinstance(self.base, FileStorage) and self.base.is_verified:
            return self.base.range_reader(self.start)
        fill_base = self.base.reader()
        remaining = self.nbytes
        skip(fill_base, self.start)

        def fill(buffer: memoryview) -> None:
            nonlocal remaining
            fill_base(buffer)
            remaining -= len(buffer)
            if remaining == 0:
                skip(fill_base, self.base.nbytes - self.start - self.nbytes)

        return fill


class GatheredStorage(Storage):
    """The elements of a strided view, in row-major order. The view is held in memory while it is read."""

    def __init__(self, tensor: Tensor) -> None:
        """Describe the elements of ``tensor``."""
        self.tensor = tensor
        self.nbytes = tensor.nbytes

    def reader(self) -> Reader:
        """See `Storage.reader`."""
        return ArrayStorage(self.tensor.read().tobytes()).reader()


@dataclass(frozen=True, eq=False, slots=True)  # fifty open checkpoints have fifty thousand of them
class Tensor:
    """A strided view of a storage, as in torch. Two names of the same view are tied.

    Attributes:
        storage: The bytes.
        dtype: Element type.
        shape: Elements along each dimension; empty for a scalar.
        stride: Step along each dimension, in elements; 0 where the tensor is expanded.
        offset: Index of the first element in the storage.
    """

    storage: Storage
    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    @classmethod
    def contiguous(cls, storage: Storage, dtype: DType | str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor over all of ``storage``, in row-major order."""
        return cls(storage, BY_NAME[dtype] if isinstance(dtype, str) else dtype, shape, row_major(shape))

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, written out in row-major order."""
        return self.numel * self.dtype.itemsize

    @property
    def extent(self) -> tuple[int, int]:
        """First and past-the-last byte of the storage that the tensor uses."""
        last = self.offset
        for size, step in zip(self.shape, self.stride, strict=True):
            if size == 0:
                return 0, 0
            last += (size - 1) * step
        return self.offset * self.dtype.itemsize, (last + 1) * self.dtype.itemsize

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps, anywhere in the storage."""
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1:
                if step != expected:
                    return self.numel == 0
                expected *= size
        return True

    @property
    def view_key(self) -> tuple[Any, ...]:
        """A key that two tensors share exactly when they are tied: the same view of the same storage."""
        return (id(self.storage), self.dtype.name, self.shape, self.stride, self.offset)

    def packed(self) -> Storage:
        """Return a storage of the elements in row-major order, without a copy where they already lie so."""
        if not self.is_contiguous:
            return GatheredStorage(self)
        if self.nbytes == self.storage.nbytes:
            return self.storage
        return SliceStorage(self.storage, *self.extent)

    def read(self) -> npt.NDArray[Any]:
        """Read the elements.

        Returns:
            Array of `shape` and numpy type ``dtype.numpy``; bfloat16 and 8-bit floats come as their bits.

        Raises:
            CheckpointError: When the bytes are damaged.
        """
        import numpy as np

        start, stop = self.extent
        base = self.storage if (start, stop) == (0, self.storage.nbytes) else SliceStorage(self.storage, start, stop)
        data = np.empty(base.nbytes, np.uint8)
        if base.nbytes:
            base.reader()(data.data)
        elements = data.view(self.dtype.numpy)
        strides = tuple(step * self.dtype.itemsize for step in self.stride)
        if self.numel == 0:
            return np.empty(self.shape, self.dtype.numpy)
        return np.lib.stride_tricks.as_strided(elements, self.shape, strides, writeable=False)


def place_in_source(storage: Any) -> int:
    """Return the offset in its file of the first bytes that a storage is made of; 0 for bytes in memory.

    Args:
        storage: A storage of any kind.
    """
    while not isinstance(storage, FileStorage):
        tensors = [*getattr(storage, "inputs", ())[:1], *([storage.tensor] if hasattr(storage, "tensor") else [])]
        storage = tensors[0].storage if tensors else getattr(storage, "base", None)
        if storage is None:
            return 0
    return storage.span[0]


def find_fault(
    storage: Storage, dtype: DType, shape: tuple[Any, ...], stride: tuple[Any, ...], offset: Any
) -> str | None:
    """Say why a tensor that a file describes cannot be read.

    Args:
        storage: Its bytes.
        dtype: The type of its elements.
        shape: As in `Tensor`, but the file may hold anything in place of the numbers, here and below.
        stride: As in `Tensor`.
        offset: As in `Tensor`.

    Returns:
        The fault in a few words, or None. Reading a tensor without a fault takes at most the memory of its storage and
        64 MB: shapes expanded further are not weights but an attempt to fill the memory.
    """
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
        return f"{len(shape)} dimensions and {len(stride)} strides"
    for number in (*shape, *stride, offset):
        if type(number) is not int or not 0 <= number <= MAX_NUMBER:
            return "a shape, stride or offset that no tensor has"
    # One loop, not `Tensor.extent`: a file has two thousand tensors, and opening it would take a seventh longer.
    numel, end = 1, offset + 1
    for size, step in zip(shape, stride, strict=True):
        numel *= size
        end += (size - 1) * step
    if numel == 0:
        impossible = math.prod(max(size, 1) for size in shape) > MAX_NUMBER
        return f"the impossible shape {list(shape)}" if impossible else None
    if end * dtype.itemsize > storage.nbytes:
        return f"shape {list(shape)} reaching past the end of its {storage.nbytes} bytes"
    if numel * dtype.itemsize > storage.nbytes + _MAX_EXPANSION:
        return f"{storage.nbytes} bytes expanded to {numel * dtype.itemsize}"
    return None


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a contiguous tensor of ``shape``, as torch computes them."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def skip(fill: Reader, nbytes: int) -> None:
    """Read ``nbytes`` bytes and discard them."""
    buffer = memoryview(bytearray(min(nbytes, BLOCK)))
    while nbytes > 0:
        part = buffer[: min(len(buffer), nbytes)]
        fill(part)
        nbytes -= len(part)
