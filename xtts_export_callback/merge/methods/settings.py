"""The base class of all methods: their settings, the weights they allow, and how they merge tensors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from xtts_export_callback.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xtts_export_callback.tensors.computed import ComputedStorage
    from xtts_export_callback.tensors.dtypes import DType
    from xtts_export_callback.tensors.tensor import Tensor

DEFAULT_DENSITY = 0.2
_LARGEST_WEIGHT, _SMALLEST_WEIGHT = 1e100, 1e-100
_SMALLEST_SUM = 1e-9  # 0.1 + 0.2 - 0.3 is a rounding error, not a sum to divide by


class Coefficients(NamedTuple):
    """A method as a weighted sum of models and base.

    Attributes:
        models: The coefficient of each model.
        base: That of the base.
        divisor: The number by which the sum of the products is divided.
    """

    models: tuple[float, ...]
    base: float
    divisor: float


@dataclass(frozen=True)
class Method(ABC):
    """A method with its checked settings.

    Attributes:
        weights: One per model, as given.
        normalize: Whether the weights are divided by their sum.
        scale: Distance from the base: 0 gives the base, 1 the models. The papers on task arithmetic and ties call it
            lambda, the one on interpolation alpha.
        density: Share of each tensor's changes, the largest ones, that ties keeps.
    """

    weights: tuple[float, ...]
    normalize: bool = True
    scale: float = 1.0
    density: float = DEFAULT_DENSITY

    method: ClassVar[str]
    """Its name in recipes."""
    needs_base: ClassVar[bool] = False
    is_sum: ClassVar[bool] = True
    """Whether the result is the weighted sum with `coefficients`, element by element."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Which of ``normalize``, ``scale`` and ``density`` the method uses."""
    default_scale: ClassVar[float] = 1.0
    scale_range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    fewest_models: ClassVar[int] = 1
    most_models: ClassVar[float] = math.inf

    takes_weights: ClassVar[bool] = True
    """Whether models can have different weights."""
    allows_negative: ClassVar[bool] = True
    sum_may_be_zero: ClassVar[bool] = False
    """Whether weights that are not normalised may sum to 0."""

    @property
    def effective(self) -> tuple[float, ...]:
        """The weights as they are used: normalised unless `normalize` is off."""
        total = math.fsum(self.weights) if self.normalize else 1.0
        return tuple(weight / total for weight in self.weights)

    @abstractmethod
    def coefficients(self) -> Coefficients:
        """The coefficients of the weighted sum; where the method is not a sum, inputs with 0 are left out."""

    @property
    def model_shares(self) -> list[float]:
        """The weight of each model as the method uses it."""
        parts = self.coefficients()
        return [one / parts.divisor for one in parts.models]

    def shares(self, *, has_base: bool) -> list[float]:
        """The weight of each model, and of the base where there is one, as the method uses them."""
        return [*self.model_shares, *([self.coefficients().base] if has_base else [])]

    @abstractmethod
    def storage(self, name: str, models: Sequence[Tensor], base: Tensor | None, dtype: DType) -> ComputedStorage:
        """The merged tensor, not computed yet.

        Args:
            name: Its name.
            models: Floating-point tensors of one shape.
            base: The base's, for methods that have one.
            dtype: Type of the result.
        """

    @abstractmethod
    def describe(self, names: Sequence[str]) -> str:
        """The method with its effective weights, such as ``linear: 0.6 x anna + 0.4 x bert``."""

    def terms(self, names: Sequence[str]) -> list[str]:
        """The models with their shares, such as ``0.6 x anna``."""
        return [f"{share:.6g} x {name}" for share, name in zip(self.model_shares, names, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """The settings, for provenance."""
        return {"method": self.method, "weights": list(self.effective), "scale": self.scale, "density": self.density}


def check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """Check that there is a finite weight for each of ``count`` models and that they do not sum to 0.

    Returns:
        The weights; equal ones where none are given.

    Raises:
        ConfigError: When the number of weights, a value or the sum is wrong.
    """
    if weights is None:
        return [1.0] * count
    shown = " ".join(map(str, weights))
    if len(weights) != count:
        msg = f"weights: expected {count}, one for each model, found {len(weights)} ({shown})"
        raise ConfigError(msg)
    if not all(math.isfinite(weight) and abs(weight) <= _LARGEST_WEIGHT for weight in weights):
        msg = f"weights: expected finite numbers, found {shown}"
        raise ConfigError(msg)
    if any(0 < abs(weight) < _SMALLEST_WEIGHT for weight in weights):  # their products would lose digits
        msg = f"weights: expected 0 or at least {_SMALLEST_WEIGHT:g}, found {shown}"
        raise ConfigError(msg)
    if abs(math.fsum(weights)) <= max(map(abs, weights)) * _SMALLEST_SUM:
        msg = f"weights: {shown} sum to 0, so they cannot be normalised"
        raise ConfigError(msg)
    return [float(weight) for weight in weights]
