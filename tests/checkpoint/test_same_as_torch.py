"""Files of which torch would read other weights than this reader, and keys chosen for their equal hashes."""

from __future__ import annotations

import pickle
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch

from xtts_export_callback.checkpoint.read import open_checkpoint
from xtts_export_callback.checkpoint.unpickle import Unpickler, UnpicklingError
from xtts_export_callback.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def load(data: bytes) -> object:
    """What the stream builds, where every persistent id is the number 7."""
    return Unpickler(data, persistent_load=lambda _: 7, build=lambda callee, _: callee).load()


def rewrite(path: Path, *, folder: str = "", twin: str = "") -> None:
    """Save a checkpoint, with one record marked as a folder or doubled in capitals."""
    torch.save({"model": {"weight": torch.ones(3)}}, path)
    with zipfile.ZipFile(path) as archive:
        records = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in records:
            if folder and info.filename.endswith(folder):
                info.external_attr |= 0x10
            archive.writestr(info, content)
            if twin and info.filename.endswith(twin):
                archive.writestr(info.filename.replace("data/0", "DATA/0"), bytes(len(content)))


def test_a_state_for_what_is_neither_an_object_nor_a_dict_is_refused() -> None:
    with pytest.raises(UnpicklingError, match="a state for"):
        load(b"\x80\x02K\x00Q)b.")


def test_a_record_marked_as_a_folder_is_refused(tmp_path: Path) -> None:
    rewrite(tmp_path / "a.pth", folder="data/0")
    with pytest.raises(CheckpointError, match="marked as a folder"):
        open_checkpoint(tmp_path / "a.pth")


def test_record_names_that_differ_only_by_case_are_refused(tmp_path: Path) -> None:
    rewrite(tmp_path / "a.pth", twin="data/0")
    with pytest.raises(CheckpointError, match="record name"):
        open_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("key", [(-1, -2, -1), (0, 1, 2**61 - 1), (0.5, 1, 2)])
def test_long_tuples_of_numbers_with_equal_hashes_are_no_keys(key: tuple[float, ...]) -> None:
    with pytest.raises(UnpicklingError, match="equal hashes"):
        load(pickle.dumps({key: 1}, 2))


def test_long_tuples_of_ordinary_numbers_are_keys() -> None:
    assert load(pickle.dumps({("a", -1, 0, 5): 1}, 2)) == {("a", -1, 0, 5): 1}
