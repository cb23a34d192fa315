"""Tensors computed from tensors: casts and weighted means, as storages that compute while they are read.

Sums run in float64 and are rounded once, to nearest even, so that a mean is as exact as its output type allows and
independent of the order of blocks and threads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.dtypes import BY_NAME, DType, from_float64, to_float64
from xtts_export_callback.checkpoint.tensor import Storage, Tensor
from xtts_export_callback.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from xtts_export_callback.checkpoint.tensor import Reader


class WeightedSum(Storage):
    """The element-wise weighted sum of tensors, divided by a divisor, in row-major order.

    A weight of 0 means that the tensor is not even read: its NaN does not count.
    """

    def __init__(
        self, name: str, tensors: Sequence[Tensor], weights: Sequence[float], divisor: float, dtype: DType
    ) -> None:
        """Describe the sum.

        Args:
            name: What the result is called, for errors.
            tensors: Floating-point tensors of one shape, of any dtypes and layouts.
            weights: One for each.
            divisor: What the sum is divided by; the sum of the weights for a mean.
            dtype: The type of the result.
        """
        self.name = name
        self.dtype = dtype
        self.nbytes = tensors[0].numel * dtype.itemsize
        self._terms = [(tensor, weight) for tensor, weight in zip(tensors, weights, strict=True) if weight != 0]
        self._divisor = divisor

    def reader(self) -> Reader:
        """See `Storage.reader`.

        Raises:
            CheckpointError: From the reader, when an element of the result is NaN or infinite.
        """
        import numpy as np

        sources = [(tensor.packed().reader(), tensor.dtype, weight) for tensor, weight in self._terms]
        scratch = memoryview(bytearray())
        total = np.empty(0, np.float64)

        def fill(buffer: memoryview) -> None:
            nonlocal scratch, total
            count = len(buffer) // self.dtype.itemsize
            if len(total) < count:  # the first block is the largest
                total = np.empty(count, np.float64)
                scratch = memoryview(bytearray(8 * count))
            part = total[:count]
            part[:] = -0.0  # the one number that changes nothing when it is added to, not even the sign of a zero
            for fill_source, dtype, weight in sources:
                raw = scratch[: count * dtype.itemsize]
                fill_source(raw)
                _accumulate(part, np.frombuffer(raw, dtype.numpy), dtype, weight)
            if self._divisor != 1:
                part /= self._divisor
            result = from_float64(part, self.dtype)
            if not all_finite(result, self.dtype):
                self._blame(part)
            buffer[:] = memoryview(result).cast("B")

        return fill

    def _blame(self, values: npt.NDArray[np.float64]) -> None:
        import numpy as np

        if np.isfinite(values).all():
            largest = float(np.abs(values).max())
            msg = f"{self.name}: {largest:.6g} is too large for {self.dtype.name}; choose --dtype float32 or bfloat16"
            raise CheckpointError(msg)
        for tensor, _ in self._terms:
            if not all_finite(tensor.read(), tensor.dtype):
                msg = f"{source_path(tensor)}: {self.name}: holds NaN or infinity; leave this checkpoint out"
                raise CheckpointError(msg)
        msg = f"{self.name}: the result is NaN or infinite; check the weights"
        raise CheckpointError(msg)


def _accumulate(total: npt.NDArray[np.float64], bits: npt.NDArray[Any], dtype: DType, weight: float) -> None:
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):  # found in the result, where it is named
        if weight == 1:
            # numpy widens inside the addition: no second array
            np.add(total, bits if dtype.numpy in {"<f4", "<f8", "<f2"} else to_float64(bits, dtype), out=total)
        else:
            values = to_float64(bits, dtype)
            values *= weight
            total += values


def all_finite(bits: npt.NDArray[Any], dtype: DType) -> bool:
    """Whether no element is NaN or infinite.

    Args:
        bits: Elements as they stand in a file, any shape.
        dtype: Their type; only float64, float32, float16 and bfloat16 can hold either.
    """
    import numpy as np

    if dtype.name == "bfloat16":
        return bool(((bits & 0x7F80) != 0x7F80).all())
    return dtype.numpy[1] != "f" or bool(np.isfinite(bits).all())


def source_path(tensor: Tensor) -> str:
    """The file that a tensor is read from, for messages."""
    storage = tensor.storage
    file = getattr(storage, "file", None) or getattr(getattr(storage, "base", None), "file", None)
    return str(file.path) if file is not None else "a source"


def cast(tensors: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Cast the floating-point tensors of a model; the others, and those that have the type, stay what they are.

    Ties stay ties.

    Args:
        tensors: The state_dict.
        dtype: The type to cast to.

    Returns:
        The mapping, nothing read yet.
    """
    target = BY_NAME[dtype]
    done: dict[tuple[Any, ...], Tensor] = {}
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.dtype.is_float or tensor.dtype is target:
            result[name] = tensor
            continue
        if tensor.view_key not in done:
            storage = WeightedSum(name, [tensor], [1.0], 1.0, target)
            done[tensor.view_key] = Tensor.contiguous(storage, target, tensor.shape)
        result[name] = done[tensor.view_key]
    return result


def weighted_mean(models: Sequence[dict[str, Tensor]], weights: Sequence[float], dtype: str | None) -> dict[str, Tensor]:
    """The weighted mean of models with the same keys and shapes.

    Integer and bool tensors are taken from the last model. What is tied in every model stays tied.

    Args:
        models: State_dicts, oldest first.
        weights: One for each, of any sum but 0; they are divided by it.
        dtype: Type of the floating-point results; by default each keeps the widest type it has among the models.

    Returns:
        The mapping, nothing read yet.
    """
    divisor = math.fsum(weights)
    done: dict[tuple[Any, ...], Tensor] = {}
    result: dict[str, Tensor] = {}
    for name, newest in models[-1].items():
        if not newest.dtype.is_float:
            result[name] = newest
            continue
        inputs = [model[name] for model in models]
        key = tuple(tensor.view_key for tensor in inputs)
        if key not in done:
            target = BY_NAME[dtype] if dtype else widest(tensor.dtype for tensor in inputs)
            storage = WeightedSum(name, inputs, weights, divisor, target)
            done[key] = Tensor.contiguous(storage, target, newest.shape)
        result[name] = done[key]
    return result


def widest(dtypes: Any) -> DType:
    """The type that loses the least among floating-point types: float32 for float16 with bfloat16."""
    found = list(dict.fromkeys(dtypes))
    if len(found) > 1 and all(dtype.itemsize <= 2 for dtype in found):
        return BY_NAME["float32"]
    best: DType = max(found, key=lambda dtype: dtype.itemsize)
    return best
