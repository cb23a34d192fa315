"""Which models paths stand for, what they are called, and how their weights get into a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import average_checkpoints, export_checkpoint
from xtts_export_callback.errors import ConfigError, IncompatibleError
from xtts_export_callback.evaluation.candidates import find_candidates, swap_weights


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two checkpoints, a best model that equals one, an export in half precision, and an average."""
    folder = tmp_path / "first"
    paths = [write_small(folder / f"checkpoint_{step}.pth") for step in (10, 20)]
    write_small(folder / "best_model_15.pth", small_state(20))
    export_checkpoint(paths[0], folder / "inference" / "checkpoint_10", dtype="float16")
    average_checkpoints(paths, folder / "inference" / "average_last_2")
    return folder


def names(*paths: Path) -> dict[str, tuple[str, list[int]]]:
    return {one.candidate.name: (one.candidate.kind, one.candidate.steps) for one in find_candidates(paths)}


def test_a_run_stands_for_each_of_its_models_once_from_the_most_precise_file(run: Path) -> None:
    assert names(run) == {
        "best_model_15": ("checkpoint", [20]),
        "checkpoint_10": ("checkpoint", [10]),
        "average_last_2": ("average", [10, 20]),
    }


def test_the_names_of_equal_weights_are_kept(run: Path) -> None:
    twins = {one.candidate.name: list(one.twins) for one in find_candidates([run, run / "checkpoint_20.pth"])}

    assert twins == {"best_model_15": ["checkpoint_20", "checkpoint_20"], "checkpoint_10": [], "average_last_2": []}


def test_an_export_in_float32_stands_for_its_checkpoint(run: Path) -> None:
    export_checkpoint(run / "checkpoint_20.pth", run / "inference" / "checkpoint_20")

    (found,) = find_candidates([run / "checkpoint_20.pth", run / "inference" / "checkpoint_20"])
    assert list(found.twins) == []

    assert found.path == run / "checkpoint_20.pth"
    assert {one.path.name for one in find_candidates([run])} >= {"average_last_2", "checkpoint_10.pth"}


def test_the_half_precision_export_is_another_model_where_it_is_named(run: Path) -> None:
    assert len(find_candidates([run / "checkpoint_10.pth", run / "inference" / "checkpoint_10"])) == 2


def test_names_that_meet_get_the_run_in_front(run: Path, tmp_path: Path) -> None:
    other = write_small(tmp_path / "second" / "checkpoint_10.pth", small_state(99))

    assert set(names(run / "checkpoint_10.pth", other)) == {"first-checkpoint_10", "second-checkpoint_10"}


def test_names_are_unique_whatever_the_folders(run: Path, tmp_path: Path) -> None:
    others = [
        write_small(tmp_path / place / "x" / "checkpoint_10.pth", small_state(seed))
        for place, seed in (("a", 1), ("b", 2))
    ]

    assert len(names(*others)) == 2


def test_a_folder_of_exports_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder of exports, not a run or a model"):
        find_candidates([run / "inference"])


class Model(torch.nn.Module):
    """Any module with the weights of a file."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.state = {name: tensor.clone() for name, tensor in state.items()}

    def state_dict(self) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return self.state


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_are_swapped_in_place_from_any_type(run: Path, dtype: str, tmp_path: Path) -> None:
    written = export_checkpoint(run / "checkpoint_20.pth", tmp_path / "half", dtype=dtype).path
    model = Model(torch.load(run / "inference" / "average_last_2" / "model.pth", weights_only=True)["model"])
    places = {name: tensor.data_ptr() for name, tensor in model.state.items()}

    swap_weights(model, written)

    expected = torch.load(written / "model.pth", weights_only=True)["model"]
    assert all(torch.equal(model.state[name], expected[name].to(model.state[name].dtype)) for name in expected)
    assert {name: tensor.data_ptr() for name, tensor in model.state.items()} == places


def test_other_tensors_are_named(run: Path) -> None:
    state = torch.load(run / "inference" / "average_last_2" / "model.pth", weights_only=True)["model"]
    state["gpt.mel_head.bias"] = torch.zeros(3)

    with pytest.raises(IncompatibleError, match=r"gpt\.mel_head\.bias: expected \[3\], found \[7\]: another model"):
        swap_weights(Model(state), run / "checkpoint_20.pth")


def test_another_number_of_tokens_is_named(run: Path) -> None:
    state = torch.load(run / "inference" / "average_last_2" / "model.pth", weights_only=True)["model"]
    state["gpt.text_embedding.weight"] = torch.zeros(9, 8)

    with pytest.raises(IncompatibleError, match=r"a vocabulary of 6 tokens, expected the 9 of the run's vocab\.json"):
        swap_weights(Model(state), run / "checkpoint_20.pth")
