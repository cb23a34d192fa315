"""Confidence intervals of means over clips, by the percentile bootstrap (Efron and Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESAMPLES = 5_000
_LEVEL = 0.95
_SEED = 0
_AT_ONCE = 1 << 20  # indices

FEWEST = 6
"""Fewest clips that can tell two candidates apart: of n differences of one sign, a sign-flip test (Fisher 1935) gives
a probability of 2^(1-n) at best, and that is below 0.05 from 6 on. The bootstrap of fewer is far too narrow."""


class Interval(NamedTuple):
    """A mean and its 95 % confidence interval.

    Attributes:
        mean: The mean over clips.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval | None:
    """Return the mean of a measure over clips and its interval.

    Args:
        values: One number for each clip.

    Returns:
        The interval; None without values. All three numbers are NaN if a value is not finite.
    """
    import numpy as np

    if len(values) == 0:
        return None
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        return Interval(math.nan, math.nan, math.nan)
    # The same clips are drawn for every candidate, so that intervals of candidates compare.
    generator = np.random.default_rng(_SEED)
    rows = max(1, _AT_ONCE // len(array))
    means = np.concatenate(
        [
            array[generator.integers(0, len(array), (min(rows, _RESAMPLES - start), len(array)))].mean(axis=1)
            for start in range(0, _RESAMPLES, rows)
        ]
    )
    tail = 100 * (1 - _LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(math.fsum(values) / len(array), float(low), float(high))


def paired(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    """Return the mean of ``first - second`` over the same clips and its interval.

    Args:
        first: One number for each clip, of one candidate.
        second: The same clips in the same order, of another.

    Returns:
        The interval; None without values.

    Raises:
        ValueError: When the numbers of clips differ.
    """
    return interval([one - other for one, other in zip(first, second, strict=True)])


def is_lower(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether a measure is lower for the first candidate than for the second, and not by chance.

    Args:
        first: One number for each clip.
        second: The same clips in the same order.

    Returns:
        False for fewer than `FEWEST` clips, and when the interval of the differences reaches zero. A measure that is
        not a number is higher than every number.
    """
    if not all(map(math.isfinite, second)):
        return all(map(math.isfinite, first))
    difference = paired(first, second)
    return len(first) >= FEWEST and difference is not None and difference.high < 0
