"""The file of an evaluation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.intervals import Interval
from xtts_export_callback.evaluation.results import (
    Candidate,
    Data,
    Evaluation,
    Faults,
    Loss,
    Sample,
    Sentence,
    Speech,
    read_evaluation,
)

SPEECH = Speech(Faults(1, 2, {"no stop token": 1}), Interval(0.1, 0.0, 0.2), None, Interval(4.0, 3.5, 4.5))
SAMPLE = Sample(0, 0, "checkpoint_8/0_0.wav", 1.5, ["no stop token"], 0.2, "heard", None, 4.0)
FULL = Evaluation(
    [
        Candidate("checkpoint_8", "checkpoint", [8], 123, "f", Loss(2.0, 1.5, 2.5, {"loss_mel_ce": 1.9}, [2.0, 2.0])),
        Candidate("other", "merge", speech=SPEECH, samples=[SAMPLE], rank=2, tied_with=["x"], reason="why"),
    ],
    data=Data("generated", 2),
    sentences=[Sentence("Listen.", "en")],
    not_measured=["characters wrong in xx: nothing hears it"],
    settings={"seed": 0},
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    FULL.write(tmp_path)

    assert read_evaluation(tmp_path) == FULL


def test_the_file_is_the_dict(tmp_path: Path) -> None:
    assert json.loads(FULL.write(tmp_path).read_text()) == FULL.to_dict()


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    written = Evaluation([Candidate("noise", "export", loss=Loss(math.nan, math.inf, math.nan))])

    assert json.loads(written.write(tmp_path).read_text())["candidates"][0]["loss"]["mean"] is None
    found = read_evaluation(tmp_path).candidates[0].loss
    assert found is not None and math.isnan(found.mean)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"format": "xtts-export evaluation 9"}, "expected the format 'xtts-export evaluation 1'"),
        ({"candidates": {}}, "candidates: expected list, found {}"),
        ({"candidates": [{"name": "a"}]}, r"candidates\.0: .*missing 1 required positional argument: 'kind'"),
        ({"candidates": [{"name": 3, "kind": "export"}]}, r"candidates\.0\.name: expected str, found 3"),
        ({"data": {"dataset": "x", "clips": "many"}}, r"data\.clips: expected int, found 'many'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, changed: dict[str, object], complaint: str) -> None:
    path = FULL.write(tmp_path)
    path.write_text(json.dumps({**FULL.to_dict(), **changed}))

    with pytest.raises(ConfigError, match=complaint):
        read_evaluation(tmp_path)
