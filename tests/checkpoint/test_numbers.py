"""Steps, epochs and losses that a script has left as scalars of numpy or tensors of one element."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import export_checkpoint
from xtts_export_callback.checkpoint import open_checkpoint

NUMBERS: list[tuple[Any, Any]] = [
    (np.int64(1000), 1000),
    (np.int32(-3), -3),
    (np.uint8(200), 200),
    (np.uint64(2**63), 2**63),
    (np.array(1000, ">i4")[()], 1000),
    (np.dtype(">i8").type(7), 7),
    (np.float64(1.5), 1.5),
    (np.float32(0.25), 0.25),
    (np.float16(2.5), 2.5),
    (np.array(1.5, ">f8")[()], 1.5),
    (np.bool_(1), True),
    (torch.tensor(1000), 1000),
    (torch.tensor([7], dtype=torch.int16), 7),
    (torch.tensor(2.5), 2.5),
    (torch.tensor(2.5, dtype=torch.float16), 2.5),
    (torch.tensor(2.5, dtype=torch.bfloat16), 2.5),
    (torch.tensor(True), True),
]


@pytest.fixture(params=NUMBERS, ids=lambda pair: f"{type(pair[0]).__name__} {getattr(pair[0], 'dtype', '')} {pair[1]}")
def pair(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_step_epoch_and_losses_are_numbers_whatever_holds_them(pair: tuple[Any, Any], tmp_path: Path) -> None:
    value, number = pair
    path = tmp_path / "m.pth"
    torch.save(
        {"model": {"a": torch.ones(1)}, "step": value, "epoch": value, "model_loss": {"train_loss": value}}, path
    )
    with open_checkpoint(path) as checkpoint:
        found = [
            checkpoint.document["step"],
            checkpoint.document["epoch"],
            checkpoint.document["model_loss"]["train_loss"],
        ]
    assert found == [number] * 3
    assert {type(each) for each in found} == {type(number)}


def test_a_loss_that_stands_for_itself_is_a_number_too(pair: tuple[Any, Any], tmp_path: Path) -> None:
    value, number = pair
    torch.save({"model": {"a": torch.ones(1)}, "model_loss": value}, tmp_path / "m.pth")
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        assert checkpoint.document["model_loss"] == number


def test_a_tensor_of_several_elements_is_no_number(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}, "step": torch.ones(2)}, tmp_path / "m.pth")
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        assert checkpoint.document["step"].shape == (2,)


@pytest.mark.parametrize("dtype", [">i4", "<i4", "i8"])
def test_a_scalar_with_its_byte_order_is_read_in_it(tmp_path: Path, dtype: str) -> None:
    """Numpy pickles the order of the type; a scalar of another order arises where a record is picked apart."""
    value = np.array([(258,)], [("step", dtype)])[0]["step"]
    torch.save({"model": {"a": torch.ones(1)}, "step": value}, tmp_path / "m.pth")
    with open_checkpoint(tmp_path / "m.pth") as checkpoint:
        assert checkpoint.document["step"] == 258


def test_an_export_knows_the_step_epoch_and_losses_of_such_a_checkpoint(tmp_path: Path) -> None:
    losses = {"train_loss": np.float64(1.5), "eval_loss": torch.tensor(2.5)}
    state = {**small_state(1), "step": np.int64(1000), "epoch": np.int64(3), "model_loss": losses}
    result = export_checkpoint(write_small(tmp_path / "checkpoint_1000.pth", state))
    (source,) = result.provenance["sources"]
    assert (source["step"], source["epoch"]) == (1000, 3)
    assert source["model_loss"] == {"train_loss": 1.5, "eval_loss": 2.5}
    written = torch.load(result.path / "model.pth", weights_only=True)
    assert (written["step"], written["epoch"]) == (1000, 3)
