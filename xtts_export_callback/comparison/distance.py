"""Distances of tensors along a trajectory of models, in float64, block by block; two models are the shortest one.

Everything is derived from sums that are taken once over all tensors, so that a part's figures are those of all its
elements together, not means of its tensors' figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xtts_export_callback.files.threads import thread_pool
from xtts_export_callback.tensors.dtypes import to_float64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from xtts_export_callback.tensors.dtypes import DType
    from xtts_export_callback.tensors.tensor import Tensor

_ELEMENTS = 1 << 16  # in float64 three blocks of them stay in a core's cache
_OPAQUE = ("complex64", "complex128", "float8_e4m3fn", "float8_e5m2")


@dataclass
class Difference:
    """How far B is from A over some elements. `add` extends it to more.

    Attributes:
        elements: Number of elements compared.
        changed: How many have another value in B. NaN counts as equal to NaN.
        nonfinite: How many are NaN or infinite in A or B; they enter `changed` but none of the sums.
        nonfinite_b: How many are NaN or infinite in B.
        square_a: Sum of a*a.
        square_difference: Sum of (b-a)*(b-a).
        product: Sum of a*(b-a).
        largest: Largest absolute b-a.
        largest_in: The tensor with that element.
        unmeasured: Dtypes that have no distance (complex and 8-bit floats) and whose elements are not all the same.
        is_identical: Whether A and B hold the same bits in the same dtype.
        is_counter: Whether this is a tensor of integers, whose distance would drown that of the weights: a sum of
            several differences leaves it out of everything but `elements`, `changed` and `is_identical`.
    """

    elements: int = 0
    changed: int = 0
    nonfinite: int = 0
    nonfinite_b: int = 0
    square_a: float = 0.0
    square_difference: float = 0.0
    product: float = 0.0
    largest: float = 0.0
    largest_in: str = ""
    unmeasured: tuple[str, ...] = ()
    is_identical: bool = True
    is_counter: bool = False

    def add(self, other: Difference) -> None:
        """Extend this to the elements of ``other``."""
        self.elements += other.elements
        self.changed += other.changed
        self.is_identical &= other.is_identical
        self.unmeasured = tuple(sorted({*self.unmeasured, *other.unmeasured}))
        if other.is_counter and not self.is_counter:
            return
        self.nonfinite += other.nonfinite
        self.nonfinite_b += other.nonfinite_b
        self.square_a += other.square_a
        self.square_difference += other.square_difference
        self.product += other.product
        if other.largest > self.largest:
            self.largest, self.largest_in = other.largest, other.largest_in

    @property
    def relative_l2(self) -> float:
        """``|B-A| / |A|`` (Euclidean norms); infinite where A is zero and B is not.

        NaN where no element that changed is finite in both, and where a norm is too large for float64.
        """
        return self.relative_to(self.square_a)

    def relative_to(self, square: float) -> float:
        """``|B-A|`` relative to another norm, given by its square; as `relative_l2` otherwise."""
        if self.changed and self.nonfinite == self.elements:
            return math.nan
        if self.square_difference == 0:
            return 0.0
        if not (math.isfinite(self.square_difference) and math.isfinite(square)):
            return math.nan
        return math.sqrt(self.square_difference) / math.sqrt(square) if square else math.inf

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between A and B; None where one of them is zero."""
        square_b = self.square_a + 2 * self.product + self.square_difference
        return _cosine(self.square_a + self.product, self.square_a, square_b)

    @property
    def difference_cosine(self) -> float | None:
        """Cosine of the angle between A and B-A: -1 where the change only shrinks A, 1 where it only grows it.

        0 where it turns A, as the changes of fine-tuning mostly do; None where nothing changed or A is zero.
        """
        return _cosine(self.product, self.square_a, self.square_difference)

    @property
    def changed_share(self) -> float:
        """Share of elements that have another value, 0 to 1."""
        return self.changed / self.elements if self.elements else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {
            "identical": self.is_identical,
            "relative_l2": self.relative_l2,
            "cosine": self.cosine,
            "difference_cosine": self.difference_cosine,
            "changed_share": self.changed_share,
            "changed": self.changed,
            "elements": self.elements,
            "largest_change": self.largest,
            "largest_change_in": self.largest_in or None,
            "nonfinite": self.nonfinite,
            "unmeasured_dtypes": list(self.unmeasured),
        }


