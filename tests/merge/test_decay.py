"""Weights that emulate a falling learning rate."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.merge.test_exactness import half_unit
from tests.models.command_line import complaint
from tests.models.least import load, save_all, state_dict
from xtts_export_callback import average_checkpoints
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.merge.decay import DECAYS, decay_weights

pytestmark = pytest.mark.usefixtures("least_models")


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_weights_are_positive_and_sum_to_one(decay: str, count: int) -> None:
    weights = decay_weights(decay, count)

    assert len(weights) == count and min(weights) > 0 and math.fsum(weights) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("decay", DECAYS)
def test_updates_count_as_the_learning_rate_would_make_them(decay: str) -> None:
    weights = decay_weights(decay, 6)

    # Of the paper: what led to checkpoint i counts by the sum of the weights from i on
    assert [math.fsum(weights[index:]) for index in range(6)] == pytest.approx([DECAYS[decay](i / 6) for i in range(6)])


def test_linear_is_the_mean() -> None:
    assert decay_weights("linear", 4) == pytest.approx([0.25] * 4)


def test_one_minus_the_root_gives_most_to_the_oldest() -> None:
    assert decay_weights("1-sqrt", 4) == pytest.approx([0.5, 2**0.5 / 2 - 0.5, 3**0.5 / 2 - 2**0.5 / 2, 1 - 3**0.5 / 2])


def test_cosine_gives_most_to_the_middle() -> None:
    root = 2**0.5 / 4

    assert decay_weights("cosine", 4) == pytest.approx([0.5 - root, root, root, 0.5 - root])


@pytest.mark.parametrize("decay", DECAYS)
def test_the_result_is_the_weighted_mean_within_half_a_unit_oldest_first(tmp_path: Path, decay: str) -> None:
    models = [state_dict(seed) for seed in range(4)]
    average_checkpoints(save_all(tmp_path, models), tmp_path / "mean", decay=decay)
    mean = load(tmp_path / "mean")
    weights = [np.longdouble(weight) for weight in decay_weights(decay, 4)]
    for name, result in mean.items():
        if result.is_floating_point():
            exact = sum(w * model[name].double().numpy() for w, model in zip(weights, models, strict=True)) / sum(
                weights
            )
            difference = np.abs(result.double().numpy().astype(np.longdouble) - exact).astype(np.float64)
            assert (difference <= half_unit(exact, torch.float32) * (1 + 1e-6) + 2.0**-50).all(), name


def test_the_provenance_names_the_decay(tmp_path: Path) -> None:
    written = average_checkpoints(save_all(tmp_path, [state_dict(1), state_dict(2)]), tmp_path / "m", decay="1-sqrt")

    assert written.provenance["rules"]["decay"] == "1-sqrt"
    assert [Fraction(source["weight"]).limit_denominator(1000) for source in written.provenance["sources"]] == [
        Fraction(decay_weights("1-sqrt", 2)[index]).limit_denominator(1000) for index in (0, 1)
    ]


def test_it_is_an_option_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = save_all(tmp_path, [state_dict(1), state_dict(2)])

    assert main(["average", *map(str, paths), "--decay", "1-sqrt", "--output", str(tmp_path / "m")]) == 0
    assert "0.7071 x a" in capsys.readouterr().out


def test_weights_beside_it_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = save_all(tmp_path, [state_dict(1), state_dict(2)])

    line = complaint(capsys, "average", *paths, "--decay", "cosine", "--weights", "1", "2", "--output", tmp_path / "m")

    assert line == "xtts-export: weights and decay: expected one of them; decay finds the weights itself"


def test_an_unknown_decay_is_named() -> None:
    with pytest.raises(ConfigError, match="decay 'step': expected one of linear, cosine, 1-sqrt"):
        decay_weights("step", 3)
