"""Model Stock against its paper, in higher precision."""

from __future__ import annotations

import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.merge.test_exactness import half_unit
from tests.models.command_line import complaint
from tests.models.generated import SPECIFICATION
from tests.models.least import EMBEDDING, load, recipe, save_all, state_dict
from xtts_export_callback import merge_checkpoints
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("least_models")


def stock_of_the_paper(base: torch.Tensor, models: list[torch.Tensor]) -> np.ndarray[Any, Any]:
    """The ratio of Jang et al. for N models with the mean cosine of all pairs, in the widest floating-point type."""
    start = base.double().numpy().astype(np.longdouble)
    inputs = [model.double().numpy().astype(np.longdouble) for model in models]
    changes = [(one - start).ravel() for one in inputs]
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in combinations(changes, 2)]
    cosine = max(np.longdouble(0), sum(cosines) / len(cosines))
    count = len(models)
    t = count * cosine / (1 + (count - 1) * cosine)
    return np.asarray((1 - t) * start + t * sum(inputs) / count)


@given(st.integers(0, 10**6), st.integers(2, 5), st.floats(0.05, 2.0), st.sampled_from([torch.float32, torch.float16]))
@settings(SPECIFICATION, max_examples=40)
def test_every_element_is_within_half_a_unit_of_the_papers_formula(
    seed: int, count: int, spread: float, dtype: torch.dtype
) -> None:
    base = state_dict(seed)
    shared = state_dict(seed + 1)
    models = [
        {
            name: (tensor + 0.1 * shared[name] + 0.1 * spread * state_dict(seed + 2 + index)[name]).to(dtype)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in base.items()
        }
        for index in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        *paths, base_path = save_all(Path(folder), [*models, base])
        merge_checkpoints(recipe(paths, method="model_stock", base=str(base_path)), Path(folder) / "merged")
        merged = load(Path(folder) / "merged")
    for name, result in merged.items():
        if result.is_floating_point():
            exact = stock_of_the_paper(base[name], [model[name] for model in models])
            difference = np.abs(result.double().numpy().astype(np.longdouble) - exact).astype(np.float64)
            noise = 2.0**-45 * max(float(np.abs(exact).max()), float(base[name].abs().max()))
            assert (difference <= half_unit(exact, result.dtype) * (1 + 1e-6) + noise).all(), name


def merged_of(tmp_path: Path, base: torch.Tensor, *models: torch.Tensor) -> torch.Tensor:
    everything = [state_dict(0, gpt__a=one) for one in (*models, base)]
    *paths, base_path = save_all(tmp_path, everything)
    merge_checkpoints(recipe(paths, method="model_stock", base=str(base_path)), tmp_path / "merged")
    return load(tmp_path / "merged")["gpt.a"]


def test_models_that_moved_alike_give_their_mean(tmp_path: Path) -> None:
    found = merged_of(tmp_path, torch.zeros(2), torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0]))

    torch.testing.assert_close(found, torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize("second", [[0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]], ids=["right angle", "opposite", "unmoved"])
def test_models_that_share_no_direction_give_the_base(tmp_path: Path, second: list[float]) -> None:
    base = torch.tensor([5.0, 5.0])

    assert torch.equal(merged_of(tmp_path, base, base + torch.tensor([1.0, 0.0]), base + torch.tensor(second)), base)


def test_at_sixty_degrees_two_models_go_two_thirds_of_the_way(tmp_path: Path) -> None:
    found = merged_of(tmp_path, torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.75**0.5]))

    torch.testing.assert_close(found, torch.tensor([0.5, 0.75**0.5 / 3]))


def test_what_is_not_finite_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a/model\.pth: gpt\.a: holds NaN or infinity"):
        merged_of(tmp_path, torch.zeros(2), torch.tensor([torch.nan, 0.0]), torch.ones(2))


def test_it_is_a_method_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, base = save_all(tmp_path, [state_dict(seed) for seed in range(3)])

    assert (
        main(["merge", str(a), str(b), "--method", "model_stock", "--base", str(base), "--output", str(tmp_path / "m")])
        == 0
    )
    assert "model_stock: from the base towards the mean of a, b" in capsys.readouterr().out
    assert load(tmp_path / "m")[EMBEDDING].isfinite().all()


def test_weights_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, base = save_all(tmp_path, [state_dict(seed) for seed in range(3)])
    options = ["--method", "model_stock", "--base", base, "--weights", "2", "1", "--output", tmp_path / "m"]

    assert "weights: expected no weights, model_stock finds them" in complaint(capsys, "merge", a, b, *options)
