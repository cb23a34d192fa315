"""What is read from a checkpoint is what ``torch.load`` reads, and nothing in it is ever run."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.models.generated import (
    COMPLEX,
    DTYPES,
    FILE_NAMES,
    LATER_INTEGERS,
    SPECIFICATION,
    WAYS_TO_SAVE,
    StateDict,
    as_lists,
    assert_same_model,
    bits,
    documents,
    no_checksums,
    random_tensor,
    state_dicts,
    with_metadata,
)
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.xtts.state_dict import check_readable


@given(
    model=state_dicts(),
    document=st.dictionaries(st.text(max_size=6).filter(lambda key: key != "model"), documents, max_size=3),
    name=st.sampled_from(FILE_NAMES),
    way=st.sampled_from(sorted(WAYS_TO_SAVE)),
    protocol=st.integers(2, 5),
    ordered=st.booleans(),
)
@settings(SPECIFICATION, max_examples=200)
def test_a_checkpoint_reads_as_torch_reads_it(
    tmp_path: Path, model: StateDict, document: dict[str, Any], name: str, way: str, protocol: int, ordered: bool
) -> None:
    path = tmp_path / name
    WAYS_TO_SAVE[way]({**document, "model": with_metadata(model) if ordered else model}, path, pickle_protocol=protocol)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "pth"
        assert checkpoint.has_checksums
        assert checkpoint.nbytes == path.stat().st_size
        assert checkpoint.document == as_lists(document)
        assert_same_model(checkpoint.tensors, torch.load(path, weights_only=False)["model"])


@given(model=state_dicts(), way=st.sampled_from(sorted(WAYS_TO_SAVE)), ordered=st.booleans())
@settings(SPECIFICATION, max_examples=50)
def test_a_bare_state_dict_reads_as_torch_reads_it(tmp_path: Path, model: StateDict, way: str, ordered: bool) -> None:
    model = {name: tensor for name, tensor in model.items() if name != "model"} or {"weight": torch.ones(2)}
    path = tmp_path / "bare.pth"
    WAYS_TO_SAVE[way](with_metadata(model) if ordered else model, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.document == {}
        assert_same_model(checkpoint.tensors, torch.load(path, weights_only=False))


@given(model=state_dicts())
@settings(SPECIFICATION, max_examples=50)
def test_a_file_without_checksums_reads_as_torch_reads_it(tmp_path: Path, model: StateDict) -> None:
    path = tmp_path / "model.pth"
    with no_checksums():
        torch.save({"model": model}, path)
    with open_checkpoint(path) as checkpoint:
        assert not checkpoint.has_checksums
        assert_same_model(checkpoint.tensors, torch.load(path, weights_only=False)["model"])


TYPED = [dtype for dtype in DTYPES if dtype not in LATER_INTEGERS and "float8" not in str(dtype)]
"""The old format knows only types that have a storage class of their own."""


@given(model=state_dicts(TYPED), document=documents)
@settings(SPECIFICATION, max_examples=50)
def test_a_file_in_the_old_format_reads_as_torch_reads_it(tmp_path: Path, model: StateDict, document: Any) -> None:
    path = tmp_path / "model.pth"
    plain = {name: tensor.detach() for name, tensor in model.items()}
    torch.save({"model": plain, "rest": document}, path, _use_new_zipfile_serialization=False)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "legacy"
        assert not checkpoint.has_checksums
        assert checkpoint.document == {"rest": as_lists(document)}
        assert_same_model(checkpoint.tensors, torch.load(path, weights_only=False)["model"])


@given(model=state_dicts([dtype for dtype in DTYPES if dtype not in COMPLEX]))
@settings(SPECIFICATION, max_examples=50)
def test_safetensors_read_as_the_library_reads_them(tmp_path: Path, model: StateDict) -> None:
    path = tmp_path / "model.safetensors"
    separate = {name: tensor.detach().clone().contiguous() for name, tensor in model.items()}
    save_file(separate, path)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "safetensors"
        assert checkpoint.document == {}
        assert set(checkpoint.tensors) == set(separate)
        for name, tensor in separate.items():
            view = checkpoint.tensors[name]
            assert (f"torch.{view.dtype.name}", view.shape) == (str(tensor.dtype), tuple(tensor.shape))
            assert view.read().tobytes() == bits(tensor)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_element_type_has_a_numpy_type_of_its_size(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save({"weight": random_tensor(dtype, (2, 3), 0)}, tmp_path / "model.pth")
    with open_checkpoint(tmp_path / "model.pth") as checkpoint:
        array = checkpoint.tensors["weight"].read()
    assert (array.shape, array.itemsize) == ((2, 3), dtype.itemsize)


def test_what_stands_beside_the_state_dict_is_read_as_json_knows_it(tmp_path: Path) -> None:
    values = {"pair": (1, 2), "set": {3}, "bytes": b"raw", "type": torch.float32, "device": torch.device("cpu")}
    torch.save({"model": {"w": torch.ones(1)}, "values": values}, tmp_path / "a.pth", pickle_protocol=4)
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        found = checkpoint.document["values"]
    expected = {
        "pair": [1, 2],
        "set": [3],
        "bytes": "b'raw'",
        "type": "torch.float32",
        "device": ["torch.device", "cpu"],
    }
    assert json.loads(json.dumps(found)) == expected


def test_tensors_beside_the_state_dict_are_read_too(tmp_path: Path) -> None:
    moment = torch.arange(4.0)
    torch.save({"model": {"w": torch.ones(1)}, "optimizer": [{"state": {0: {"m": moment}}}]}, tmp_path / "a.pth")
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        read = checkpoint.document["optimizer"][0]["state"][0]["m"].read()
    assert read.tolist() == moment.tolist()


def test_the_state_of_a_real_module_reads_as_torch_reads_it(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.LSTM(4, 2))
    path = tmp_path / "checkpoint_1.pth"
    torch.save({"model": module.state_dict()}, path)
    with open_checkpoint(path) as checkpoint:
        assert_same_model(checkpoint.tensors, torch.load(path)["model"])


# The official release


@pytest.fixture
def released_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``model.pth`` with its config pickled as an object of a class that is nowhere to be found afterwards."""
    module = types.ModuleType("configs_of_the_release")

    class Args:
        def __init__(self) -> None:
            self.gpt_layers = 30

    class Config:
        def __init__(self) -> None:
            self.model_args = Args()
            self.languages = ["en", "de"]

    for cls in (Args, Config):
        cls.__module__, cls.__qualname__ = module.__name__, cls.__name__
        setattr(module, cls.__name__, cls)
    path = tmp_path / "model.pth"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        torch.save({"model": {"gpt.weight": torch.ones(2)}, "config": module.Config()}, path)
    return path


