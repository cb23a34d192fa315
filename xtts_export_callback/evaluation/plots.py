"""Geometry of the page's plots, in per cent of their width and height, so that a template draws them at every size."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xtts_export_callback.comparison.distance import Trajectory
    from xtts_export_callback.comparison.trajectory import TrajectoryReport

_TICKS = 5


class Tick(NamedTuple):
    """A place on an axis, in per cent, and its label."""

    at: float
    label: str


class LossPoint(NamedTuple):
    """The evaluation loss of a model.

    Attributes:
        name: Its name.
        steps: The steps of the checkpoints that it is made of.
        mean: The loss.
        low: Lower end of its interval; the loss itself where there is none.
        high: Upper end.
    """

    name: str
    steps: Sequence[int]
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Mark:
    """A drawn point: place, interval, and for an average the span of its checkpoints.

    Attributes:
        point: What it shows.
        x: Its last step.
        first: Its first step.
        y: Its loss.
        low: The lower end of its interval.
        high: The upper end.
    """

    point: LossPoint
    x: float
    first: float
    y: float
    low: float
    high: float

    @property
    def is_average(self) -> bool:
        """Whether it is made of several checkpoints."""
        return len(self.point.steps) > 1


@dataclass(frozen=True)
class LossPlot:
    """The loss over the steps.

    Attributes:
        singles: Single checkpoints, by step; a line connects them.
        averages: Averages, each over the span of its checkpoints.
        x_ticks: Ticks of the steps.
        y_ticks: Ticks of the loss.
        best: The lowest of all.
    """

    singles: list[Mark]
    averages: list[Mark]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    best: LossPoint


def loss_plot(points: Iterable[LossPoint]) -> LossPlot | None:
    """Lay out losses over steps. Points without steps or with a loss that is not finite are left out.

    Returns:
        The plot; None if no point is left.
    """
    shown = [point for point in points if point.steps and all(map(math.isfinite, point[2:]))]
    if not shown:
        return None
    steps = [step for point in shown for step in point.steps]
    x = Axis(min(steps), max(steps), margin=0.03)
    y = Axis(min(point.low for point in shown), max(point.high for point in shown), margin=0.08)
    marks = [
        Mark(
            point,
            x.at(max(point.steps)),
            x.at(min(point.steps)),
            *(round(100 - y.at(value), 2) for value in (point.mean, point.low, point.high)),
        )
        for point in sorted(shown, key=lambda point: max(point.steps))
    ]
    return LossPlot(
        [mark for mark in marks if not mark.is_average],
        [mark for mark in marks if mark.is_average],
        [Tick(x.at(value), f"{value:,.0f}") for value in x.ticks(whole=True)],
        [Tick(round(100 - y.at(value), 2), f"{value:.{y.decimals}f}") for value in y.ticks()],
        min(shown, key=lambda point: point.mean),
    )


class Axis:
    """Maps values to per cent.

    Args:
        low: The lowest value.
        high: The highest.
        margin: Room beyond both, as a share of their distance.
    """

    def __init__(self, low: float, high: float, *, margin: float = 0.0) -> None:
        span = (high - low) or abs(high) or 1.0
        extra = span * (margin if high > low else 0.5)
        self._low, self._high = low - extra, high + extra
        self._step = _nice((self._high - self._low) / _TICKS)

    @property
    def decimals(self) -> int:
        """Decimals that tell the ticks apart."""
        return max(0, -math.floor(math.log10(self._step)))

    def at(self, value: float) -> float:
        """The place of a value, in per cent."""
        return round(100 * (value - self._low) / (self._high - self._low), 2)

    def ticks(self, *, whole: bool = False) -> list[float]:
        """Round values within the axis, at most about five."""
        step = max(1.0, self._step) if whole else self._step
        first = math.ceil(self._low / step)
        found = [number * step for number in range(first, math.floor(self._high / step) + 1)]
        return [value for value in found if value >= 0 or not whole]


def _nice(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if step <= power * factor * 1.0001)


@dataclass(frozen=True)
class HeatMap:
    """How far each part moved since the checkpoint before.

    Attributes:
        columns: Names of the checkpoints.
        rows: By title of the part, for each checkpoint the distance relative to the start's norm; None if it has none.
        largest: The largest distance.
        sentence: The result in plain words.
    """

    columns: list[str]
    rows: dict[str, list[float | None]]
    largest: float
    sentence: str
    still: list[str] = field(default_factory=list)

    def strength(self, value: float | None) -> float:
        """How dark a cell is, from 0 to 1; by the square root, so that small moves show."""
        return round(math.sqrt(value / self.largest), 3) if value and self.largest else 0.0


def heat_map(report: TrajectoryReport) -> HeatMap:
    """Lay out where the weights of a run moved: the layers first, then other parts that moved."""
    layers = {f"layer {number}": found for number, found in report.layers.items()}
    others = {title: found for title, found in report.parts.items() if title not in layers}
    moved = {title: found for title, found in others.items() if found.moved}
    rows = {title: _steps(found) for title, found in {**layers, **moved}.items()}
    largest = max((value for row in rows.values() for value in row if value is not None), default=0.0)
    sentence = report.sentence[:1].upper() + report.sentence[1:] + "."
    return HeatMap(list(report.stops[1:]), rows, largest, sentence, [title for title in others if title not in moved])


def _steps(found: Trajectory) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in found.step[1:]]


def outline(heights: Sequence[float], scale: float) -> str:
    """Return the SVG path of a waveform in a box of ``len(heights)`` by 2, centred at 0: one stroke for each height."""
    drawn = [min(1.0, max(0.02, height * scale)) for height in heights]
    return "".join(f"M{x}.5-{half:.2f}V{half:.2f}" for x, half in enumerate(drawn))
