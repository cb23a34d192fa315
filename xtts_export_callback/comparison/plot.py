"""Pictures of a comparison: one look tells where training went.

Colours are those of viridis, made to be read with every kind of colour vision and in grey print; what did not change at
all is grey and struck through, which no colour of the scale is.
"""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from xtts_export_callback.comparison.parts import KINDS
from xtts_export_callback.comparison.report import percent
from xtts_export_callback.inspection.components import BY_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from xtts_export_callback.comparison.report import ComparisonReport
    from xtts_export_callback.comparison.way import RunWayReport

_COLORMAP = "viridis"
_STILL = "#dddddd"
_DECADES = 4  # what moved less than a ten-thousandth of the most is drawn as that
_TITLE_WIDTH = 140
_LABELLED = 30  # layers that have room for a label each


def plot_comparison(report: ComparisonReport, path: Path) -> None:
    """Draw the change by layer of the GPT and kind of weight, and that of everything else beside it.

    Args:
        report: What to draw.
        path: The picture to write; its suffix decides the format.

    Raises:
        OSError: When it cannot be written.
    """
    figure = _figure(13.0, 6.2)
    rows, bars = figure.subplots(1, 2, width_ratios=(3.2, 1))
    scale = _Scale([found.relative_l2 for found in report.tensors.values()])
    layers = sorted(report.layers)
    kinds = [*KINDS, *sorted({kind for _, kind in report.cells} - {*KINDS})]
    cells = {key: found.relative_l2 if found.changed else None for key, found in report.cells.items()}
    _draw_cells(rows, [[cells.get((layer, kind)) for layer in layers] for kind in kinds], scale)
    rows.set_yticks(range(len(kinds)), kinds)
    _number_axis(rows, layers)
    rows.set_xlabel("layer of the GPT")
    rows.set_title("in the layers of the GPT", fontsize=11)
    others = {**report.parts}
    others |= {BY_KEY[key].title: found for key, found in report.components.items() if key != "gpt"}
    values = {title: found.relative_l2 if found.changed else None for title, found in others.items()}
    _draw_bars(bars, values, scale)
    bars.set_title("everywhere else", fontsize=11)
    _colour_bar(figure, rows, scale, "moved by |B-A| / |A|")
    _finish(figure, path, report.sentence, f"A: {report.a}\nB: {report.b}")


def plot_way(report: RunWayReport, path: Path) -> None:
    """Draw how far a run's weights went at each checkpoint, and in which layers.

    Args:
        report: What to draw.
        path: The picture to write; its suffix decides the format.

    Raises:
        OSError: When it cannot be written.
    """
    figure = _figure(13.0, 8.0)
    lines, rows = figure.subplots(1, 2, width_ratios=(1, 1.5))
    stops = range(len(report.stops))
    away = [value * 100 for value in report.gpt.away]
    step = [value * 100 for value in report.gpt.step]
    lines.plot(stops, away, marker="o", color="#440154", label=f"away from {report.start}")
    lines.plot(stops[1:], step[1:], marker="s", linestyle="--", color="#21918c", label="since the one before")
    lines.set_ylabel("GPT moved, % of its norm")
    lines.set_ylim(bottom=0)
    lines.grid(color="#eeeeee")
    lines.legend(frameon=False, loc="upper left")
    lines.set_title("how far the GPT went", fontsize=11)
    order = [title for title in report.parts if not title.startswith("layer ")]
    order.sort(key=lambda title: not any(report.parts[title].step))
    titles = [*(f"layer {layer}" for layer in sorted(report.layers, reverse=True)), *order]
    scale = _Scale([value for way in report.parts.values() for value in way.step])
    matrix = [[value or None for value in report.parts[title].step[1:]] for title in titles]
    _draw_cells(rows, matrix, scale)
    every = 1 if len(report.layers) <= _LABELLED else 2
    shown = [number for number, title in enumerate(titles) if not title.startswith("layer ") or number % every == 0]
    rows.set_yticks(shown, [titles[number] for number in shown], fontsize=8)
    rows.set_xticks(range(len(stops) - 1), [_short(name) for name in report.stops[1:]])
    lines.set_xticks(list(stops), [_short(name) for name in report.stops])
    for axes in (lines, rows):
        axes.tick_params(axis="x", labelrotation=30)
        axes.set_xlabel("checkpoint, by step")
    rows.set_title("where it moved since the one before", fontsize=11)
    _colour_bar(figure, rows, scale, "moved by, relative to the start")
    _finish(figure, path, report.sentence, str(report.run))


