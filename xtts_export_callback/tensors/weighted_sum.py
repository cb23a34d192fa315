"""Weighted sums of tensors: means, task arithmetic, interpolation."""

from __future__ import annotations

from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING

from xtts_export_callback.tensors.computed import BlockReader, ComputedStorage, Scratch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xtts_export_callback.tensors.computed import NextValues, Values
    from xtts_export_callback.tensors.dtypes import DType
    from xtts_export_callback.tensors.tensor import Tensor


class WeightedSum(ComputedStorage):
    """The element-wise weighted sum of tensors, divided by a divisor.

    A tensor of weight 0 is not read, so its NaN does not matter.
    """

    def __init__(
        self, name: str, tensors: Sequence[Tensor], weights: Sequence[float], divisor: float, dtype: DType
    ) -> None:
        """Describe the sum.

        Args:
            name: Name of the result in errors.
            tensors: Floating-point tensors of one shape, of any dtypes and layouts.
            weights: One for each, not all 0.
            divisor: Divides the sum; the sum of the weights for a mean.
            dtype: The type of the result.
        """
        terms = [(tensor, weight) for tensor, weight in zip(tensors, weights, strict=True) if weight != 0]
        super().__init__(name, [tensor for tensor, _ in terms], dtype)
        self._weights = [weight for _, weight in terms]
        self._divisor = divisor

    def values(self) -> NextValues:
        """See `ComputedStorage.values`."""
        if any(tensor.dtype.itemsize == 8 for tensor in self.inputs):
            return self._differences()
        return self._sums()

    def _sums(self) -> NextValues:
        import numpy as np

        scratch = Scratch()  # shared, so that memory does not grow with the number of models
        terms = [
            (BlockReader(tensor, scratch), weight) for tensor, weight in zip(self.inputs, self._weights, strict=True)
        ]
        factor = _reciprocal(self._divisor)
        total = np.empty(0, np.float64)
        product = np.empty(0, np.float64)

        def next_values(count: int) -> Values:
            nonlocal total, product
            if len(total) < count:
                total = np.empty(count, np.float64)
                product = np.empty(count, np.float64)
            part, scaled = total[:count], product[:count]
            with np.errstate(invalid="ignore", over="ignore"):  # `fill` checks the result and names the tensor
                for index, (source, weight) in enumerate(terms):
                    elements = source.widenable(count)
                    term = part if index == 0 else scaled
                    if weight != 1:  # in float64: by default, numpy multiplies in the elements' type
                        elements = np.multiply(elements, weight, out=term, dtype=np.float64)
                    if index == 0 and elements is not part:
                        part[:] = elements
                    elif index > 0:
                        part += elements
                if factor is None:
                    part /= self._divisor
                elif factor != 1:
                    part *= factor
            return part

        return next_values

    def _differences(self) -> NextValues:
        """Sum the differences from the first term, so that the mean of equal float64 numbers is exactly that number."""
        import math

        import numpy as np

        sources = [BlockReader(tensor) for tensor in self.inputs]
        factors = [weight / self._divisor for weight in self._weights]
        whole = math.fsum(self._weights) / self._divisor

        def next_values(count: int) -> Values:
            first = sources[0].float64(count)
            with np.errstate(invalid="ignore", over="ignore"):
                total = first if whole == 1 else first * whole
                for source, factor in zip(sources[1:], factors[1:], strict=True):
                    total = total + (source.float64(count) - first) * factor
            return total

        return next_values


@lru_cache(maxsize=64)  # a merge has a few divisors and a thousand tensors
def _reciprocal(divisor: float) -> float | None:
    """Return a factor in place of a division, which takes three times as long; None where it would change results.

    With an error of at most 2^-54, ``divisor * x * reciprocal`` rounds to x for every float64 x: a value halfway
    between two numbers of the result's type stays there.
    """
    reciprocal = 1 / divisor
    if not isfinite(reciprocal):
        return None
    (above, below), (factor, power) = divisor.as_integer_ratio(), reciprocal.as_integer_ratio()
    product, one = above * factor, below * power  # product / one: the exact value of divisor * reciprocal
    return reciprocal if abs(product - one) << 54 <= abs(one) else None
