"""What passes for fit for ``torch.load(weights_only=True)`` by its pickle alone is what the installed torch takes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
import torch
from torch import _weights_only_unpickler

from tests.models.small_xtts import small_state, write_small
from xtts_export_callback.checkpoint.unpickler import _FOREIGN, _OPCODES
from xtts_export_callback.verification.model import verify_checkpoint
from xtts_export_callback.verification.weights_only import ALLOWED, NAMES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(not torch.__version__.startswith("2.8."), reason="the table is that of torch 2.8")
def test_the_names_are_those_that_torch_allows() -> None:
    assert set(_weights_only_unpickler._get_allowed_globals()) == NAMES


@pytest.mark.parametrize(
    "name",
    [
        "torch.longrope",
        "torch.EvilStorage",
        "torch._utils._rebuild_evil",
        "torch.int_evil",
        "torch.Sizes",
        "torchXSize",
    ],
)
def test_a_name_that_only_looks_like_one_of_torch_is_not_allowed(name: str) -> None:
    assert not ALLOWED.fullmatch(name)


def torch_knows(opcode: int) -> bool:
    try:
        _weights_only_unpickler.load(io.BytesIO(bytes((opcode,)) + bytes(20)))
    except Exception as error:
        return "Unsupported operand" not in str(error) or str(error).endswith("operand 0")
    return True


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_the_opcodes_that_torch_does_not_know_are_known() -> None:
    foreign = {code for codes in _FOREIGN.values() for code in codes}
    assert {code for code in _OPCODES if not torch_knows(code)} == foreign


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_a_file_of_pickle_protocol_4_has_a_fault(tmp_path: Path, zipped: bool) -> None:
    path = write_small(tmp_path / "checkpoint_1000.pth")
    torch.save(small_state(), path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    (fault,) = verify_checkpoint(path).faults
    assert fault.check == "weights_only"
    assert fault.message.startswith("an opcode of pickle protocol 4 is refused by torch.load(weights_only=True)")


def test_a_file_in_the_old_format_has_no_fault_when_loaded_too(tmp_path: Path) -> None:
    path = write_small(tmp_path / "checkpoint_1000.pth")
    torch.save(small_state(), path, _use_new_zipfile_serialization=False)
    assert verify_checkpoint(path, load=True).faults == ()
