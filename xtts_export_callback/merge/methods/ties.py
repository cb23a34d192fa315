"""TIES-merging keeps the large changes that agree in sign."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xtts_export_callback.merge.methods.settings import Coefficients, Method
from xtts_export_callback.tensors.computed import BlockReader, ComputedStorage, block_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xtts_export_callback.tensors.computed import Bits, NextValues, Values
    from xtts_export_callback.tensors.dtypes import DType
    from xtts_export_callback.tensors.tensor import Tensor


class Ties(Method):
    """base + scale * the weighted mean of the large changes that agree in sign."""

    method = "ties"
    needs_base = True
    is_sum = False
    options = frozenset({"scale", "density"})
    allows_negative = False  # weights are votes

    def coefficients(self) -> Coefficients:
        """See `Method.coefficients`; the base counts in full."""
        return Coefficients(tuple(self.scale * weight for weight in self.effective), 1.0, 1.0)

    @property
    def model_shares(self) -> list[float]:
        """The weights in the vote."""
        return list(self.effective)

    def storage(self, name: str, models: Sequence[Tensor], base: Tensor | None, dtype: DType) -> TiesStorage:
        """See `Method.storage`."""
        assert base is not None
        return TiesStorage(name, models, base, self, dtype)

    def describe(self, names: Sequence[str]) -> str:
        """See `Method.describe`."""
        changes = f"{self.scale:.6g} x changes of {', '.join(self.terms(names))}"
        return f"ties: base + {changes}, of which the largest {self.density:.6g} stay"


class TiesStorage(ComputedStorage):
    """TIES-merging: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", 2023.

    Trim: of each model's change (model minus base) the ``density`` largest by magnitude stay, the rest is 0; here
    tensor by tensor, in the paper over the whole model. Elect: the sign of the weighted sum of what stayed.
    Disjoint merge: the weighted mean over the models with the elected sign. The result is base + scale * that mean.
    """

    def __init__(self, name: str, models: Sequence[Tensor], base: Tensor, settings: Ties, dtype: DType) -> None:
        """Describe the merged tensor; weights are not negative, and a model of weight 0 is not read."""
        terms = [(tensor, weight) for tensor, weight in zip(models, settings.effective, strict=True) if weight]
        super().__init__(name, [base, *(tensor for tensor, _ in terms)], dtype)
        self._weights = [weight for _, weight in terms]
        self._settings = settings

    @property
    def times_read(self) -> list[int]:
        """See `ComputedStorage.times_read`."""
        models = len(self.inputs) - 1
        return [1 + models, *[2] * models] if self._trims else [1] * len(self.inputs)

    @property
    def _trims(self) -> bool:
        """Whether anything is trimmed; if not, no threshold has to be read."""
        numel = self.inputs[0].numel
        return math.ceil(self._settings.density * numel) < numel

    def values(self) -> NextValues:
        """See `ComputedStorage.values`."""
        import numpy as np

        thresholds = [self._threshold(tensor) for tensor in self.inputs[1:]]
        base_source, *sources = [BlockReader(tensor) for tensor in self.inputs]
        weights = [weight / self._weights[0] for weight in self._weights]  # equal ones become 1: nothing to multiply
        work: list[Values] = [np.empty(0)] * (len(sources) + 3)

        def next_values(count: int) -> Values:
            nonlocal work
            if len(work[0]) < count:
                work = [np.empty(count) for _ in work]
            scratch, shares, total, *changes = [row[:count] for row in work]
            base = base_source.widenable(count)
            total[:] = 0.0
            for change, source, threshold, weight in zip(changes, sources, thresholds, weights, strict=True):
                self._change(source.widenable(count), base, change, scratch)
                # Masks as factors take less time than picking elements.
                np.multiply(change, scratch >= threshold, out=change)
                if weight != 1:
                    np.multiply(change, weight, out=change)
                total += change
            elected = np.sign(total, out=scratch)
            total[:] = shares[:] = 0.0
            for change, weight in zip(changes, weights, strict=True):
                np.multiply(change, elected, out=change)
                agrees = change > 0
                shares += agrees if weight == 1 else agrees * weight
                total += np.maximum(change, 0.0, out=change)
            total *= elected
            total /= np.maximum(shares, min(weights), out=shares)  # 0 where no model agrees
            total *= self._settings.scale
            total += base
            return total

        return next_values

    def _threshold(self, tensor: Tensor) -> float:
        """Magnitude of the smallest change that stays. Holds one change at a time: 8 bytes per element."""
        import numpy as np

        if not self._trims:
            return 0.0
        source, base = BlockReader(tensor), BlockReader(self.inputs[0])
        magnitudes = np.empty(tensor.numel)
        done = 0
        for count in block_sizes(tensor.numel):
            part = magnitudes[done : done + count]
            self._change(source.widenable(count), base.widenable(count), part, part)
            done += count
        dropped = tensor.numel - math.ceil(self._settings.density * tensor.numel)
        magnitudes.partition(dropped)
        return float(magnitudes[dropped])

    def _change(self, elements: Bits, base: Bits, change: Values, magnitude: Values) -> None:
        """Write a model's change and its magnitude; where both go to one buffer, the magnitude stays."""
        import numpy as np

        with np.errstate(invalid="ignore"):
            np.subtract(elements, base, out=change, dtype=np.float64)
        np.abs(change, out=magnitude)
        if not math.isfinite(magnitude.max()):  # NaN would pass for a small change and be trimmed in silence
            self.blame(change)
