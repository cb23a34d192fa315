"""The methods that are weighted sums: linear, task arithmetic, interpolation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xtts_export_callback.merge.methods.settings import Coefficients, Method
from xtts_export_callback.tensors.weighted_sum import WeightedSum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xtts_export_callback.tensors.dtypes import DType
    from xtts_export_callback.tensors.tensor import Tensor


class _Sum(Method):
    """Computes what its coefficients say."""

    def storage(self, name: str, models: Sequence[Tensor], base: Tensor | None, dtype: DType) -> WeightedSum:
        """See `Method.storage`."""
        parts = self.coefficients()
        tensors = [*models, *([base] if base is not None else [])]
        weights = [*parts.models, *([parts.base] if base is not None else [])]
        return WeightedSum(name, tensors, weights, parts.divisor, dtype)

    def describe(self, names: Sequence[str]) -> str:
        """See `Method.describe`."""
        base = self.coefficients().base
        return f"{self.method}: {' + '.join([*([f'{base:.6g} x base'] if base else []), *self.terms(names)])}"


class Linear(_Sum):
    """sum(w x) / sum(w)."""

    method = "linear"
    options = frozenset({"normalize"})
    fewest_models = 2

    def coefficients(self) -> Coefficients:
        """See `Method.coefficients`."""
        return Coefficients(self.weights, 0.0, math.fsum(self.weights) if self.normalize else 1.0)


class _WithBase(_Sum):
    """base + scale * sum(w (x - base)), with weights that sum to 1 unless `normalize` is off."""

    needs_base = True

    def coefficients(self) -> Coefficients:
        """See `Method.coefficients`."""
        total = 1.0 if self.normalize else math.fsum(self.effective)
        return Coefficients(tuple(self.scale * weight for weight in self.effective), 1.0 - self.scale * total, 1.0)


class TaskArithmetic(_WithBase):
    """base + scale * sum(w (x - base)); with ``normalize: false`` and weights of 1 the paper's sum, else the mean."""

    method = "task_arithmetic"
    options = frozenset({"scale", "normalize"})
    sum_may_be_zero = True


class Interpolate(_WithBase):
    """(1 - scale) base + scale * sum(w x)."""

    method = "interpolate"
    options = frozenset({"scale"})
    default_scale = 0.5
    scale_range = (0.0, 1.0)
