"""Each kind of fault, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from xtts_export_callback.evaluation.faults import Codes, Heard, faults_of, has_loop
from xtts_export_callback.evaluation.sound import Segment
from xtts_export_callback.evaluation.words import Comparison

# A sentence of 50 letters at a usual speed.
CLEAN = Heard(4.0, 0.5, [Segment(0.1, 1.8), Segment(2.1, 3.8)], 50, "en", Comparison(0.1, 0, 0), Codes((1, 2, 3), True))


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, []),
        ({"comparison": None, "codes": None}, []),
        ({"codes": Codes((1, 2, 3), False)}, ["no stop token"]),
        ({"codes": Codes((7,) * 30, True)}, ["loop in the codes"]),
        ({"peak": 0.001, "speech": []}, ["silence"]),
        ({"speech": []}, ["no speech"]),
        ({"seconds": 0.05, "speech": []}, ["cut short", "no speech"]),
        ({"speech": [Segment(0.1, 1.8), Segment(2.9, 3.8)]}, ["long gap"]),
        ({"seconds": 6.0}, ["long gap"]),
        ({"comparison": Comparison(0.3, 0, 10)}, ["speech after the text"]),
        ({"comparison": Comparison(0.5, 20, 0), "speech": [Segment(0.0, 2.4)], "seconds": 2.4}, ["cut short"]),
        ({"comparison": None, "speech": [Segment(0.0, 1.5)], "seconds": 1.6}, ["cut short"]),
        ({"comparison": None, "speech": [Segment(0.0, 8.0)], "seconds": 8.0}, ["speech after the text"]),
    ],
)
def test_a_fault_is_named(changes: dict[str, Any], kinds: list[str]) -> None:
    assert faults_of(CLEAN._replace(**changes)) == kinds


@pytest.mark.parametrize(
    "comparison",
    [
        pytest.param(Comparison(0.6, 20, 0), id="words lost in noise, of speech that has its whole length"),
        pytest.param(Comparison(0.8, 0, 12), id="words that match nowhere"),
        pytest.param(Comparison(0.2, 0, 4), id="a syllable too much"),
    ],
)
def test_words_that_the_recogniser_could_not_make_out_are_no_fault_of_the_clip(comparison: Comparison) -> None:
    assert faults_of(CLEAN._replace(comparison=comparison)) == []


@pytest.mark.parametrize(
    ("codes", "loops"),
    [
        (range(200), False),
        ([5] * 21, False),
        ([5] * 22, True),
        ([*range(10)] * 2, False),
        ([*range(50), *[*range(10)] * 3, *range(50)], True),
        ([*range(22)] * 3, True),
        ([*range(30)] * 3, False),
    ],
)
def test_a_loop_is_a_piece_three_times_in_a_row_for_a_second(codes: list[int], loops: bool) -> None:
    assert has_loop(codes) is loops
