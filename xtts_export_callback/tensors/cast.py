"""Cast tensors to another element type, with one rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtts_export_callback.tensors.computed import BlockReader, ComputedStorage, all_finite
from xtts_export_callback.tensors.dtypes import BY_NAME, from_float32, to_float64
from xtts_export_callback.tensors.tensor import Tensor

if TYPE_CHECKING:
    from xtts_export_callback.tensors.computed import NextValues
    from xtts_export_callback.tensors.tensor import Reader


class Cast(ComputedStorage):
    """The elements of one tensor in another type, rounded once; float32 is rounded directly, not through float64."""

    def values(self) -> NextValues:
        """See `ComputedStorage.values`."""
        return BlockReader(self.inputs[0]).float64

    def reader(self) -> Reader:
        """See `ComputedStorage.reader`."""
        if self.inputs[0].dtype.name != "float32":
            return super().reader()
        source = BlockReader(self.inputs[0])

        def fill(buffer: memoryview) -> None:
            bits = source.bits(len(buffer) // self.dtype.itemsize)
            result = from_float32(bits, self.dtype)
            if not all_finite(result, self.dtype):
                self.blame(to_float64(bits, self.inputs[0].dtype))
            buffer[:] = result.data.cast("B")

        return fill


def cast(tensors: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Cast the floating-point tensors of a model; all others, and those that have the type, stay unchanged.

    Tied tensors stay tied.

    Args:
        tensors: The state_dict.
        dtype: The type to cast to.

    Returns:
        The new mapping; no tensor is read yet.
    """
    target = BY_NAME[dtype]
    done: dict[tuple[Any, ...], Tensor] = {}
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.dtype.is_float or tensor.dtype is target:
            result[name] = tensor
            continue
        if tensor.view_key not in done:
            storage = Cast(name, [tensor], target)
            done[tensor.view_key] = Tensor.contiguous(storage, target, tensor.shape)
        result[name] = done[tensor.view_key]
    return result
