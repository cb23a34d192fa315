"""The methods of merging, each with its reference. All of them compute in float64 and round once.

Linear, task arithmetic and interpolation are weighted sums (`Settings.coefficients`); slerp and ties look at a whole
tensor before the first result, which they do by going over the inputs twice, so that no method holds a model in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from xtts_export_callback.combine import BlockReader, ComputedStorage, WeightedSum, block_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xtts_export_callback.checkpoint.dtypes import DType
    from xtts_export_callback.checkpoint.tensor import Tensor
    from xtts_export_callback.combine import Bits, NextValues, Values

LINEAR, SLERP, TASK_ARITHMETIC, TIES, INTERPOLATE = "linear", "slerp", "task_arithmetic", "ties", "interpolate"

METHODS = {
    LINEAR: "weighted mean",
    SLERP: "along the great circle between two models",
    TASK_ARITHMETIC: "base plus what the models changed",
    TIES: "base plus the large changes that agree in sign",
    INTERPOLATE: "between the base and the models",
}
WITH_BASE = (TASK_ARITHMETIC, TIES, INTERPOLATE)

DEFAULT_SCALE = {TASK_ARITHMETIC: 1.0, TIES: 1.0, INTERPOLATE: 0.5}
DEFAULT_DENSITY = 0.2

_PARALLEL = 1e-6  # sine of the angle below which slerp and linear interpolation agree to 1e-12


class Coefficients(NamedTuple):
    """What a method makes of weights.

    Attributes:
        models: One for each model.
        base: That of the base.
        divisor: What the sum of the products is divided by.
    """

    models: tuple[float, ...]
    base: float
    divisor: float


@dataclass(frozen=True)
class Settings:
    """A method and its numbers, checked.

    Attributes:
        method: One of `METHODS`.
        weights: One for each model, as given.
        normalize: Whether the weights are divided by their sum.
        scale: How far from the base: 0 is the base, 1 are the models. It is lambda in the papers on task arithmetic and
            ties and alpha in that on interpolation.
        density: Share of each tensor's changes that ties keeps, the largest.
    """

    method: str
    weights: tuple[float, ...]
    normalize: bool = True
    scale: float = 1.0
    density: float = DEFAULT_DENSITY

    @property
    def effective(self) -> tuple[float, ...]:
        """The weights as they are used: normalised unless that was turned off."""
        total = math.fsum(self.weights) if self.normalize else 1.0
        return tuple(weight / total for weight in self.weights)

    def coefficients(self) -> Coefficients:
        """The method as a weighted sum of models and base.

        - ``linear``: sum(w x) / sum(w). Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
          Generalization", 2018 (along one run); Wortsman et al., "Model soups", 2022 (several fine-tunes).
        - ``task_arithmetic``: base + scale * sum(w (x - base)). Ilharco et al., "Editing Models with Task
          Arithmetic", 2022; with ``normalize: false`` and weights of 1 it is the paper's sum, else the mean.
        - ``interpolate``: (1 - scale) base + scale * sum(w x). Wortsman et al., "Robust fine-tuning of zero-shot
          models" (WiSE-FT), 2021.

        For slerp and ties, which are no such sums, these are the coefficients that say which inputs count at all.
        """
        if self.method in {LINEAR, SLERP}:
            divisor = math.fsum(self.weights) if self.normalize else 1.0
            return Coefficients(self.weights, 0.0, divisor)
        models = tuple(self.scale * weight for weight in self.effective)
        if self.method == TIES:
            return Coefficients(models, 1.0, 1.0)
        total = 1.0 if self.normalize else math.fsum(self.effective)
        return Coefficients(models, 1.0 - self.scale * total, 1.0)

    def shares(self, *, has_base: bool) -> list[float]:
        """The weight of each model, and of the base where there is one, as the method uses them.

        Those of ties are the weights in its vote, and its base counts in full.
        """
        parts = self.coefficients()
        models = self.effective if self.method in {SLERP, TIES} else [one / parts.divisor for one in parts.models]
        return [*models, *([parts.base] if has_base else [])]

    def storage(self, name: str, models: Sequence[Tensor], base: Tensor | None, dtype: DType) -> ComputedStorage:
        """The merged tensor, not computed yet.

        Args:
            name: What it is called.
            models: Floating-point tensors of one shape.
            base: The base's, for methods that have one.
            dtype: Type of the result.
        """
        if self.method == SLERP:
            return Slerp(name, models, self.effective[1], dtype)
        if self.method == TIES:
            assert base is not None
            return Ties(name, models, base, self, dtype)
        parts = self.coefficients()
        tensors = [*models, *([base] if base is not None else [])]
        weights = [*parts.models, *([parts.base] if base is not None else [])]
        return WeightedSum(name, tensors, weights, parts.divisor, dtype)


class Slerp(ComputedStorage):
    """Spherical linear interpolation of two tensors, flattened: Shoemake, "Animating Rotation with Quaternion Curves".

    SIGGRAPH 1985: sin((1 - t) angle) / sin(angle) * first + sin(t angle) / sin(angle) * second, the angle being that
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
        with np.errstate(invalid="ignore", over="ignore"):  # found in the result, where it is named
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


class Ties(ComputedStorage):
    """TIES-merging: Yadav et al., "TIES-Merging: Resolving Interference When Merging Models", 2023.

    Trim: of each model's change (model minus base) the ``density`` largest by magnitude stay, the rest is 0; here
    tensor by tensor, in the paper over the whole model. Elect: the sign of the weighted sum of what stayed.
    Disjoint merge: the weighted mean over the models with the elected sign. The result is base + scale * that mean.
    """

    def __init__(self, name: str, models: Sequence[Tensor], base: Tensor, settings: Settings, dtype: DType) -> None:
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
        """Whether anything is trimmed; else the thresholds need no reading."""
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
            total /= np.maximum(shares, min(weights), out=shares)  # 0 where nobody agrees
            total *= self._settings.scale
            total += base
            return total

        return next_values

    def _threshold(self, tensor: Tensor) -> float:
        """Magnitude of the smallest change that stays. One change a time is held: 8 bytes for each element."""
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
        """Put a model's change and its magnitude where they belong; in one place, that is the magnitude."""
        import numpy as np

        with np.errstate(invalid="ignore"):
            np.subtract(elements, base, out=change, dtype=np.float64)
        np.abs(change, out=magnitude)
        if not math.isfinite(magnitude.max()):  # NaN would pass for a small change and be trimmed in silence
            self.blame(change)