class _Scale:
    """Colours and lengths on a logarithmic scale that spans what moved."""

    def __init__(self, values: Iterable[float]) -> None:
        from matplotlib.colors import LogNorm

        moved = [value for value in values if 0 < value < math.inf]
        top = max(moved, default=1.0)
        self.low = max(min(moved, default=top / 10), top / 10**_DECADES)
        self.high = top if top > self.low else top * 1.01
        self.norm = LogNorm(self.low, self.high, clip=True)

    def clip(self, value: float) -> float:
        return float(min(max(value, self.low), self.high))


def _figure(width: float, height: float) -> Figure:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot.figure(figsize=(width, height), dpi=120, layout="constrained")


def _draw_cells(axes: Axes, matrix: list[list[float | None]], scale: _Scale) -> None:
    """A cell for each value; None, which is no change at all, is grey with a stroke through it."""
    import matplotlib as mpl
    import numpy as np

    numbers = np.array([[np.nan if value is None else scale.clip(value) for value in row] for row in matrix], float)
    colours = mpl.colormaps[_COLORMAP].with_extremes(bad=_STILL)
    axes.imshow(np.ma.masked_invalid(numbers), aspect="auto", cmap=colours, norm=scale.norm, interpolation="nearest")
    still = [(x, y) for y, row in enumerate(matrix) for x, value in enumerate(row) if value is None]
    if still:
        axes.plot(*zip(*still, strict=True), "_", color="#888888", markersize=4, linestyle="none")
    axes.set_xticks(np.arange(numbers.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(numbers.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="minor", length=0)


def _draw_bars(axes: Axes, values: dict[str, float | None], scale: _Scale) -> None:
    import matplotlib as mpl
    from matplotlib.ticker import LogLocator, NullFormatter

    colours = mpl.colormaps[_COLORMAP]
    floor = scale.low / 3
    for row, value in enumerate(values.values()):
        if value is None:
            axes.text(floor * 1.15, row, "unchanged", va="center", fontsize=8, color="#666666")
            continue
        shown = scale.clip(value)
        axes.barh(row, shown - floor, left=floor, height=0.7, color=colours(scale.norm(shown)))
        axes.text(shown * 1.1, row, percent(value), va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(floor, scale.high * 12)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.xaxis.set_major_locator(LogLocator(numticks=4))
    axes.xaxis.set_major_formatter(_percent_formatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("moved by |B-A| / |A|")
    axes.spines[["top", "right"]].set_visible(False)


def _colour_bar(figure: Figure, axes: Axes, scale: _Scale, label: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    bar = figure.colorbar(axes.images[0], ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02)
    is_narrow = scale.high / scale.low < 100
    bar.ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow else (1,)))
    bar.ax.xaxis.set_major_formatter(_percent_formatter())
    bar.ax.xaxis.set_minor_formatter(NullFormatter())
    bar.set_label(f"{label}  (grey: unchanged)")


def _percent_formatter() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value * 100:g} %")


def _number_axis(axes: Axes, layers: list[int]) -> None:
    every = 1 if len(layers) <= 16 else 2
    axes.set_xticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])


def _short(name: str) -> str:
    return name.replace("checkpoint_", "").replace("best_model_", "best ")


def _finish(figure: Figure, path: Path, title: str, subtitle: str) -> None:
    from matplotlib import pyplot

    try:
        text = "\n".join(textwrap.wrap(f"{title[0].upper()}{title[1:]}", _TITLE_WIDTH))
        figure.suptitle(text, fontsize=12, x=0.01, ha="left")
        figure.supxlabel(subtitle, fontsize=8, x=0.01, ha="left", color="#666666")
        figure.savefig(path)
    finally:
        pyplot.close(figure)
