"""Draws comparisons as pictures that show where the weights moved."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from xtts_export_callback.comparison import figure as canvas
from xtts_export_callback.comparison.figure import Scale, drawable
from xtts_export_callback.xtts.components import BY_KEY
from xtts_export_callback.xtts.parts import KINDS

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from xtts_export_callback.comparison.distance import Difference, Trajectory
    from xtts_export_callback.comparison.models import ComparisonReport
    from xtts_export_callback.comparison.trajectory import TrajectoryReport

_MOST_LABELS = 14  # on the axis of steps
_LABELLED = 30  # layers that have room for a label each


def plot_comparison(report: ComparisonReport, path: Path) -> None:
    """Draw the change by layer of the GPT and kind of weight, and that of everything else beside it.

    Args:
        report: The report to draw.
        path: The picture to write; its suffix decides the format.

    Raises:
        OSError: When it cannot be written.
    """
    with canvas.drawing():
        figure = canvas.new_figure(13.0, 6.2)
        rows, dots = figure.subplots(1, 2, width_ratios=(3.2, 1))
        scale = Scale([found.relative_l2 for found in report.tensors.values()])
        layers = sorted(report.layers)
        kinds = [*KINDS, *sorted({kind for _, kind in report.cells} - {*KINDS})]
        cells = {key: _cell(found) for key, found in report.cells.items()}
        matrix = [[cells.get((layer, kind)) for layer in layers] for kind in kinds]
        canvas.draw_cells(rows, matrix, scale)
        rows.set_yticks(range(len(kinds)), [drawable(kind) for kind in kinds])
        _number_axis(rows, layers)
        rows.set_xlabel("layer of the GPT")
        rows.set_title("in the layers of the GPT", fontsize=11)
        others = {**report.parts}
        others |= {BY_KEY[key].title: found for key, found in report.components.items() if key != "gpt"}
        values = {title: _bar(found) for title, found in others.items()}
        canvas.draw_dots(dots, values, scale)
        dots.set_title("everywhere else", fontsize=11)
        canvas.draw_legend(figure, rows, matrix, scale, "moved by |B-A| / |A|")
        files = f"A: {drawable(str(report.a))}\nB: {drawable(str(report.b))}"
        canvas.finish(figure, path, report.sentence, files)


def plot_trajectory(report: TrajectoryReport, path: Path) -> None:
    """Draw how far a run's weights moved at each checkpoint, and in which layers.

    Args:
        report: The report to draw.
        path: The picture to write; its suffix decides the format.

    Raises:
        OSError: When it cannot be written.
    """
    with canvas.drawing():
        figure = canvas.new_figure(13.0, 8.0)
        lines, rows = figure.subplots(1, 2, width_ratios=(1, 1.5))
        _draw_lines(lines, report)
        others = [title for title in report.parts if not title.startswith("layer ")]
        moved = [title for title in others if report.parts[title].moved] if report.differ else others
        titles = [*(f"layer {layer}" for layer in sorted(report.layers, reverse=True)), *moved]
        scale = Scale([value for trajectory in report.parts.values() for value in trajectory.step])
        stops = range(1, len(report.stops))
        matrix = [[_step(report.parts[title], stop) for stop in stops] for title in titles]
        canvas.draw_cells(rows, matrix, scale)
        every = 1 if len(report.layers) <= _LABELLED else 2
        shown = [number for number, title in enumerate(titles) if not title.startswith("layer ") or number % every == 0]
        rows.set_yticks(shown, [drawable(titles[number]) for number in shown], fontsize=8)
        rows.set_xticks(range(len(stops)), [_short(name) for name in report.stops[1:]])
        for axes in (lines, rows):
            axes.tick_params(axis="x", labelrotation=30)
        lines.set_xlabel("step")
        rows.set_xlabel("checkpoint")
        rows.set_title("where it moved since the previous one", fontsize=11)
        canvas.draw_legend(figure, rows, matrix, scale, "moved by, relative to the start")
        canvas.finish(figure, path, report.sentence, drawable(str(report.run)))


def _draw_lines(axes: Axes, report: TrajectoryReport) -> None:
    """Draw a line per distance of the GPT, and a cross per checkpoint that holds NaN or infinity."""
    stops = range(len(report.stops))
    places = _places(report)
    away, step = ([value * 100 for value in values] for values in (report.gpt.away, report.gpt.step))
    if math.inf in (*away, *step):
        text = "the GPT is all zeros at the start:\nno distance relative to it is finite"
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
        axes.set_yticks([])
        axes.set_xlim(places[0] - 0.5, places[-1] + 0.5)
    else:
        axes.plot(places, away, marker="o", color="#440154", label=f"away from {drawable(report.start)}")
        axes.plot(places[1:], step[1:], marker="s", linestyle="--", color="#21918c", label="since the previous one")
        axes.margins(y=0.25)  # for the legend
        axes.set_ylim(bottom=0)
        axes.grid(color="#eeeeee")
    broken = [stop for stop in stops if report.gpt.nonfinite[stop]]
    if broken:
        low = axes.get_xaxis_transform()  # at the bottom, whatever the distances
        look: dict[str, Any] = {"marker": "X", "markersize": 10, "color": canvas.BROKEN, "linestyle": "none"}
        axes.plot(
            [places[stop] for stop in broken],
            [0.02] * len(broken),
            transform=low,
            clip_on=False,
            label="holds NaN or infinity",
            **look,
        )
    if axes.lines:
        axes.legend(frameon=False, loc="upper left")
    axes.set_ylabel("GPT moved, % of its norm")
    axes.set_title("how far the GPT moved", fontsize=11)
    shown = _apart(places)
    axes.set_xticks([places[stop] for stop in shown], [_short(report.stops[stop]) for stop in shown])


def _places(report: TrajectoryReport) -> list[float]:
    """Where the checkpoints stand on an axis of steps; a base without a step, where training started."""
    return [float(step or 0) for step in report.steps]


def _apart(places: list[float]) -> list[int]:
    """Return the indices of the places whose labels do not overlap; the first and the last always have one."""
    least = (places[-1] - places[0]) / _MOST_LABELS
    shown = [0]
    for index in range(1, len(places) - 1):
        if places[index] - places[shown[-1]] >= least and places[-1] - places[index] >= least:
            shown.append(index)
    return [*shown, len(places) - 1]


def _cell(found: Difference) -> float | None:
    """A distance in the form that `canvas.draw_cells` takes."""
    if not found.changed:
        return None
    if found.nonfinite:
        return math.nan
    return math.inf if math.isnan(found.relative_l2) else found.relative_l2


def _bar(found: Difference) -> tuple[float | None, int]:
    return (found.relative_l2 if found.changed else None, found.nonfinite)


def _step(trajectory: Trajectory, stop: int) -> float | None:
    """The distance of a stop from the previous one, in the form that `canvas.draw_cells` takes."""
    value = trajectory.step[stop]
    if trajectory.nonfinite[stop] or (math.isnan(value) and trajectory.nonfinite[stop - 1]):
        return math.nan
    return math.inf if math.isnan(value) else value or None


def _number_axis(axes: Axes, layers: list[int]) -> None:
    every = 1 if len(layers) <= 16 else 2
    axes.set_xticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]])


def _short(name: str) -> str:
    return drawable(name.replace("checkpoint_", "").replace("best_model_", "best "))
