"""Draws the pieces of a comparison's picture: scale, cells, bars and text.

Colours are those of viridis, made to be read with every kind of colour vision and in grey print. Unchanged cells are
grey and struck through, and cells with NaN or infinity are hatched: neither looks like a colour of the scale.
"""

from __future__ import annotations

import logging
import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xtts_export_callback.comparison.summary import percent
from xtts_export_callback.inspection.columns import filled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORMAP = "viridis"
_STILL, _STROKE = "#dddddd", "#888888"
BROKEN = "#d55e00"
_HATCH: dict[str, Any] = {"facecolor": "white", "edgecolor": BROKEN, "hatch": "xxxxx", "linewidth": 0.0}
_OVER_LINE: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
_DECADES = 4  # a distance below a ten-thousandth of the largest is drawn as that
_TICKS = 3
_TINY = 1e-280  # leaves room in float64 around the scale
_TITLE_WIDTH = 140


class Scale:
    """A logarithmic scale of colours and lengths that spans all distances, and at least a decade.

    Attributes:
        is_empty: Whether there is no finite distance to show.
    """

    def __init__(self, values: Iterable[float]) -> None:
        from matplotlib.colors import LogNorm

        moved = [min(max(value, _TINY), 1 / _TINY) for value in values if 0 < value < math.inf]
        self.is_empty = not moved
        self.high = max(moved, default=1.0)
        self.low = max(min(moved, default=1.0), self.high / 10**_DECADES)
        if self.high < self.low * 10:
            middle = math.sqrt(self.low) * math.sqrt(self.high)
            self.low, self.high = middle / math.sqrt(10), middle * math.sqrt(10)
        self.norm = LogNorm(self.low, self.high, clip=True)

    def clip(self, value: float) -> float:
        """Limit the value to the scale."""
        return float(min(max(value, self.low), self.high))

    def ticks(self) -> list[float]:
        """A few powers of ten on the scale."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        if last - first > 1:
            return [10.0**power for power in range(first, last + 1, math.ceil((last - first + 1) / _TICKS))]
        marks = [digit * 10.0**power for power in range(first - 1, last + 1) for digit in (1, 2, 5)]
        inside = [mark for mark in marks if self.low * (1 - 1e-9) <= mark <= self.high * (1 + 1e-9)]
        return [inside[0], inside[-1]]


@contextmanager
def drawing() -> Iterator[None]:
    """Draw `$` as a dollar sign, and keep matplotlib's messages on fonts and caches off the terminal."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import matplotlib as mpl

            with mpl.rc_context({"text.parse_math": False, "text.usetex": False}):
                yield
    finally:
        logger.setLevel(level)


