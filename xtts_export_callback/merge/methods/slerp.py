"""Spherical linear interpolation of two models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xtts_export_callback.merge.methods.settings import Coefficients, Method
from xtts_export_callback.tensors.computed import BlockReader, ComputedStorage, block_sizes
from xtts_export_callback.tensors.weighted_sum import WeightedSum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xtts_export_callback.tensors.computed import NextValues
    from xtts_export_callback.tensors.dtypes import DType
    from xtts_export_callback.tensors.tensor import Tensor

_PARALLEL = 1e-6  # sine of the angle below which slerp and linear interpolation agree to 1e-12


class Slerp(Method):
    """From the first of two models to the second, along the great circle between them."""

    method = "slerp"
    is_sum = False
    fewest_models = 2
    most_models = 2

    def coefficients(self) -> Coefficients:
        """See `Method.coefficients`."""
        return Coefficients(self.weights, 0.0, math.fsum(self.weights) if self.normalize else 1.0)

    def storage(self, name: str, models: Sequence[Tensor], base: Tensor | None, dtype: DType) -> SlerpStorage:  # noqa: ARG002
        """See `Method.storage`."""
        return SlerpStorage(name, models, self.effective[1], dtype)

    def describe(self, names: Sequence[str]) -> str:
        """See `Method.describe`."""
        return f"slerp: from {names[0]} to {names[1]} at {self.effective[1]:.6g}"


class SlerpStorage(ComputedStorage):
    """Spherical linear interpolation of two tensors, flattened: Shoemake, "Animating Rotation with Quaternion Curves".

    SIGGRAPH 1985: sin((1 - t) angle) / sin(angle) * first + sin(t angle) / sin(angle) * second, where angle is the one
    between the two. Where it is next to 0 or 180 degrees, or a tensor is 0, the interpolation is linear.
    """

    def __init__(self, name: str, tensors: Sequence[Tensor], t: float, dtype: DType) -> None:
        """Describe the tensor at ``t`` between the first (0) and the second (1)."""
        super().__init__(name, tensors, dtype)
        self._t = t

    @property
    def times_read(self) -> list[int]:
        """See `ComputedStorage.times_read`."""
        return [2, 2]

    def values(self) -> NextValues:
        """See `ComputedStorage.values`."""
        return WeightedSum(self.name, self.inputs, self._factors(), 1.0, self.dtype).values()

    def _factors(self) -> tuple[float, float]:
        import numpy as np

        linear = (1.0 - self._t, self._t)
        if 0.0 in linear:
            return linear
        first, second = (BlockReader(tensor) for tensor in self.inputs)
        dots, firsts, seconds = [], [], []
        with np.errstate(invalid="ignore", over="ignore"):  # the check of the result names it
            for count in block_sizes(self.inputs[0].numel):
                one, other = first.float64(count), second.float64(count)
                dots.append(float((one * other).sum()))
                firsts.append(float((one * one).sum()))
                seconds.append(float((other * other).sum()))
        sums = [float(np.sum(parts)) for parts in (dots, firsts, seconds)]
        length = math.sqrt(sums[1]) * math.sqrt(sums[2])
        if length == 0 or not math.isfinite(length) or not math.isfinite(sums[0]):
            return linear
        angle = math.acos(max(-1.0, min(1.0, sums[0] / length)))
        sine = math.sin(angle)
        if sine < _PARALLEL:
            return linear
        return math.sin((1.0 - self._t) * angle) / sine, math.sin(self._t * angle) / sine