@dataclass
class Trajectory:
    """How some elements moved from model to model. `add` extends it to more.

    Attributes:
        steps: The difference of each model from the one before; of the first from itself.
        far: That of each model from the first, from the third model on (the second's is a step): only the distance.
        products: Sum, at each model, of the step to it times the step before.
    """

    steps: list[Difference]
    far: list[Difference]
    products: list[float]

    @classmethod
    def empty(cls, models: int) -> Trajectory:
        """A trajectory through so many models, without elements."""
        return cls([Difference() for _ in range(models)], [Difference() for _ in range(models - 2)], [0.0] * models)

    def add(self, other: Trajectory) -> None:
        """Extend this to the elements of ``other``."""
        for mine, more in zip((*self.steps, *self.far), (*other.steps, *other.far), strict=True):
            mine.add(more)
        self.products = [x + y for x, y in zip(self.products, other.products, strict=True)]

    @property
    def step(self) -> tuple[float, ...]:
        """Distance of each model from the one before, relative to the first one's norm, as `Difference.relative_l2`."""
        return tuple(step.relative_to(self.steps[0].square_a) for step in self.steps)

    @property
    def away(self) -> tuple[float, ...]:
        """Distance of each model from the first, relative to its norm."""
        return tuple(found.relative_to(self.steps[0].square_a) for found in (*self.steps[:2], *self.far))

    @property
    def turn(self) -> tuple[float | None, ...]:
        """Cosine between the step to each model and the one before it: 1 straight on, -1 back.

        None where there is no step before it or either step is zero.
        """
        squares = [step.square_difference for step in self.steps]
        return tuple(map(_cosine, self.products, squares, [0.0, *squares]))

    @property
    def nonfinite(self) -> tuple[int, ...]:
        """How many elements are NaN or infinite in each model."""
        return tuple(step.nonfinite_b for step in self.steps)

    @property
    def moved(self) -> bool:
        """Whether anything is not what it was in the first model."""
        return any(self.step) or len(set(self.nonfinite)) > 1

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {name: list(getattr(self, name)) for name in ("step", "away", "turn", "nonfinite")}


def trajectories(
    models: Sequence[Mapping[str, Tensor]], names: Iterable[str], progress: Callable[[int, int], None] | None = None
) -> dict[str, Trajectory]:
    """Measure tensors from model to model, two tensors at a time, each read once.

    Args:
        models: Tensors by name, in the order of the trajectory.
        names: Tensors that all models have, in one shape.
        progress: Called with the position of a model and the number of its bytes that were read since the last call,
            from any thread.

    Returns:
        The trajectory of each tensor, in the order of ``names``.

    Raises:
        CheckpointError: When a file turns out to be damaged.
    """
    names = list(names)
    with thread_pool() as pool:
        found = pool.map(lambda name: _measure(name, [model[name] for model in models], progress), names)
        return dict(zip(names, found, strict=True))


def total(found: Iterable[Difference]) -> Difference:
    """The difference over all elements of several."""
    result = Difference()
    for item in found:
        result.add(item)
    return result


class _Block:
    """Consecutive elements of one model: their bytes and their values in float64; those of `_OPAQUE` have none."""

    def __init__(self, data: npt.NDArray[np.uint8], dtype: DType) -> None:
        import numpy as np

        self.data, self.dtype, self.elements = data, dtype, data.size // dtype.itemsize
        self._square: float | None = None
        if dtype.name in _OPAQUE:
            self.values = np.empty(0)
        else:
            bits = data.view(dtype.numpy)
            self.values = to_float64(bits, dtype) if dtype.is_float else bits.astype(np.float64)

    @property
    def square(self) -> float:
        """Sum of the squares, taken once, when it is first asked for."""
        if self._square is None:
            self._square = _dot(self.values, self.values)
        return self._square