def test_a_config_pickled_as_an_object_reads_as_its_fields(released_file: Path) -> None:
    with open_checkpoint(released_file) as checkpoint:
        assert checkpoint.document["config"] == {"model_args": {"gpt_layers": 30}, "languages": ["en", "de"]}
        assert checkpoint.tensors["gpt.weight"].read().tolist() == [1.0, 1.0]


@pytest.mark.integration
def test_a_pickled_xtts_config_reads_as_its_fields(tmp_path: Path) -> None:
    from TTS.tts.configs.xtts_config import XttsConfig

    config = XttsConfig(temperature=0.25)
    torch.save({"model": {"gpt.weight": torch.ones(2)}, "config": config}, tmp_path / "model.pth")
    with open_checkpoint(tmp_path / "model.pth") as checkpoint:
        found = checkpoint.document["config"]
    assert (found["temperature"], found["languages"]) == (0.25, config.languages)
    assert found["model_args"]["gpt_layers"] == config.model_args.gpt_layers


# Inference folders and other paths


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_an_inference_folder_stands_for_the_weights_in_it(tmp_path: Path, name: str) -> None:
    model = {"weight": torch.arange(3.0)}
    if name.endswith(".pth"):
        torch.save({"model": model}, tmp_path / name)
    else:
        save_file(model, tmp_path / name)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.path == tmp_path / name
        assert list(checkpoint.tensors) == ["weight"]


