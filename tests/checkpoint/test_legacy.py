"""Files in torch's old format are read like any other: without torch, nothing run, no tensor read before its time."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import pytest
import torch

from tests.models.generated import assert_same_model, random_tensor
from xtts_export_callback.checkpoint.reader import open_checkpoint, open_document
from xtts_export_callback.errors import CheckpointError, DamagedError
from xtts_export_callback.tensors.dtypes import BY_STORAGE

HEAD = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


def save(value: object, path: Path) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=False)
    return path


def old(path: Path, pickled: bytes, keys: object = (), storages: bytes = b"") -> Path:
    """A file that holds what the pickle says."""
    path.write_bytes(HEAD + pickled + pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2) + storages)
    return path


def tensor_of(numel: int, *, kind: str = "FloatStorage", view: bytes = b"N") -> bytes:
    """A pickle of a state_dict with one tensor of ``numel`` elements in storage ``k``."""
    identifier = (
        b"(X\x07\x00\x00\x00storage"
        + f"ctorch\n{kind}\n".encode()
        + b"X\x01\x00\x00\x00kX\x03\x00\x00\x00cpuK"
        + bytes((numel,))
        + view
        + b"tQ"
    )
    sizes = b"(K" + bytes((numel,)) + b"tK\x01\x85"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + identifier + b"K\x00" + sizes + b"\x89}tR"
    return b"\x80\x02}X\x01\x00\x00\x00w" + call + b"s."


def storage_of(*values: float) -> bytes:
    return struct.pack("<q", len(values)) + struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize("name", sorted(BY_STORAGE))
def test_every_element_type_reads_as_torch_reads_it(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, BY_STORAGE[name].name)
    path = save({"w": random_tensor(torch.uint8, (2, 32), 0).view(dtype)}, tmp_path / "a.pth")
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.tensors["w"]
        assert (found.dtype.name, found.shape) == (str(dtype).removeprefix("torch."), (2, 32 // dtype.itemsize))
        assert found.read().tobytes() == bytes(random_tensor(torch.uint8, (2, 32), 0).numpy())


def test_empty_tensors_that_share_a_storage_keep_their_types(tmp_path: Path) -> None:
    empty = torch.empty(0)
    path = save({"model": {"a": empty, "b": empty.view(torch.int32)}}, tmp_path / "a.pth")
    with open_checkpoint(path) as checkpoint:
        assert_same_model(checkpoint.tensors, torch.load(path)["model"])


def test_a_file_in_the_old_format_is_read_without_torch(tmp_path: Path) -> None:
    path = save({"model": {"w": torch.ones(2)}}, tmp_path / "a.pth")
    code = (
        "import sys\n"
        "from xtts_export_callback.checkpoint import open_checkpoint\n"
        "with open_checkpoint(sys.argv[1]) as checkpoint:\n"
        "    checkpoint.tensors['w'].read()\n"
        "print('torch' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_a_pickle_longer_than_the_first_piece_is_read(tmp_path: Path) -> None:
    path = save({"model": {"w": torch.ones(2)}, "text": "x" * (3 << 20)}, tmp_path / "a.pth")
    with open_checkpoint(path) as checkpoint:
        assert len(checkpoint.document["text"]) == 3 << 20
        assert checkpoint.tensors["w"].read().tolist() == [1, 1]


def test_what_the_pickle_asks_for_is_named(tmp_path: Path) -> None:
    with open_document(save(torch.ones(80), tmp_path / "mel_stats.pth"), most=1 << 20) as (value, names):
        assert value.read().tolist() == [1.0] * 80
        assert "torch._utils._rebuild_tensor_v2" in names


def test_strings_of_python_2_are_strings(tmp_path: Path) -> None:
    path = old(tmp_path / "a.pth", tensor_of(1).replace(b"X\x01\x00\x00\x00w", b"U\x01w"), ("k",), storage_of(3.0))
    with warnings.catch_warnings(), open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == list(torch.load(path))


def test_a_file_that_ends_early_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="truncated"):
        open_checkpoint(old(tmp_path / "a.pth", tensor_of(3), ("k",), storage_of(1, 2, 3)[:-1]))


MALFORMED = {
    "a storage that is nowhere": (tensor_of(1), (), b"", "names 0 storages"),
    "a storage listed twice": (tensor_of(1), ("k", "k"), storage_of(1) * 2, "names 2 storages"),
    "a storage that no tensor has": (tensor_of(1), ("k", "l"), storage_of(1) * 2, "names 2 storages"),
    "a storage of another length": (tensor_of(1), ("k",), storage_of(1, 2), "has 2 elements"),
    "a storage longer than the file": (tensor_of(255), ("k",), b"", "255 elements in a file of"),
    "a part of another storage": (tensor_of(1, view=b"K\x01"), ("k",), storage_of(1), "part of another"),
    "elements of an unknown type": (tensor_of(1, kind="OddStorage"), ("k",), storage_of(1), "torch.OddStorage"),
    "a list of storages that is a number": (tensor_of(1), 3, storage_of(1), "list of storages is 3"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_in_the_old_format_is_refused(tmp_path: Path, name: str) -> None:
    pickled, keys, storages, expected = MALFORMED[name]
    with pytest.raises(CheckpointError, match=expected):
        open_checkpoint(old(tmp_path / "a.pth", pickled, keys, storages))


def test_the_same_file_without_the_fault_is_read(tmp_path: Path) -> None:
    with open_checkpoint(old(tmp_path / "a.pth", tensor_of(2), ("k",), storage_of(1, 2))) as checkpoint:
        assert checkpoint.tensors["w"].read().tolist() == [1, 2]


def test_a_key_that_controls_a_terminal_is_escaped_in_messages(tmp_path: Path) -> None:
    pickled = tensor_of(2).replace(b"\0\0\0k", b"\0\0\0\x15").replace(b"(K\2tK\1", b"(K\x09tK\1")
    with pytest.raises(CheckpointError, match=r"storage \\x15: a tensor with shape \[9\] reaching past") as caught:
        open_checkpoint(old(tmp_path / "a.pth", pickled, ("\x15",), storage_of(1, 2)))
    assert str(caught.value).isprintable()


def test_a_tar_archive_is_refused_by_its_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.pth", "w") as archive:
        archive.add(save(torch.ones(1), tmp_path / "pickle"), "pickle")
    with pytest.raises(CheckpointError, match="a tar archive"):
        open_checkpoint(tmp_path / "a.pth")


HOSTILE = {
    "a key nested a million deep": b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"Ns.",
    "a key of 2**34 ones": b"\x80\x02}K\x01" + b"q\x00h\x00\x86" * 34 + b"Ns.",
    "an array of 2 GB": b"\x80\x02}X\x01\x00\x00\x00acbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x80\x00\x85Rs.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_in_the_old_format_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"as a key|expected a plain tensor|the state_dict is empty"):
        open_checkpoint(old(tmp_path / "a.pth", HOSTILE[name]))
