"""The size of what the Trainer saves, for every kind of tensor that torch saves in a way of its own."""

from __future__ import annotations

import io
import warnings
import zipfile
from types import SimpleNamespace
from typing import Any, NoReturn

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from xtts_export_callback.run.lr_schedule import position_of
from xtts_export_callback.training.trainer_state import state_bytes


class Wrapper(torch.Tensor):
    """As the states of torchao's optimizers are made."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=torch.float64)  # type: ignore[attr-defined]

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        raise NotImplementedError


def tensors() -> dict[str, torch.Tensor]:
    whole = torch.ones(40)
    ragged = [torch.ones(3), torch.ones(5)]
    kinds = {
        "plain": torch.ones(3, 4),
        "view": whole[:2],
        "view of the same": whole[7:],
        "scalar": torch.tensor(1.0),
        "half": torch.ones(5, dtype=torch.float16),
        "sparse": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "bsr": torch.eye(4).to_sparse_bsr((2, 2)),
        "nested": torch.nested.nested_tensor(ragged),
        "wrapper": Wrapper(torch.ones(7, dtype=torch.uint8)),
        "quantized": torch.quantize_per_tensor(torch.ones(6), 0.1, 0, torch.qint8),
        "conjugate": torch.ones(3, dtype=torch.complex64).conj(),
    }
    if hasattr(torch, "jagged"):  # torch 2.2
        kinds["jagged"] = torch.nested.nested_tensor(ragged, layout=torch.jagged)
    return kinds


with warnings.catch_warnings():  # some kinds are new to torch, others old
    warnings.simplefilter("ignore")
    TENSORS = tensors()
STATES = st.recursive(
    st.sampled_from(sorted(TENSORS)).map(lambda kind: TENSORS[kind]) | st.integers() | st.text() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


def saved_bytes(state: Any) -> int:
    """Bytes of the storages in the file that torch writes."""
    file = io.BytesIO()
    torch.save(state, file)
    with zipfile.ZipFile(file) as archive:
        return sum(record.file_size for record in archive.infolist() if "/data/" in record.filename)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=50, deadline=None)
@given(state=STATES)
def test_a_state_is_as_large_as_the_storages_that_torch_saves(state: Any) -> None:
    assert state_bytes(state) == saved_bytes(state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(TENSORS))
def test_a_tensor_of_any_kind_is_as_large_as_the_storages_that_torch_saves(kind: str) -> None:
    assert state_bytes({"x": TENSORS[kind]}) == saved_bytes({"x": TENSORS[kind]}) > 0


def test_a_state_that_holds_itself_has_a_size() -> None:
    state: dict[str, Any] = {"x": torch.ones(3)}
    state["state"] = [state]
    assert state_bytes(state) == 12


def test_what_cannot_be_saved_is_left_for_the_save_to_complain_of() -> None:
    assert state_bytes({"x": lambda: None}) == 0


def test_the_position_in_the_schedule_is_plain_numbers_whatever_a_scheduler_keeps() -> None:
    scheduler = SimpleNamespace(best=lambda: None, last_epoch=3, T_cur=np.float64(0.5), T_i=torch.tensor(2.0))
    (position,) = position_of([], scheduler)["schedule"]
    assert {name: (type(value), value) for name, value in position.items()} == {
        "last_epoch": (int, 3),
        "T_cur": (float, 0.5),
        "T_i": (float, 2.0),
    }