def test_a_folder_with_two_models_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "model.pth")
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"found both; name the file itself"):
        open_checkpoint(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected model\.pth or model\.safetensors in this folder"):
        open_checkpoint(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: cannot be read .*; check the path"):
        open_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.skipif(not hasattr(__import__("os"), "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint(tmp_path / "model.pth")


# What is refused


class Subclass(torch.Tensor):
    """A tensor of another class than torch's own."""


HIDDEN: dict[str, Any] = {
    "a subclass": torch.ones(2).as_subclass(Subclass),
    "a numpy array": np.ones(2),
    "a sparse tensor": torch.eye(2).to_sparse(),
    "a conjugate view": torch.ones(2, dtype=torch.complex64).conj(),
    "a quantized tensor": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "a tensor without data": torch.ones(2, device="meta"),
    "a storage": torch.ones(2).untyped_storage(),
    "a number": 3,
    "None": None,
    "a nested dict": {"weight": torch.ones(2)},
}


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_a_tensor_hidden_behind_anything_else_is_refused_by_name(tmp_path: Path, hidden: Any, zipped: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": {"plain": torch.ones(1), "gpt.weight": hidden}}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as caught, open_checkpoint(path) as checkpoint:
        check_readable(checkpoint)
    assert str(path) in str(caught.value)
    assert not zipped or "gpt.weight: expected a plain tensor" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        torch.nn.Linear(1, 1),
        {"model": torch.nn.Linear(1, 1)},
        {"model": [torch.ones(1)]},
        [torch.ones(1)],
        torch.ones(1),
    ],
    ids=["module", "module in a dict", "list in a dict", "list", "tensor"],
)
def test_anything_but_a_dict_of_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"expected a dict|should be a state_dict"):
        open_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize("content", [{}, {"model": {}}], ids=["bare", "model"])
def test_an_empty_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="the state_dict is empty"):
        open_checkpoint(tmp_path / "model.pth")


@pytest.mark.parametrize("name", [0, None, ("a", 1), "line\nbreak", "\x1b[31mred", "x" * 2000, "\ud800"])
def test_a_name_that_no_module_has_is_refused_in_one_line(tmp_path: Path, name: Any) -> None:
    torch.save({"model": {name: torch.ones(1)}}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="is not the name of a tensor") as caught:
        open_checkpoint(tmp_path / "model.pth")
    assert str(caught.value).isprintable()


def test_a_big_endian_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "byteorder", "big")
        torch.save({"w": torch.ones(1)}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="written on a big-endian machine"):
        open_checkpoint(tmp_path / "model.pth")


# What is strange and whole


class WithState(torch.nn.Linear):
    """A module that keeps more than tensors."""

    def get_extra_state(self) -> Any:
        return {"version": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


ODD = {
    "_extra_state": ({"version": 1}, "a dict"),
    "xtts.gpt.gpt.h.0._extra_state": (torch.ones(2).to_sparse(), "an object of torch._utils._rebuild_sparse_tensor"),
    "mask": (torch.ones(2).to_sparse(), "an object of torch._utils._rebuild_sparse_tensor"),
    "dvae.scale": (torch.ones(2, dtype=torch.complex64).conj(), "an object of torch._utils._rebuild_tensor_v2"),
}
if hasattr(torch, "float4_e2m1fn_x2"):  # torch 2.8
    ODD["xtts.dvae.scale"] = (torch.zeros(2, dtype=torch.float4_e2m1fn_x2), "an object of torch.float4_e2m1fn_x2")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("name", ODD)
def test_what_is_no_plain_tensor_is_told_where_inference_does_not_need_it(
    tmp_path: Path, name: str, zipped: bool
) -> None:
    value, described = ODD[name]
    if not zipped and name == "xtts.dvae.scale":
        pytest.skip("the old format knows no such type")
    path = tmp_path / "a.pth"
    torch.save({"model": {"w": torch.ones(1), name: value}}, path, _use_new_zipfile_serialization=zipped)
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert checkpoint.others == {name: described}


def test_the_state_of_a_module_with_extra_state_is_read(tmp_path: Path) -> None:
    torch.save({"model": WithState(2, 3).state_dict()}, tmp_path / "a.pth")
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        assert list(checkpoint.tensors) == ["weight", "bias"]
        assert list(checkpoint.others) == ["_extra_state"]


NEWER = ["float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "complex32", "bits8", "bits16", "quint8", "qint32"]


@pytest.mark.parametrize("name", [name for name in NEWER if hasattr(torch, name)])
def test_an_element_type_that_is_only_carried_along_reads_as_torch_reads_it(tmp_path: Path, name: str) -> None:
    plain = random_tensor(torch.uint8, (2, 4), 0)
    torch.save({"w": plain.view(getattr(torch, name))}, tmp_path / "a.pth")
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        assert checkpoint.tensors["w"].dtype.name == name
        assert checkpoint.tensors["w"].read().tobytes() == bytes(plain.numpy())


def test_a_large_document_is_read(tmp_path: Path) -> None:
    samples = [{"text": f"sentence {number}", "speaker": "a"} for number in range(80_000)]
    torch.save({"model": {"w": torch.ones(1)}, "samples": samples}, tmp_path / "a.pth")
    with open_checkpoint(tmp_path / "a.pth") as checkpoint:
        assert checkpoint.document["samples"] == samples


# Laziness


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2)}}, tmp_path / "model.pth")
    code = (
        "import sys\n"
        "from xtts_export_callback.checkpoint import open_checkpoint\n"
        "with open_checkpoint(sys.argv[1]) as checkpoint:\n"
        "    checkpoint.tensors['w'].read()\n"
        "print('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.pth")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert result.stdout == "False\n"


