"""Model Stock: how far to go from the base to the mean, from the angles between the models."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

from xtts_export_callback.merge.methods.settings import Coefficients, Method
from xtts_export_callback.tensors.computed import BlockReader, ComputedStorage, block_sizes
from xtts_export_callback.tensors.weighted_sum import WeightedSum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xtts_export_callback.tensors.computed import NextValues
    from xtts_export_callback.tensors.dtypes import DType
    from xtts_export_callback.tensors.tensor import Tensor


class ModelStock(Method):
    """(1 - t) base + t * mean, with a t for each tensor from the angles between the changes."""

    method = "model_stock"
    needs_base = True
    is_sum = False
    fewest_models = 2
    takes_weights = False

    def coefficients(self) -> Coefficients:
        """See `Method.coefficients`; the base counts in full."""
        return Coefficients(self.effective, 1.0, 1.0)

    def storage(self, name: str, models: Sequence[Tensor], base: Tensor | None, dtype: DType) -> ModelStockStorage:
        """See `Method.storage`."""
        assert base is not None
        return ModelStockStorage(name, models, base, dtype)

    def describe(self, names: Sequence[str]) -> str:
        """See `Method.describe`."""
        return f"model_stock: from the base towards the mean of {', '.join(names)}, as far as their angles say"


class ModelStockStorage(ComputedStorage):
    """Jang et al., "Model Stock: All we need is just a few fine-tuned models", 2024 (arXiv 2403.19522).

    t = N c / (1 + (N - 1) c) for N models, where c is the cosine of the angle between two changes (model minus base)
    of a tensor: the mean over all pairs. A change of 0 is at a right angle to all others. Where c is negative, which
    the paper does not meet, the models share no direction and the result is the base.
    """

    def __init__(self, name: str, models: Sequence[Tensor], base: Tensor, dtype: DType) -> None:
        """Describe the merged tensor."""
        super().__init__(name, [*models, base], dtype)

    @property
    def times_read(self) -> list[int]:
        """See `ComputedStorage.times_read`."""
        return [2] * len(self.inputs)

    def values(self) -> NextValues:
        """See `ComputedStorage.values`."""
        count = len(self.inputs) - 1
        t = self._ratio()
        return WeightedSum(self.name, self.inputs, [*[t / count] * count, 1.0 - t], 1.0, self.dtype).values()

    def _ratio(self) -> float:
        products = self._products()
        count = len(products)
        if not all(math.isfinite(one) for row in products for one in row):
            return 0.5  # every input is then read, and the check of the result names the one that is not finite
        cosines = []
        for one, other in combinations(range(count), 2):
            length = math.sqrt(products[one][one]) * math.sqrt(products[other][other])
            cosines.append(max(-1.0, min(1.0, products[one][other] / length)) if length else 0.0)
        cosine = max(0.0, math.fsum(cosines) / len(cosines))
        return count * cosine / (1.0 + (count - 1) * cosine)

    def _products(self) -> list[list[float]]:
        """Scalar products of the changes, each with each."""
        import numpy as np

        *models, base = [BlockReader(tensor) for tensor in self.inputs]
        count = len(models)
        parts: list[list[list[float]]] = [[[] for _ in range(count)] for _ in range(count)]
        with np.errstate(invalid="ignore", over="ignore"):
            for size in block_sizes(self.inputs[0].numel):
                start = base.float64(size)
                changes = [model.float64(size) - start for model in models]
                for one in range(count):
                    for other in range(one, count):
                        parts[one][other].append(float((changes[one] * changes[other]).sum()))
        return [[_sum(parts[min(one, other)][max(one, other)]) for other in range(count)] for one in range(count)]


def _sum(values: Sequence[float]) -> float:
    return math.fsum(values) if all(map(math.isfinite, values)) else math.nan
