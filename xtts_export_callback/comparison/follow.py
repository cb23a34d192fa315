"""Sums along the way of tensors from checkpoint to checkpoint, in float64, each file read once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xtts_export_callback.comparison.distance import dot, values_of
from xtts_export_callback.files.threads import thread_pool

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    from xtts_export_callback.tensors.dtypes import DType
    from xtts_export_callback.tensors.tensor import Tensor

_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class Way:
    """How far a group of weights went. What is NaN or infinite at one end of a distance is left out of it.

    Attributes:
        step: Distance of each stop from the one before, relative to the start's norm; 0 for the first. Infinite where
            the start is zero; NaN where no element is finite at both ends or a norm is too large for float64.
        away: Distance of each stop from the start, relative to its norm.
        turn: Cosine between the step to each stop and the one before it: 1 straight on, -1 back; None where there
            is no step before it or one of both is zero.
        nonfinite: How many elements are NaN or infinite at each stop.
    """

    step: tuple[float, ...]
    away: tuple[float, ...]
    turn: tuple[float | None, ...]
    nonfinite: tuple[int, ...]

    @property
    def moved(self) -> bool:
        """Whether anything is not what it was at the start."""
        return any(self.step) or len(set(self.nonfinite)) > 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "step": list(self.step),
            "away": list(self.away),
            "turn": list(self.turn),
            "nonfinite": list(self.nonfinite),
        }


@dataclass
class Sums:
    """Over some elements: of the start's squares, and at each stop of the squares of both distances and more."""

    elements: int
    square_start: float
    square_step: list[float]
    square_away: list[float]
    turn: list[float]
    nonfinite: list[int]
    in_step: list[int]
    in_away: list[int]

    @classmethod
    def zero(cls, stops: int) -> Sums:
        """Nothing yet."""
        floats, counts = [0.0] * stops, [0] * stops
        return cls(0, 0.0, [*floats], [*floats], [*floats], [*counts], [*counts], [*counts])

    def add(self, other: Sums) -> None:
        """Extend this to the elements of ``other``."""
        self.elements += other.elements
        self.square_start += other.square_start
        for name in ("square_step", "square_away", "turn", "nonfinite", "in_step", "in_away"):
            mine, more = getattr(self, name), getattr(other, name)
            mine[:] = [x + y for x, y in zip(mine, more, strict=True)]

    def way(self) -> Way:
        """What the sums come to."""
        turns: list[float | None] = []
        for index, product in enumerate(self.turn):
            size = math.sqrt(self.square_step[index]) * math.sqrt(self.square_step[index - 1]) if index > 1 else 0.0
            is_known = size and math.isfinite(size) and math.isfinite(product)
            turns.append(max(-1.0, min(1.0, product / size)) if is_known else None)
        stops = range(len(self.turn))
        return Way(
            step=tuple(self._relative(self.square_step, self.in_step, max(stop - 1, 0), stop) for stop in stops),
            away=tuple(self._relative(self.square_away, self.in_away, 0, stop) for stop in stops),
            turn=tuple(turns),
            nonfinite=tuple(self.nonfinite),
        )

    def _relative(self, squares: list[float], measured: list[int], origin: int, stop: int) -> float:
        if self.elements and not measured[stop]:
            is_same = self.nonfinite[origin] == self.nonfinite[stop] == self.elements  # NaN counts as equal to NaN
            return 0.0 if is_same else math.nan
        if squares[stop] == 0:
            return 0.0
        if not (math.isfinite(squares[stop]) and math.isfinite(self.square_start)):
            return math.nan
        return math.sqrt(squares[stop]) / math.sqrt(self.square_start) if self.square_start else math.inf


def follow(
    common: list[str], models: list[dict[str, Tensor]], progress: Callable[[int], None] | None
) -> dict[str, Sums]:
    """The sums of each of the tensors named, two at a time.

    Args:
        common: Names of tensors that all models have, in one shape.
        models: Tensors by name, in the order of the way.
        progress: Called with the number of bytes done since the last call, from any thread.

    Raises:
        CheckpointError: When a file turns out to be damaged.
    """

    def work(name: str) -> Sums:
        return _follow_one([model[name] for model in models], progress)

    with thread_pool() as pool:
        return dict(zip(common, pool.map(work, common), strict=True))


def _follow_one(tensors: list[Tensor], progress: Callable[[int], None] | None) -> Sums:
    """Sums along one tensor's way, a few blocks in float64 at a time."""
    import numpy as np

    sums = Sums.zero(len(tensors))
    readers = [tensor.packed().reader() for tensor in tensors]
    for offset in range(0, tensors[0].numel, _ELEMENTS):
        count = min(_ELEMENTS, tensors[0].numel - offset)
        sums.elements += count
        start: npt.NDArray[np.float64] | None = None
        previous: npt.NDArray[np.float64] | None = None
        last_step: npt.NDArray[np.float64] | None = None
        for index, (tensor, fill) in enumerate(zip(tensors, readers, strict=True)):
            buffer = np.empty(count * tensor.dtype.itemsize, np.uint8)
            fill(memoryview(buffer.data))
            values, missing = _values(buffer, tensor.dtype)
            sums.nonfinite[index] += missing
            if start is None or previous is None:
                start = values
                finite = values[~np.isnan(values)] if missing else values
                sums.square_start += dot(finite, finite)
                sums.in_step[index] += count
                sums.in_away[index] += count
            else:
                step, measured = _distance(values, previous)
                sums.in_step[index] += measured
                sums.square_step[index] += dot(step, step)
                if last_step is not None:
                    sums.turn[index] += dot(step, last_step)
                away, measured = _distance(values, start)
                sums.in_away[index] += measured
                sums.square_away[index] += dot(away, away)
                last_step = step
            previous = values
            if progress is not None:
                progress(len(buffer))
    return sums


def _values(buffer: npt.NDArray[np.uint8], dtype: DType) -> tuple[npt.NDArray[np.float64], int]:
    """Values with NaN for infinity too, and how many those are."""
    import numpy as np

    values = values_of(buffer, dtype)
    finite = np.isfinite(values)
    missing = int(values.size - np.count_nonzero(finite))
    if missing:
        values[~finite] = np.nan
    return values, missing


def _distance(values: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], int]:
    """Differences, with 0 where one value is NaN, and in how many elements none is."""
    import numpy as np

    with np.errstate(over="ignore"):
        difference = values - others
    missing = np.isnan(difference)
    lost = int(np.count_nonzero(missing))
    if lost:
        difference[missing] = 0.0
    return difference, difference.size - lost