def test_opening_reads_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"w": torch.arange(4.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(4.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match=r"record data/0: checksum"):
        checkpoint.tensors["w"].read()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
def test_open_checkpoints_share_names_and_shapes(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        torch.save({"model": {"xtts.gpt.some.weight": torch.zeros(700, 3)}}, tmp_path / name)
    with open_checkpoint(tmp_path / "a.pth") as one, open_checkpoint(tmp_path / "b.pth") as other:
        ((name, tensor),), ((name_again, tensor_again),) = one.tensors.items(), other.tensors.items()
    assert name is name_again
    assert tensor.shape is tensor_again.shape
    assert tensor.stride is tensor_again.stride


def test_an_open_checkpoint_stays_readable_when_its_file_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"w": torch.arange(4.0)}, path)
    with open_checkpoint(path) as checkpoint:
        path.unlink()
        assert checkpoint.tensors["w"].read().tolist() == [0.0, 1.0, 2.0, 3.0]


def test_reading_after_closing_names_the_file(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pth")
    with open_checkpoint(tmp_path / "model.pth") as checkpoint:
        tensor = checkpoint.tensors["w"]
    with pytest.raises(CheckpointError, match=r"model\.pth: record data/0: cannot be read"):
        tensor.read()


# The fingerprint


def fingerprint_of(path: Path) -> str:
    with open_checkpoint(path) as checkpoint:
        return checkpoint.fingerprint()


def test_the_fingerprint_depends_on_nothing_but_the_tensors(tmp_path: Path) -> None:
    model = {"a": torch.arange(4.0), "b": torch.zeros(2, 2)}
    torch.save({"model": model, "step": 1}, tmp_path / "a.pth")
    torch.save({"model": OrderedDict(reversed(model.items())), "step": 2}, tmp_path / "b.pth", pickle_protocol=4)
    with no_checksums():
        torch.save(model, tmp_path / "c.pth")
    save_file(model, tmp_path / "d.safetensors")
    torch.save(model, tmp_path / "e.pth", _use_new_zipfile_serialization=False)
    assert len({fingerprint_of(path) for path in sorted(tmp_path.iterdir())}) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([0.0, 1.0])},
        {"b": torch.tensor([0.0, 2.0])},
        {"a": torch.tensor([[0.0, 2.0]])},
        {"a": torch.tensor([0.0, 2.0]).view(torch.int32)},
        {"a": torch.tensor([0.0, 2.0]), "b": torch.tensor([0.0, 2.0])},
    ],
    ids=["value", "name", "shape", "dtype", "one more"],
)
def test_the_fingerprint_tells_models_apart(tmp_path: Path, other: StateDict) -> None:
    torch.save({"a": torch.tensor([0.0, 2.0])}, tmp_path / "a.pth")
    torch.save(other, tmp_path / "b.pth")
    assert fingerprint_of(tmp_path / "a.pth") != fingerprint_of(tmp_path / "b.pth")
