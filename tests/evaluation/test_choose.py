"""Ranks, ties, and the words for them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.choose import check_rule, ranked
from xtts_export_callback.evaluation.results import Candidate, Evaluation, Loss, Sample

CLIPS = list(np.linspace(1, 3, 20))


def of_loss(name: str, clips: list[float]) -> Candidate:
    return Candidate(name, "export", loss=Loss(sum(clips) / len(clips), 0, 9, {}, clips))


def spoken(name: str, *, faults: int = 0, wrong: float = 0.1, voice: float = 0.8) -> Candidate:
    """Twelve samples, the first of them with a fault each."""
    samples = [
        Sample(index, 0, "", 1.0, ["silence"] if index < faults else [], wrong + 0.001 * (index % 3), None, voice)
        for index in range(12)
    ]
    return Candidate(name, "export", samples=samples)


def ranks(
    *candidates: Candidate, rule: tuple[str, ...] = ("faults", "errors", "voice", "loss")
) -> dict[str, int | None]:
    return {one.name: one.rank for one in ranked(Evaluation(list(candidates), rule=list(rule))).candidates}


def shifted(by: float, seed: int, noise: float = 0.01) -> list[float]:
    return [
        clip + by + noise * value
        for clip, value in zip(CLIPS, np.random.default_rng(seed).normal(0, 1, 20), strict=True)
    ]


def test_the_lower_loss_comes_first() -> None:
    assert ranks(of_loss("high", shifted(0.1, 1)), of_loss("low", shifted(0, 2))) == {"low": 1, "high": 2}


def test_what_may_be_chance_is_a_tie_and_named_so() -> None:
    found = ranked(
        Evaluation([of_loss("one", shifted(0, 1)), of_loss("two", shifted(0, 2)), of_loss("far", shifted(1, 3))])
    )

    assert [(one.name, one.rank) for one in found.candidates[2:]] == [("far", 3)]
    assert [one.rank for one in found.candidates[:2]] == [1, 1]
    assert {one.name: one.tied_with for one in found.candidates} == {"one": ["two"], "two": ["one"], "far": []}
    assert found.verdict.startswith("The first 2 of 3 are tied: no difference between them is more than chance.")


def test_too_few_clips_are_said_to_be_too_few() -> None:
    found = ranked(Evaluation([of_loss("one", [1.0, 1.0]), of_loss("two", [2.0, 2.0])]))

    assert "2 clips cannot tell candidates apart, 6 are needed" in found.verdict
    assert [one.rank for one in found.candidates] == [1, 1]


def test_faults_come_before_errors_errors_before_the_voice_and_the_voice_before_the_loss() -> None:
    faulty = spoken("faulty", faults=9, wrong=0.0, voice=0.9)
    wrong = spoken("wrong", wrong=0.5, voice=0.9)
    stranger = spoken("stranger", voice=0.3)
    high = replace(spoken("high"), loss=Loss(2, 1, 3, {}, shifted(0.5, 1)))
    best = replace(spoken("best"), loss=Loss(2, 1, 3, {}, shifted(0, 2)))

    assert ranks(faulty, wrong, stranger, high, best) == {"best": 1, "high": 2, "stranger": 3, "wrong": 4, "faulty": 5}


def test_the_rule_decides() -> None:
    close = spoken("close", wrong=0.5, voice=0.9)
    right = spoken("right", wrong=0.0, voice=0.3)

    assert ranks(close, right) == {"right": 1, "close": 2}
    assert ranks(close, right, rule=("voice", "errors")) == {"close": 1, "right": 2}


def test_the_worse_one_is_told_why() -> None:
    found = ranked(Evaluation([spoken("faulty", faults=9), spoken("healthy")]))

    assert found.candidates[1].reason == "more faults than healthy: 0.75 against 0"
    assert found.verdict == "healthy is the best of 2; the next, faulty, has more faults."


def test_a_loss_that_is_not_a_number_is_last() -> None:
    broken = of_loss("broken", [math.nan] * 20)

    assert ranks(broken, of_loss("healthy", CLIPS)) == {"healthy": 1, "broken": 2}


def test_candidates_in_a_circle_all_have_a_rank() -> None:
    # Of three clips each, one measure for each pair: a before b, b before c, c before a.
    a, b, c = spoken("a", faults=12), spoken("b", wrong=0.9), spoken("c", voice=0.1)

    assert sorted(rank or 0 for rank in ranks(a, b, c).values()) == [1, 2, 3]


def test_what_is_not_measured_has_no_rank() -> None:
    assert ranks(of_loss("measured", CLIPS), Candidate("later", "export")) == {"measured": 1, "later": None}


@pytest.mark.parametrize("rule", [[], ["beauty"], ["loss", "loss"]])
def test_another_rule_is_refused(rule: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--by .*: expected some of faults, errors, voice, naturalness, loss"):
        check_rule(rule)
