"""Files of which torch would read other weights than this reader, and keys chosen for their equal hashes."""

from __future__ import annotations

import codecs
import itertools
import pickle
import random
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_reader import mutate_safetensors
from tests.fuzz.fuzz_same_as_torch import run_case
from tests.models.generated import SPECIFICATION, zip_of
from xtts_export_callback.checkpoint.reader import open_checkpoint
from xtts_export_callback.checkpoint.unpickler import Unpickler, UnpicklingError
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


EQUAL_HASHES = list(itertools.islice(itertools.product((-1, -2), repeat=16), 3000))


@pytest.mark.parametrize("value", [dict.fromkeys(EQUAL_HASHES), set(EQUAL_HASHES[:200])], ids=["dict", "set"])
def test_many_tuples_of_equal_hashes_are_no_keys(value: object) -> None:
    assert len({hash(key) for key in EQUAL_HASHES}) == 1
    with pytest.raises(UnpicklingError, match="equal hashes"):
        load(pickle.dumps(value, 4))


def test_a_tuple_may_be_a_key_in_many_dicts() -> None:
    value = [{(-1, 0.5): 1} for _ in range(1000)]
    assert load(pickle.dumps(value, 2)) == value


_NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
_KEYS = (
    _NUMBERS | st.text(max_size=3) | st.tuples(_NUMBERS, _NUMBERS) | st.tuples(st.integers(-3, 3), _NUMBERS, st.text())
)


@given(value=st.dictionaries(_KEYS, st.integers(), max_size=50))
@settings(SPECIFICATION, max_examples=100)
def test_numbers_strings_and_tuples_of_them_are_keys(value: dict[object, int]) -> None:
    assert load(pickle.dumps(value, 2)) == value


STATES = {
    "_rebuild_parameter_with_state": lambda shown, state: Call(
        torch._utils._rebuild_parameter_with_state, rebuilt(shown), False, OrderedDict(), state
    ),
    "_rebuild_from_type_v2": lambda shown, state: Call(
        torch._tensor._rebuild_from_type_v2, torch._utils._rebuild_tensor_v2, torch.Tensor, arguments(shown), state
    ),
}


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: object, *args: object) -> None:
        self.reduced = function, args

    def __reduce__(self) -> Any:
        return self.reduced


def arguments(tensor: torch.Tensor) -> tuple[object, ...]:
    storage = tensor._typed_storage()  # type: ignore[attr-defined]
    return storage, 0, tuple(tensor.shape), tensor.stride(), False, OrderedDict()


def rebuilt(tensor: torch.Tensor) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, *arguments(tensor))


@pytest.mark.parametrize("slots", [False, True], ids=["attributes", "slots"])
@pytest.mark.parametrize("name", STATES)
def test_a_tensor_with_other_data_among_its_attributes_is_refused(tmp_path: Path, name: str, slots: bool) -> None:
    state = {"data": rebuilt(torch.ones(2))}
    torch.save({"w": STATES[name](torch.zeros(2), (None, state) if slots else state)}, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True)["w"].tolist() == [1, 1]
    with pytest.raises(CheckpointError, match=f"found an object of .*{name}"):
        open_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("name", STATES)
def test_a_tensor_with_other_attributes_is_read(tmp_path: Path, name: str) -> None:
    torch.save({"w": STATES[name](torch.ones(2), {"tag": 1})}, tmp_path / "a.pth")
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        assert checkpoint.tensors["w"].read().tolist() == [1, 1]


def test_a_storage_with_elements_of_two_types_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.int32)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    one = b"X\x01\x00\x00\x001"  # the key of the second storage
    records["a/data.pkl"] = records["a/data.pkl"].replace(one, one[:-1] + b"0")
    (tmp_path / "a.pth").write_bytes(zip_of(records))
    assert torch.load(tmp_path / "a.pth", weights_only=True)["b"].dtype == torch.float32
    with pytest.raises(CheckpointError, match="elements of two types"):
        open_checkpoint(tmp_path / "a.pth")


def test_a_string_made_by_a_codec_is_no_key(tmp_path: Path) -> None:
    value = {"model": {"w": torch.zeros(1)}, Call(codecs.encode, "zbqry", "rot13"): {"w": torch.ones(1)}}
    torch.save(value, tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True)["model"]["w"].tolist() == [1]
    with pytest.raises(CheckpointError, match="as a key"):
        open_checkpoint(tmp_path / "a.pth")


def test_a_string_of_python_2_is_the_same_key(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": torch.ones(1)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    records["a/data.pkl"] = records["a/data.pkl"].replace(b"X\x01\x00\x00\x00b", b"U\x01a")
    (tmp_path / "a.pth").write_bytes(zip_of(records))
    theirs = torch.load(tmp_path / "a.pth", weights_only=True)
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        assert {name: tensor.read().tolist() for name, tensor in checkpoint.tensors.items()} == {
            name: tensor.tolist() for name, tensor in theirs.items()
        }


@given(seed=st.integers(0, 2**32))
@settings(SPECIFICATION, max_examples=300)
def test_safetensors_that_are_read_are_read_as_the_library_reads_them(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(mutate_safetensors(random.Random(seed)))
    try:
        with open_checkpoint(path) as checkpoint:
            ours = {name: (list(view.shape), view.read().tobytes()) for name, view in checkpoint.tensors.items()}
    except CheckpointError:
        return
    theirs = dict(safetensors.deserialize(path.read_bytes()))
    assert ours == {name: (found["shape"], bytes(found["data"])) for name, found in theirs.items()}


ACCEPTED = {
    "an unknown field": b'{"w":{"dtype":"F32","x":[{}],"shape":[2],"data_offsets":[0,8]}}',
    "no metadata": b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":null}',
    "spaces around": b' {"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}   ',
    "an emoji in two halves": b'{"\\ud83d\\ude00":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "nothing between two": b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
    b'"b":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"c":{"dtype":"F8_E8M0","shape":[4],"data_offsets":[4,8]}}',
    "33 MB": b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}' + b" " * (33 << 20),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_unusual_header_that_the_library_reads_is_read(tmp_path: Path, name: str) -> None:
    content = len(ACCEPTED[name]).to_bytes(8, "little") + ACCEPTED[name] + bytes(8)
    (tmp_path / "a.safetensors").write_bytes(content)
    with open_checkpoint(tmp_path / "a.safetensors") as checkpoint:
        assert set(checkpoint.tensors) == {name for name, _ in safetensors.deserialize(content)}


@pytest.mark.filterwarnings("ignore")  # what torch warns about is up to the damage
@pytest.mark.parametrize("first", range(1, 301, 50))
def test_a_mutated_checkpoint_is_never_read_as_other_weights_than_torch_reads(tmp_path: Path, first: int) -> None:
    cases = [run_case(number, tmp_path) for number in range(first, first + 50)]
    assert [case for case in cases if case[2]] == []
    assert any(who == "both" for _, who, _ in cases)
