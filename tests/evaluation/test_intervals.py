"""Intervals over clips, and which differences mean something."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xtts_export_callback.evaluation.intervals import FEWEST, interval, is_lower, paired

CLIPS = [1.9, 2.1, 2.0, 2.4, 1.7, 2.2, 2.05, 1.95]


def test_the_mean_of_equal_values_has_no_width() -> None:
    assert interval([2.5] * 9) == (2.5, 2.5, 2.5)


def test_an_interval_holds_its_mean() -> None:
    found = interval(CLIPS)

    assert found is not None and found.low < found.mean < found.high


def test_the_same_values_have_the_same_interval() -> None:
    assert interval(CLIPS) == interval(CLIPS)


def test_an_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    found = [interval(list(generator.normal(3, 1, 40))) for _ in range(200)]

    assert 0.90 <= np.mean([one is not None and one.low <= 3 <= one.high for one in found]) <= 0.99


def test_nothing_has_no_interval() -> None:
    assert interval([]) is None


def test_a_value_that_is_not_finite_leaves_no_number() -> None:
    assert all(map(math.isnan, interval([1.0, math.inf]) or ()))


def test_a_small_difference_on_every_clip_is_found_among_large_ones_between_clips() -> None:
    clips = list(np.linspace(1, 9, 12))
    better = [clip - 0.01 - 0.001 * (index % 3) for index, clip in enumerate(clips)]

    assert is_lower(better, clips) and not is_lower(clips, better)


def test_differences_of_both_signs_mean_nothing() -> None:
    other = [clip + (0.1 if index % 2 else -0.09) for index, clip in enumerate(CLIPS)]

    assert not is_lower(CLIPS, other) and not is_lower(other, CLIPS)


def test_few_clips_tell_nothing_apart() -> None:
    few = FEWEST - 1

    assert not is_lower([1.0] * few, [2.0] * few) and is_lower([1.0] * FEWEST, [2.0] * FEWEST)


def test_what_is_no_number_is_never_lower() -> None:
    assert is_lower(CLIPS, [math.nan] * 8) and not is_lower([math.nan] * 8, CLIPS)


def test_other_numbers_of_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        paired([1.0, 2.0], [1.0])
