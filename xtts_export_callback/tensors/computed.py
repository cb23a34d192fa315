"""Tensors computed from tensors, as storages that compute while they are read.

Sums are computed in float64 and rounded once, to nearest even, so that a result is as exact as its type allows and
independent of the order of blocks and threads.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeAlias

from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.tensors.dtypes import BY_NAME, DType, from_float64, to_float64
from xtts_export_callback.tensors.tensor import GatheredStorage, Storage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

    from xtts_export_callback.tensors.tensor import Reader, Tensor

    Bits: TypeAlias = npt.NDArray[Any]
    Values: TypeAlias = npt.NDArray[np.float64]
    NextValues: TypeAlias = Callable[[int], Values]

_HALF_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}
_STEP = 1 << 18  # elements at a time: a block of float32; with fewer, threads wait for the interpreter lock
_WIDENED_BY_NUMPY = {"<f2", "<f4", "<f8"}


class ComputedStorage(Storage):
    """Elements that are computed in float64, block by block in row-major order, and rounded once."""

    def __init__(self, name: str, inputs: Sequence[Tensor], dtype: DType, numel: int | None = None) -> None:
        """Describe the result.

        Args:
            name: Name of the result in errors.
            inputs: Floating-point tensors to compute it from.
            dtype: The floating-point type of the result.
            numel: Its number of elements; by default that of the first input.
        """
        self.name = name
        self.inputs = list(inputs)
        self.dtype = dtype
        self.nbytes = (inputs[0].numel if numel is None else numel) * dtype.itemsize

    @abstractmethod
    def values(self) -> NextValues:
        """Return a function that takes a count and returns that many next elements as a float64 array.

        The next call may overwrite the array. The first call asks for the most elements.
        """

    @property
    def times_read(self) -> list[int]:
        """How often each input is read."""
        return [1] * len(self.inputs)

    def reader(self) -> Reader:
        """See `Storage.reader`.

        Raises:
            CheckpointError: From the reader, when an element of the result is NaN or infinite.
        """
        import numpy as np

        next_values = self.values()

        def fill(buffer: memoryview) -> None:
            result = np.frombuffer(buffer, self.dtype.numpy)
            for start in range(0, len(result), _STEP):
                part = result[start : start + _STEP]
                values = next_values(len(part))
                from_float64(values, self.dtype, out=part)
                if not all_finite(part, self.dtype):
                    self.blame(values)

        return fill

    def blame(self, values: Values) -> None:
        """Say why elements are not finite: an input is not, they are too large for the type, or the weights are wrong.

        Raises:
            CheckpointError: Always.
        """
        import numpy as np

        for tensor in self.inputs:
            if not all(all_finite(bits, tensor.dtype) for bits in blocks(tensor)):
                msg = f"{source_path(tensor)}: {self.name}: holds NaN or infinity; leave this checkpoint out"
                raise CheckpointError(msg)
        largest = float(np.abs(values).max())
        if np.isfinite(largest) and self.dtype.name == "float16":
            msg = f"{self.name}: {largest:.6g} is too large for float16; choose --dtype float32 or bfloat16"
            raise CheckpointError(msg)
        msg = f"{self.name}: the result is NaN, infinite or too large for {self.dtype.name}; check the weights"
        raise CheckpointError(msg)


class Scratch:
    """Memory that is reused."""

    def __init__(self) -> None:
        """Start without memory."""
        self._buffer = memoryview(bytearray())

    def take(self, size: int) -> memoryview:
        """Return ``size`` bytes, the same ones as the last time."""
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))
        return self._buffer[:size]


class BlockReader:
    """Reads a tensor from front to back, in blocks of any size."""

    def __init__(self, tensor: Tensor, scratch: Scratch | None = None) -> None:
        """Start at the first element of ``tensor``, in row-major order.

        Args:
            tensor: The tensor; `bits` alone takes other than floating-point ones.
            scratch: Memory for the elements until the next read; readers that are used in turn may share it.
        """
        self._fill = tensor.packed().reader()
        self._dtype = tensor.dtype
        self._scratch = scratch or Scratch()

    def bits(self, count: int) -> Bits:
        """Return the next ``count`` elements as stored in the file, valid until the next call."""
        import numpy as np

        raw = self._scratch.take(count * self._dtype.itemsize)
        self._fill(raw)
        return np.frombuffer(raw, self._dtype.numpy)

    def widenable(self, count: int) -> Bits:
        """Return the next ``count`` elements in a type that numpy can widen to float64 without a copy."""
        bits = self.bits(count)
        return bits if self._dtype.numpy in _WIDENED_BY_NUMPY else to_float64(bits, self._dtype)

    def float64(self, count: int) -> Values:
        """Return the next ``count`` elements as a new float64 array."""
        return to_float64(self.bits(count), self._dtype)


def blocks(tensor: Tensor) -> Iterable[Bits]:
    """Yield all elements of a tensor as stored in the file, in row-major order, block by block."""
    source = BlockReader(tensor)
    for count in block_sizes(tensor.numel):
        yield source.bits(count)


def block_sizes(numel: int) -> Iterable[int]:
    """Yield the sizes of the blocks, for methods that read all inputs before the first result."""
    for start in range(0, numel, _STEP):
        yield min(_STEP, numel - start)


def all_finite(bits: Bits, dtype: DType) -> bool:
    """Whether no element is NaN or infinite.

    Args:
        bits: Elements as stored in a file, any shape.
        dtype: Their type; only float64, float32, float16 and bfloat16 are checked.
    """
    import numpy as np

    exponent = _HALF_EXPONENTS.get(dtype.name)
    if exponent is not None:  # all bits set; several times as fast as numpy's isfinite
        return bool(((bits.view("<u2") & exponent) != exponent).all())
    return dtype.numpy[1] != "f" or bool(np.isfinite(bits).all())


def source_path(tensor: Tensor) -> str:
    """Return the file that a tensor is read from, for messages."""
    storage = tensor.storage
    file = getattr(storage, "file", None) or getattr(getattr(storage, "base", None), "file", None)
    return str(file.path) if file is not None else "a source"


def bytes_read(tensor: Tensor) -> int:
    """Return how many bytes a read of a tensor takes from its file: its whole storage, which the checksum covers."""
    packed = tensor.packed()
    if isinstance(packed, GatheredStorage):
        return 0 if tensor.numel == 0 else tensor.storage.nbytes
    return tensor.storage.nbytes if packed.nbytes else 0


def widest(dtypes: Iterable[DType]) -> DType:
    """Return the floating-point type that loses the least: float32 for float16 with bfloat16."""
    found = list(dict.fromkeys(dtypes))
    if len(found) > 1 and all(dtype.itemsize <= 2 for dtype in found):
        return BY_NAME["float32"]
    return max(found, key=lambda dtype: dtype.itemsize)