def _is_same(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> bool:
    """Compare bytes, in steps of eight where that works out: several times faster."""
    import numpy as np

    unit = np.uint64 if a.size % 8 == 0 else np.uint8
    return bool(np.array_equal(a.view(unit), b.view(unit)))


def _measure(name: str, tensors: list[Tensor], progress: Callable[[int, int], None] | None) -> Trajectory:
    """Follow one tensor through all models, block by block."""
    import numpy as np

    result = Trajectory.empty(len(tensors))
    for step, a, b in zip(result.steps, [tensors[0], *tensors[:-1]], tensors, strict=True):
        step.is_identical, step.is_counter = a.dtype == b.dtype, not (a.dtype.is_float or b.dtype.is_float)
    readers = [tensor.packed().reader() for tensor in tensors]
    for offset in range(0, tensors[0].numel, _ELEMENTS):
        count = min(_ELEMENTS, tensors[0].numel - offset)
        first = last = last_change = None
        for index, (tensor, fill) in enumerate(zip(tensors, readers, strict=True)):
            data = np.empty(count * tensor.dtype.itemsize, np.uint8)
            fill(memoryview(data.data))
            is_same = last is not None and last.dtype == tensor.dtype and _is_same(last.data, data)
            block = last if last is not None and is_same else _Block(data, tensor.dtype)
            first, last = first or block, last or block
            step, change = _compare(name, last, block)
            result.steps[index].add(step)
            if change is not None and last_change is not None:
                result.products[index] += _dot(change, last_change)
            if index > 1:
                result.far[index - 2].add(_compare(name, first, block, only_distance=True)[0])
            last, last_change = block, change
            if progress is not None:
                progress(index, data.size)
    return result


def _compare(
    name: str, a: _Block, b: _Block, *, only_distance: bool = False
) -> tuple[Difference, npt.NDArray[np.float64] | None]:
    """The difference between two blocks, and B-A, with 0 where either is NaN or infinite; None for identical blocks.

    ``only_distance`` leaves out what `Difference.relative_to` does not need.
    """
    import numpy as np

    is_same = a is b  # also where a step changed no byte, so that the two models share a block
    if opaque := {a.dtype.name, b.dtype.name} & {*_OPAQUE}:  # told apart, not measured
        changed, unmeasured = (0, ()) if is_same else (a.elements, tuple(sorted(opaque)))
        return Difference(a.elements, changed, unmeasured=unmeasured, is_identical=is_same), None
    result = Difference(a.elements, square_a=a.square, largest_in=name, is_identical=is_same)
    if is_same and math.isfinite(a.square):
        return result, None
    with np.errstate(invalid="ignore", over="ignore"):
        difference = b.values - a.values
    result.square_difference = _dot(difference, difference)
    if math.isfinite(a.square) and math.isfinite(result.square_difference):
        if only_distance:
            return result, difference
        result.product = _dot(a.values, difference)
        result.changed = int(np.count_nonzero(difference != 0))
        result.largest = max(float(difference.max()), -float(difference.min()))
        return result, difference
    # Something is NaN or infinite, which is counted and left out of the sums, or its square overflows.
    finite_b = np.isfinite(b.values)
    usable = np.isfinite(a.values) & finite_b
    result.nonfinite, result.nonfinite_b = (a.elements - int(np.count_nonzero(finite)) for finite in (usable, finite_b))
    same_value = (a.values == b.values) | (np.isnan(a.values) & np.isnan(b.values))
    result.changed = a.elements - int(np.count_nonzero(same_value))
    values = np.where(usable, a.values, 0.0)
    difference[~usable] = 0.0
    result.square_a, result.square_difference = _dot(values, values), _dot(difference, difference)
    result.product = _dot(values, difference)
    result.largest = float(np.max(np.abs(difference)))
    return result, difference


def _dot(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Sum of a*b. Not ``np.dot``, for which BLAS starts threads of its own that only get in the way of ours."""
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.einsum("i,i->", a, b))


def _cosine(product: float, square_a: float, square_b: float) -> float | None:
    if square_a <= 0 or square_b <= 0 or not all(map(math.isfinite, (product, square_a, square_b))):
        return None
    return max(-1.0, min(1.0, product / math.sqrt(square_a) / math.sqrt(square_b)))