def drawable(text: str) -> str:
    """Replace characters that fonts cannot draw: bytes of a path that are not UTF-8, control characters."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot.figure(figsize=(width, height), dpi=120, layout="constrained")


def draw_cells(axes: Axes, matrix: list[list[float | None]], scale: Scale) -> None:
    """Draw a cell per value: grey for None (unchanged), hatched for NaN, and marked for infinity."""
    import matplotlib as mpl
    import numpy as np
    from matplotlib.patches import Rectangle

    known = [[np.nan if value is None or math.isnan(value) else scale.clip(value) for value in row] for row in matrix]
    numbers = np.array(known, float)
    colours = mpl.colormaps[_COLORMAP].with_extremes(bad=_STILL)
    axes.imshow(np.ma.masked_invalid(numbers), aspect="auto", cmap=colours, norm=scale.norm, interpolation="nearest")
    cells = [(x, y, value) for y, row in enumerate(matrix) for x, value in enumerate(row)]
    still = [(x, y) for x, y, value in cells if value is None]
    if still:
        axes.plot(*zip(*still, strict=True), "_", color=_STROKE, markersize=4, linestyle="none")
    for x, y, value in cells:
        if value is not None and math.isnan(value):
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, **_HATCH))
        elif value is not None and math.isinf(value):
            axes.text(x, y, "\u221e", ha="center", va="center", fontsize=8)
    axes.set_xticks(np.arange(numbers.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(numbers.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="minor", length=0)


def draw_dots(axes: Axes, values: dict[str, tuple[float | None, int]], scale: Scale) -> None:
    """Draw a dot per distance (None if unchanged) with its number of NaN and infinite values.

    A logarithmic axis has no zero for the foot of a bar to stand on, so the length of a bar would mean nothing.
    """
    import matplotlib as mpl
    from matplotlib.ticker import FixedLocator, NullFormatter

    colours = mpl.colormaps[_COLORMAP]
    floor = scale.low / 3
    for row, (value, nonfinite) in enumerate(values.values()):
        if value is None:
            axes.text(floor * 1.15, row, "unchanged", va="center", fontsize=8, color="#666666", bbox=_OVER_LINE)
            continue
        look: dict[str, Any]
        label = f"{nonfinite:,} NaN or infinite" if nonfinite else _short_percent(value)
        shown = scale.low if math.isnan(value) and nonfinite else scale.high if math.isnan(value) else scale.clip(value)
        look = {**_HATCH, "linewidth": 1.0} if nonfinite else {"color": colours(scale.norm(shown)), "linewidth": 0.0}
        axes.scatter(shown, row, s=90, zorder=3, **look)
        axes.annotate(label, (shown, row), (9, 0), textcoords="offset points", va="center", fontsize=8, bbox=_OVER_LINE)
    axes.set_xscale("log")
    axes.set_xlim(floor, scale.high * 12)
    axes.set_yticks(range(len(values)), [drawable(title) for title in values])
    axes.grid(axis="y", color="#eeeeee", zorder=0)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if scale.is_empty:
        axes.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
        return
    axes.xaxis.set_major_locator(FixedLocator(scale.ticks()))
    axes.xaxis.set_major_formatter(_percent_formatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("moved by |B-A| / |A|")


def draw_legend(figure: Figure, axes: Axes, matrix: list[list[float | None]], scale: Scale, label: str) -> None:
    """Draw the colour bar, if any cell has a colour, and explain grey, hatched and marked cells."""
    import matplotlib as mpl
    from matplotlib.patches import Patch
    from matplotlib.ticker import LogLocator, NullFormatter

    values = [value for row in matrix for value in row]
    looks = [Patch(color=_STILL, label="unchanged")] if None in values else []
    if any(value is not None and math.isnan(value) for value in values):
        looks.append(Patch(label="NaN or infinite values", **_HATCH))
    if any(value == math.inf for value in values):
        top = mpl.colormaps[_COLORMAP](1.0)
        looks.append(Patch(color=top, label="\u221e: was zero, or is too far to measure"))
    if looks:
        figure.legend(handles=looks, loc="outside lower right", ncols=len(looks), frameon=False, fontsize=9)
    if scale.is_empty:
        return
    bar = figure.colorbar(axes.images[0], ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02)
    is_narrow = scale.high / scale.low < 100
    bar.ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow else (1,)))
    bar.ax.xaxis.set_major_formatter(_percent_formatter())
    bar.ax.xaxis.set_minor_formatter(NullFormatter())
    bar.set_label(label)


def finish(figure: Figure, path: Path, title: str, subtitle: str) -> None:
    """Add the texts and write the picture.

    Raises:
        OSError: When it cannot be written.
    """
    from matplotlib import pyplot

    try:
        lines = filled(drawable(f"{title[0].upper()}{title[1:]}"), _TITLE_WIDTH)
        figure.suptitle("\n".join(lines), fontsize=12, x=0.01, ha="left")
        figure.supxlabel(subtitle, fontsize=8, x=0.01, ha="left", color="#666666")
        figure.savefig(path)
    finally:
        pyplot.close(figure)


def _short_percent(value: float) -> str:
    return "\u221e (was zero)" if math.isinf(value) else percent(value)


def _percent_formatter() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value * 100:g} %")
