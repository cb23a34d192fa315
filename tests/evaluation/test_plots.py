"""Geometry of the page's plots."""

from __future__ import annotations

import math

import pytest

from xtts_export_callback.evaluation.plots import Axis, LossPoint, loss_plot, outline


def point(name: str, steps: list[int], mean: float) -> LossPoint:
    return LossPoint(name, steps, mean, mean - 0.1, mean + 0.1)


def test_a_lower_loss_stands_lower_and_a_later_step_further_right() -> None:
    plot = loss_plot([point("late", [200], 1.0), point("early", [100], 2.0)])

    assert plot is not None
    early, late = plot.singles
    assert (early.point.name, late.point.name, plot.best.name) == ("early", "late", "late")
    assert early.x < late.x and early.y < late.y  # per cent from the top


def test_an_average_spans_the_steps_of_its_checkpoints() -> None:
    plot = loss_plot([point("a", [100], 2.0), point("b", [300], 2.0), point("average", [100, 200, 300], 1.0)])

    assert plot is not None
    (average,) = plot.averages
    assert (average.first, average.x) == (plot.singles[0].x, plot.singles[1].x)


@pytest.mark.parametrize(
    "points", [[], [point("recordings", [], 1.0)], [point("noise", [1], math.nan)], [point("noise", [1], math.inf)]]
)
def test_nothing_to_draw_is_no_plot(points: list[LossPoint]) -> None:
    assert loss_plot(points) is None


@pytest.mark.parametrize(("low", "high"), [(1.4, 1.9), (0.0, 0.0), (5.0, 5.0), (-1e-9, 1e-9), (1e5, 3e6)])
def test_ticks_are_few_distinct_and_within_the_axis(low: float, high: float) -> None:
    axis = Axis(low, high, margin=0.05)
    labels = [f"{value:.{axis.decimals}f}" for value in axis.ticks()]

    assert 2 <= len(labels) <= 7
    assert len(set(labels)) == len(labels)
    assert all(0 <= axis.at(value) <= 100 for value in axis.ticks())


def test_one_checkpoint_stands_in_the_middle() -> None:
    plot = loss_plot([LossPoint("only", [500], 2.0, 2.0, 2.0)])

    assert plot is not None
    assert (plot.singles[0].x, plot.singles[0].y) == (50, 50)
    assert plot.x_ticks


def test_a_waveform_has_a_stroke_for_each_height() -> None:
    assert outline([0.5, 0.0], 2.0) == "M0.5-1.00V1.00M1.5-0.02V0.02"
