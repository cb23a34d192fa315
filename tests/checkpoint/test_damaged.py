"""Damaged and hostile files: each is read rightly or refused with one line, at a bounded cost, and nothing is run.

The hostile pickles are put together opcode by opcode (``pickletools`` names them), because no pickler writes them.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors as library
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_same_as_torch import differences, theirs
from tests.models.damage import DAMAGES, DOCUMENT, FILES, MODEL, PICKLE, PICKLE4, RECORDS, with_pickle, with_record
from tests.models.generated import SPECIFICATION, as_lists, bits, zip_of
from xtts_export_callback.checkpoint import Checkpoint, Tensor, document, open_checkpoint, unpickler
from xtts_export_callback.errors import CheckpointError, DamagedError

MEMORY = 100_000_000  # bytes that reading one of the files here may take; most take less than one million


def contents(checkpoint: Checkpoint) -> tuple[dict[str, Any], Any]:
    """All that a checkpoint holds, every tensor in it read."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return (value.dtype.name, value.shape, value.read().tobytes())
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    return plain(checkpoint.tensors), plain(checkpoint.document)


def read(path: Path) -> tuple[dict[str, Any], Any] | None:
    """What a file holds, or None where it is refused as it should be. Any other error fails the test."""
    try:
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.fingerprint().startswith("crc32-sha256:")
            return contents(checkpoint)
    except CheckpointError as error:
        assert str(path) in str(error)
        assert str(error).isprintable(), "the message is no single line"
        return None


def assert_as_torch_reads(path: Path) -> None:
    """What both read of a file is the same."""
    found, expected = read(path), theirs(path)
    if found is not None and expected is not None:
        assert differences(found[0], expected) == []


def assert_as_the_library_reads(path: Path) -> None:
    """What is read of a safetensors file is what its library reads, which refuses none of them."""
    found = read(path)
    if found is not None:
        expected = {name: (one["shape"], bytes(one["data"])) for name, one in library.deserialize(path.read_bytes())}
        assert {name: (list(shape), data) for name, (_, shape, data) in found[0].items()} == expected


# Damage by chance


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The file with one to three things done to it."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        if changed:
            damage = draw(st.sampled_from(DAMAGES))
            damage(changed, draw(st.integers(0, len(changed) - 1)), draw(st.integers(0, 2**16)))
    return bytes(changed)


def expected_contents() -> tuple[dict[str, Any], Any]:
    model = {
        name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), bits(tensor))
        for name, tensor in MODEL.items()
    }
    document = as_lists(DOCUMENT)
    document["optimizer"][0]["state"][0]["exp_avg"] = ("float32", (3,), bits(torch.ones(3)))
    return model, document


def test_the_undamaged_files_hold_what_was_saved(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
        found = read(tmp_path / name)
        assert found is not None
        assert found[0] == expected_contents()[0]
        assert name == "safetensors" or found[1] == expected_contents()[1]


@given(data=damaged(FILES["zip"]))
@settings(SPECIFICATION, max_examples=300)
def test_a_damaged_zip_is_refused_or_holds_what_was_saved(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    assert read(path) in (None, expected_contents())


@pytest.mark.skipif("zip without checksums" not in FILES, reason="this torch saves with checksums only")
@pytest.mark.filterwarnings("ignore")  # what torch warns about is up to the damage
@given(data=st.data())
@settings(SPECIFICATION, max_examples=150)
def test_a_damaged_zip_without_checksums_is_refused_or_read_as_torch_reads_it(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(data.draw(damaged(FILES["zip without checksums"])))
    assert_as_torch_reads(path)


@given(data=damaged(FILES["safetensors"]))
@settings(SPECIFICATION, max_examples=150)
def test_a_damaged_safetensors_is_refused_or_read_as_its_library_reads_it(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    assert_as_the_library_reads(path)


@pytest.mark.filterwarnings("ignore")
@given(data=damaged(FILES["old format"]))
@settings(SPECIFICATION, max_examples=100)
def test_a_damaged_file_in_the_old_format_is_refused_or_read_as_torch_reads_it(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    assert_as_torch_reads(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pickled", [PICKLE, PICKLE4], ids=["protocol 2", "protocol 4"])
@given(data=st.data())
@settings(SPECIFICATION, max_examples=150)
def test_a_damaged_pickle_with_a_right_checksum_is_refused_or_read_as_torch_reads_it(
    tmp_path: Path, pickled: bytes, data: st.DataObject
) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(with_pickle(data.draw(damaged(pickled))))
    assert_as_torch_reads(path)


@given(data=damaged(FILES["safetensors"][8 : 8 + int.from_bytes(FILES["safetensors"][:8], "little")]))
@settings(SPECIFICATION, max_examples=150)
def test_a_damaged_safetensors_header_is_refused_or_read_as_its_library_reads_it(tmp_path: Path, data: bytes) -> None:
    content = FILES["safetensors"]
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(data).to_bytes(8, "little") + data + content[8 + int.from_bytes(content[:8], "little") :])
    assert_as_the_library_reads(path)


@pytest.mark.parametrize("name", sorted({"zip", "zip without checksums", "safetensors"} & FILES.keys()))
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(FILES[name])
    accepted = []
    for size in range(len(FILES[name]) - 1, -1, -5):
        os.truncate(path, size)
        if read(path) is not None:
            accepted.append(size)
    assert accepted == []


def test_a_flipped_bit_anywhere_in_a_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    accepted = []
    for info in zipfile.ZipFile(io.BytesIO(FILES["zip"])).infolist():
        if not info.filename.startswith("archive/data"):
            continue
        name_size, extra_size = struct.unpack_from("<2H", FILES["zip"], info.header_offset + 26)
        start = info.header_offset + 30 + name_size + extra_size
        for position in range(start, start + info.file_size, 3):
            content = bytearray(FILES["zip"])
            content[position] ^= 1 << (position % 8)
            path.write_bytes(content)
            if read(path) is not None:
                accepted.append((info.filename, position))
    assert accepted == []


# Hostile pickles


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<I", len(data)) + data


def pair(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def sizes(*values: int) -> bytes:
    return pair(*map(integer, values))


FLOATS, KEY, COUNT, TAG = b"ctorch\nFloatStorage\n", text("0"), integer(24), text("storage")
ZERO, SHAPE, STRIDE = integer(0), sizes(4, 6), sizes(6, 1)


def storage(*, kind: bytes = FLOATS, key: bytes = KEY, numel: bytes = COUNT, tag: bytes = TAG) -> bytes:
    return pair(tag, kind, key, text("cpu"), numel) + b"Q"


WEIGHTS = storage()


def tensor(base: bytes = WEIGHTS, *, offset: bytes = ZERO, shape: bytes = SHAPE, stride: bytes = STRIDE) -> bytes:
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + pair(base, offset, shape, stride, b"\x89", hooks) + b"R"


def newer_tensor(*dtype: bytes) -> bytes:
    arguments = pair(WEIGHTS, ZERO, SHAPE, STRIDE, b"\x89", b"N", *dtype)
    return b"ctorch._utils\n_rebuild_tensor_v3\n" + arguments + b"R"


def dictionary(*items: bytes) -> bytes:
    return b"}(" + b"".join(items) + b"u"


def program(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


W, CONFIG = text("w"), text("config")


def model_of(value: bytes, name: bytes = W) -> bytes:
    return program(dictionary(text("model"), dictionary(name, value)))


def beside_model(value: bytes, name: bytes = CONFIG) -> bytes:
    return program(dictionary(text("model"), dictionary(text("w"), tensor()), name, value))


LAUGHS = b"K\x01" + b"2\x86" * 60  # a pair of a pair of ...: 2**60 ones for 60 objects
DEEP_TUPLES = b"K\x01" + b"\x85" * 100_000
DEEP_LISTS = b"]" * 20_000 + b"a" * 19_999
CYCLE = b"]q\x07h\x07a"  # a list that holds itself
CALL = b"cbuiltins\nlist\n"
LONG_LIST = b"](" + b"K\x01" * 50_000 + b"eq\x05"
LONG_TUPLE = b"(" + b"N" * 50_000 + b"tq\x05"

HOSTILE_PICKLES: dict[str, bytes] = {
    "nothing": b"",
    "no end": program(dictionary(text("model"), dictionary(text("w"), tensor())))[:-1],
    "an end with nothing on the stack": b"\x80\x02.",
    "a protocol of the future": b"\x80\x09" + model_of(tensor())[2:],
    "an unknown opcode": program(b"\xf0"),
    "a memo of 32 GB": b"\x80\x02}r\xff\xff\xff\xff.",
    "a memo entry that is not there": program(b"j\xff\xff\xff\x7f"),
    "a mark as a value": beside_model(b"(\x85"),
    "a mark that is missing": program(b"Nt"),
    "a frame longer than the file": program(b"\x95" + b"\xff" * 8),
    "a string longer than the file": model_of(b"X\xff\xff\xff\xff"),
    "an 8-byte string longer than the file": model_of(b"\x8d" + b"\xff" * 8),
    "8-byte bytes longer than the file": model_of(b"\x8e" + b"\xff" * 7 + b"\x7f"),
    "a byte array longer than the file": model_of(b"\x96" + b"\xff" * 8),
    "an integer longer than the file": model_of(b"\x8b\xff\xff\xff\x7f"),
    "an integer of a megabyte": beside_model(b"\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6),
    "a string that is no UTF-8": beside_model(b"X\x02\x00\x00\x00\xff\xfe"),
    "a long string, often": beside_model(text("x" * 1000) + b"q\x050](" + b"h\x05" * 19_000 + b"e"),
    "a long key, often": beside_model(text("x" * 1000) + b"q\x050}h\x05Nsq\x060](" + b"h\x06" * 9000 + b"e"),
    "laughs in the config": beside_model(LAUGHS),
    "laughs as the root": program(LAUGHS),
    "laughs as the model": program(dictionary(text("model"), LAUGHS)),
    "laughs as a tensor": model_of(LAUGHS),
    "laughs as a name": model_of(tensor(), name=LAUGHS),
    "laughs as a key beside the model": beside_model(b"N", name=LAUGHS),
    "laughs in a set": beside_model(b"\x8f(" + LAUGHS + b"\x90"),
    "laughs in a frozen set": beside_model(b"(" + LAUGHS + b"\x91"),
    "laughs as a storage": model_of(tensor(LAUGHS)),
    "laughs as a storage's key": model_of(tensor(storage(key=LAUGHS))),
    "laughs as a storage's type": model_of(tensor(storage(kind=LAUGHS))),
    "laughs as a storage's size": model_of(tensor(storage(numel=LAUGHS))),
    "laughs as a storage's tag": model_of(tensor(storage(tag=LAUGHS))),
    "laughs as a shape": model_of(tensor(shape=LAUGHS)),
    "laughs as a size": model_of(tensor(shape=pair(LAUGHS, LAUGHS))),
    "laughs as an offset": model_of(tensor(offset=LAUGHS)),
    "laughs as arguments": model_of(CALL + LAUGHS + b"R"),
    "laughs as what is called": model_of(LAUGHS + b")R"),
    "laughs as an object's state": model_of(CALL + b")R" + LAUGHS + b"b"),
    "laughs as an object's items": beside_model(CALL + b")R(" + LAUGHS + b"e"),
    "laughs as the key of an object's item": beside_model(CALL + b")R(" + LAUGHS + b"Nta"),
    "laughs as a global's name": program(LAUGHS + b"N\x93"),
    "laughs as keyword arguments": model_of(CALL + b")" + LAUGHS + b"\x92"),
    "an object as the key of its own item": beside_model(CALL + b")Rq\x06(h\x06h\x06u"),
    "an object of laughs as a key": beside_model(b"N", name=CALL + LAUGHS + b"\x85R"),
    "deep tuples in the config": beside_model(DEEP_TUPLES),
    "deep lists in the config": beside_model(DEEP_LISTS),
    "deep dicts in the config": beside_model(b"}K\x00" * 20_000 + b"N" + b"s" * 20_000),
    "deep objects in the config": beside_model(CALL + b")R" + (b"\x85" + b"q\x09" + b"0" + CALL + b"h\x09R") * 2000),
    "deep tuples as a name": model_of(tensor(), name=DEEP_TUPLES),
    "deep tuples in a set": beside_model(b"\x8f(" + DEEP_TUPLES + b"\x90"),
    "deep tuples as a storage's key": model_of(tensor(storage(key=DEEP_TUPLES))),
    "a list that holds itself": beside_model(CYCLE),
    "a list that holds itself as the model": program(dictionary(text("model"), CYCLE)),
    "a dict that holds itself": beside_model(b"}q\x07K\x01h\x07s"),
    "a checkpoint that is its own model": program(b"}q\x07" + text("model") + b"h\x07s"),
    "an object that holds itself": beside_model(CALL + b")Rq\x07h\x07a"),
    "an object that is its own state": beside_model(CALL + b")Rq\x07}" + text("a") + b"h\x07sb"),
    "a long tuple as a key, often": beside_model(LONG_TUPLE + b"0}" + b"h\x05Ns" * 200),
    "a long tuple as arguments, often": beside_model(LONG_TUPLE + b"0]" + (CALL + b"h\x05N\x92a") * 300),
    "a long list as a size, often": beside_model(LONG_LIST + b"0]" + b"ctorch\nSize\nh\x05\x85Ra" * 300),
    "a long list as a shape, often": beside_model(
        LONG_LIST + b"0]" + (tensor(shape=b"h\x05", stride=b"h\x05") + b"a") * 200
    ),
    "a long name of a global, often": beside_model(text("x" * 10**6) + b"q\x050](" + b"h\x05h\x05\x93" * 200 + b"e"),
    "many names of globals": beside_model(
        b"](" + b"".join(text("x" * 400 + str(number)) + b"q\x05h\x05\x93" for number in range(10_001)) + b"e"
    ),
    "a long key of a storage, often": beside_model(
        text("x" * 10**6) + b"q\x050](" + storage(key=b"h\x05") * 200 + b"e"
    ),
    "integers of equal hashes as keys": beside_model(
        b"}(" + b"".join(integer(index * (2**61 - 1) << 64) + b"N" for index in range(1, 20_000)) + b"u"
    ),
    "a list as a key": beside_model(b"N", name=b"]"),
    "a dict as a key": beside_model(b"N", name=b"}"),
    "an odd number of items": program(b"}(Nu"),
    "items for a number": program(b"K\x01(K\x01K\x01u"),
    "items for a tuple": program(b")(K\x01e"),
    "arguments that are no tuple": program(CALL + b"]R"),
    "a global's name that is a number": program(b"K\x01K\x01\x93"),
    "a global's name with a line feed": program(text("os") + text("sys\ntem") + b"\x93"),
    "a persistent id that is a number": program(b"K\x01Q"),
    "a storage of nothing": program(b")Q"),
    "a storage with another tag": model_of(tensor(storage(tag=text("module")))),
    "a storage that is missing": model_of(tensor(storage(key=text("99")))),
    "a storage outside data": model_of(tensor(storage(key=text("../data.pkl"), numel=integer(len(PICKLE) // 4)))),
    "a storage of a type that torch does not have": model_of(tensor(storage(kind=b"ctorch\nStringStorage\n"))),
    "a storage of a type of another module": model_of(tensor(storage(kind=b"cos\nFloatStorage\n"))),
    "a storage of a type that is a string": model_of(tensor(storage(kind=text("FloatStorage")))),
    "a storage of another size": model_of(tensor(storage(kind=b"ctorch\nDoubleStorage\n"))),
    "a storage of a negative size": model_of(tensor(storage(numel=integer(-24)))),
    "a storage of a huge size": model_of(tensor(storage(numel=integer(2**62)))),
    "a storage of a size that is no integer": model_of(tensor(storage(numel=b"G@8\x00\x00\x00\x00\x00\x00"))),
    "a storage of a size that is a string": model_of(tensor(storage(numel=text("24")))),
    "a tensor without a storage": model_of(tensor(b"K\x01")),
    "a tensor of a made-up storage": model_of(tensor(pair(b"K\x01", b"K\x01"))),
    "a tensor of a made-up storage with attributes": model_of(tensor(pair(CALL + b")R", CALL + b")R"))),
    "a tensor of two storages": model_of(tensor(pair(storage(), storage()))),
    "a tensor without arguments": model_of(b"ctorch._utils\n_rebuild_tensor_v2\n)R"),
    "a tensor of version 3 without a type": model_of(newer_tensor()),
    "a tensor of version 3 of an unknown type": model_of(newer_tensor(b"cos\nfloat32\n")),
    "a parameter of nothing": model_of(b"ctorch._utils\n_rebuild_parameter\n)R"),
    "a parameter of a call": model_of(b"ctorch._utils\n_rebuild_parameter\n" + CALL + b")R\x85R"),
    "a tensor of a type rebuilt by a call": model_of(
        b"ctorch._tensor\n_rebuild_from_type_v2\n"
        + pair(b"cos\nsystem\n", b"ctorch\nTensor\n", pair(text("id")), b"}")
        + b"R"
    ),
    "a negative size": model_of(tensor(shape=sizes(-4, 6))),
    "a negative stride": model_of(tensor(stride=sizes(-6, 1))),
    "a negative offset": model_of(tensor(offset=integer(-1))),
    "a huge size": model_of(tensor(shape=sizes(2**70, 6))),
    "a huge stride": model_of(tensor(stride=sizes(2**70, 1))),
    "a huge stride that is never taken": model_of(tensor(shape=sizes(1, 6), stride=sizes(2**62, 1))),
    "a huge offset": model_of(tensor(offset=integer(2**80))),
    "a huge offset of nothing": model_of(tensor(shape=sizes(0), stride=sizes(1), offset=integer(2**80))),
    "huge sizes of nothing": model_of(tensor(shape=sizes(0, 2**40, 2**40), stride=sizes(1, 1, 1))),
    "sizes of 2000 bits": model_of(tensor(shape=sizes(*[2**2000] * 50), stride=sizes(*[0] * 50))),
    "a size that is a string": model_of(tensor(shape=pair(text("4"), text("6")))),
    "a size that is a truth value": model_of(tensor(shape=pair(b"\x88", integer(6)))),
    "a shape that is a string": model_of(tensor(shape=text("46"))),
    "a shape that is a number": model_of(tensor(shape=b"K\x04")),
    "a shape that holds itself": model_of(tensor(shape=CYCLE)),
    "more sizes than strides": model_of(tensor(shape=sizes(4, 6, 1))),
    "a hundred dimensions": model_of(tensor(shape=sizes(*[1] * 100), stride=sizes(*[1] * 100))),
    "40 dimensions": model_of(tensor(shape=sizes(*[1] * 40), stride=sizes(*[1] * 40))),
    "a view past the end": model_of(tensor(shape=sizes(5, 6))),
    "a view past the end by its offset": model_of(tensor(offset=integer(1))),
    "a view past the end by its stride": model_of(tensor(stride=sizes(7, 1))),
    "a trillion elements out of one": model_of(tensor(shape=sizes(10**12), stride=sizes(0))),
    "2**60 elements out of one": model_of(tensor(shape=sizes(2**30, 2**30), stride=sizes(0, 0))),
    "a trillion elements beside the model": beside_model(tensor(shape=sizes(10**12), stride=sizes(0))),
    "a terabyte out of many tensors": program(
        dictionary(*(text(f"w{i}") + tensor(shape=sizes(10**7), stride=sizes(0)) for i in range(300)))
    ),
    "a tensor as the root": program(tensor()),
    "a number as the root": program(b"K\x01"),
    "a list as the root": program(b"]"),
    "a number as a name": model_of(tensor(), name=b"K\x01"),
    "a huge number as a name": model_of(tensor(), name=integer(2**2000)),
    "bytes as a name": model_of(tensor(), name=b"C\x01w"),
    "a name with a line feed": model_of(tensor(), name=text("w\nroot: 0")),
    "a name with an escape sequence": model_of(tensor(), name=text("\x1b[2J")),
    "a name of a megabyte": model_of(tensor(), name=text("w" * 10**6)),
    "a name with half a surrogate pair": model_of(tensor(), name=text("\ud800")),
    "more nodes than any checkpoint": beside_model(b"](" + b"N" * 30_000 + b"e"),
}


HARMLESS = {"an object of laughs as a key", "laughs as the key of an object's item"}
"""What is merely strange: read as something plain."""


@pytest.fixture
def _fewer_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring memory makes counting to the real limit slow."""
    monkeypatch.setattr(document, "_MAX_NODES", 20_000)
    monkeypatch.setattr(document, "_MOST_TEXT", 5_000_000)


def cost_of(action: Callable[[], Any]) -> tuple[Any, int]:
    """What a function returns, and the most memory it had taken at any time, in bytes."""
    tracemalloc.start()
    try:
        result = action()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("_fewer_nodes")
@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_a_hostile_pickle_is_refused_and_costs_little(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(with_pickle(HOSTILE_PICKLES[name]))
    found, memory = cost_of(lambda: read(path))
    assert (found is None) == (name not in HARMLESS)
    assert memory < MEMORY


@pytest.mark.usefixtures("_fewer_nodes")
@pytest.mark.parametrize("name", sorted(set(HOSTILE_PICKLES) - HARMLESS))
def test_a_strange_pickle_with_a_right_checksum_is_not_called_damaged(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(with_pickle(HOSTILE_PICKLES[name]))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert not isinstance(caught.value, DamagedError)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("value", [model_of(tensor()), beside_model(CALL + b")R"), program(dictionary(W, tensor()))])
def test_such_a_pickle_without_hostility_is_read(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(with_pickle(value))
    found = read(path)
    assert found is not None
    assert found[0] == {"w": ("float32", (4, 6), bits(torch.arange(24.0)))}


def test_a_pickle_of_endless_operations_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(with_pickle(beside_model(b"N0" * 1000 + b"N")))
    assert read(path) is not None
    monkeypatch.setattr(unpickler, "_MAX_OPERATIONS", 1000)
    assert read(path) is None


def test_a_pickle_larger_than_any_real_one_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(with_pickle(b"N" * (65 << 20)))
    found, memory = cost_of(lambda: read(path))
    assert found is None
    assert memory < 10_000_000


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"echo run > {self.marker}",)


PLACES: dict[str, Callable[[Any], Any]] = {
    "as the root": lambda command: command,
    "as the model": lambda command: {"model": command},
    "as a tensor": lambda command: {"model": {"w": torch.ones(1), "x": command}},
    "as a name": lambda command: {"model": {command: torch.ones(1)}},
    "in the config": lambda command: {"model": {"w": torch.ones(1)}, "config": [command]},
    "as a key in the config": lambda command: {"model": {"w": torch.ones(1)}, "config": {command: 1}},
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_a_command_in_a_file_is_never_run(
    tmp_path: Path, place: Callable[[Any], Any], protocol: int, zipped: bool
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "model.pth"
    content = place(Command(marker))
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    read(path)
    assert not marker.exists()
    if zipped:  # the file does run it where somebody lets it
        torch.load(path, weights_only=False)
        assert marker.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"cos\nsystem\n" + text("echo run > MARKER") + b"\x85R",
        b"cposix\nsystem\n" + text("echo run > MARKER") + b"\x85\x81",
        text("os") + text("system") + b"\x93" + text("echo run > MARKER") + b"\x85)\x92",
        b"cbuiltins\nexec\n" + text("open('MARKER', 'w')") + b"\x85R",
        b"cbuiltins\neval\n" + text("open('MARKER', 'w')") + b"\x85R",
        b"(ios\nsystem\n" + text("echo run > MARKER"),
        b"(cos\nsystem\n" + text("echo run > MARKER") + b"o",
        b"\x82\x01",
    ],
    ids=["REDUCE", "NEWOBJ", "NEWOBJ_EX", "exec", "eval", "INST", "OBJ", "EXT1"],
)
def test_no_opcode_runs_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickled: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    path.write_bytes(with_pickle(beside_model(pickled)))
    read(path)
    assert list(tmp_path.iterdir()) == [path]


# Hostile archives


def raw_zip(name: str = "archive/data/0", **changes: int) -> bytearray:
    """The whole checkpoint; ``changes`` set fields of a record's directory entry, by their offset in it."""
    data = bytearray(with_pickle(PICKLE))
    entry = data.rindex(name.encode()) - 46
    for offset, value in changes.items():
        struct.pack_into("<I", data, entry + int(offset[1:]), value)
    return data


def renamed(old: str, new: str) -> bytes:
    return zip_of({f"archive/{name}".replace(old, new): content for name, content in RECORDS.items()})


def duplicated() -> bytes:
    data = with_pickle(PICKLE)
    return data.replace(b"archive/data/1", b"archive/data/0")


def end_record(count: int, size: int, start: int) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, size, start, 0)


def end64_record(count: int, size: int, start: int, position: int) -> bytes:
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    return end + struct.pack("<4sLQL", b"PK\x06\x07", 0, position, 1) + end_record(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


ZIP = with_pickle(PICKLE)
START = ZIP.index(b"PK\x01\x02")
END = ZIP.index(b"PK\x05\x06")

HOSTILE_ARCHIVES: dict[str, bytes] = {
    "compressed": zip_of({f"archive/{name}": data for name, data in RECORDS.items()}, compression=zipfile.ZIP_DEFLATED),
    "a compressed bomb": zip_of(
        {**{f"archive/{name}": data for name, data in RECORDS.items()}, "archive/data/0": bytes(10**7)},
        compression=zipfile.ZIP_DEFLATED,
    ),
    "an absolute name": renamed("archive/version", "/etc/passwd"),
    "an absolute name below the root": renamed("archive/version", "archive//etc/passwd"),
    "a name that leaves the root": renamed("archive/version", "archive/../../version"),
    "a name with a backslash": renamed("archive/version", "archive/..\\version"),
    "a name with a drive": renamed("archive/version", "C:/version"),
    "a name with a line feed": renamed("archive/version", "archive/ver\nsion"),
    "a name with an escape sequence": renamed("archive/version", "archive/\x1b[2J"),
    "a name twice": duplicated(),
    "no pickle": renamed("archive/data.pkl", "archive/data.txt"),
    "two pickles": zip_of({**{f"a/{name}": b"" for name in RECORDS}, "b/data.pkl": b""}),
    "a pickle deep inside": zip_of({f"a/b/{name}": data for name, data in RECORDS.items()}),
    "an empty zip": zip_of({}),
    "no zip at all": b"PK",
    "only a first header": b"PK\x03\x04" + bytes(60),
    "a huge byte order": with_record("byteorder", b"little" + bytes(10**6)),
    "another byte order": with_record("byteorder", b"big"),
    "an encrypted record": bytes(raw_zip(a8=1 | 0 << 16)),
    "a record past the end": bytes(raw_zip(a42=len(ZIP) - 40)),
    "a record far past the end": bytes(raw_zip(a42=0xFFFFFFF0)),
    "a record in the directory": bytes(raw_zip(a42=START)),
    "a record over another": bytes(raw_zip(a42=0)),
    "a record longer than the file": bytes(raw_zip(a20=0xFFFFFFF0, a24=0xFFFFFFF0)),
    "a record that runs over the next": bytes(raw_zip(a20=200, a24=200)),
    "two lengths": bytes(raw_zip(a20=1)),
    "compressed to the same length": bytes(raw_zip(a10=8)),
    "a zip64 length that is missing": bytes(raw_zip(a20=0xFFFFFFFF, a24=0xFFFFFFFF)),
    "a wrong checksum": bytes(raw_zip(a16=1)),
    "an empty record with a checksum": bytes(raw_zip("archive/data/4", a16=1)),
    "a directory of no entries": ZIP[:END] + end_record(0, END - START, START),
    "a directory of too many entries": ZIP[:END] + end_record(60_000, END - START, START),
    "a directory of 2**60 entries": ZIP[:END] + end64_record(2**60, END - START, START, END),
    "a directory past the end": ZIP[:END] + end_record(5, END - START, START + 1000),
    "a directory before the start": ZIP[:END] + end_record(5, END + 10, 0),
    "a directory as large as the file": ZIP[:END] + end_record(5, END, 0),
    "a zip64 directory past the end": ZIP[:END] + end64_record(5, END - START, 2**63, END),
    "a zip64 end past the end": ZIP[:END] + end64_record(5, END - START, START, 2**62),
    "a zip64 end over itself": ZIP[:END] + end64_record(5, END - START, START, END + 40),
    "bytes behind the end": ZIP + b"PK\x05\x06" + bytes(18),
    "another zip behind it": ZIP + zip_of({"other/data.pkl": PICKLE}),
}


@pytest.mark.parametrize("name", HOSTILE_ARCHIVES)
def test_a_hostile_archive_is_refused_and_costs_little(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(HOSTILE_ARCHIVES[name])
    found, memory = cost_of(lambda: read(path))
    assert found is None
    assert memory < MEMORY


def test_a_directory_larger_than_any_real_one_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    size = 33 << 20
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(size + 4)
        file.write(end_record(5, size, 4))
    found, memory = cost_of(lambda: read(path))
    assert found is None
    assert memory < 10_000_000


def test_the_record_that_a_hostile_archive_overlaps_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(HOSTILE_ARCHIVES["a record over another"])
    with pytest.raises(CheckpointError, match=r"records '.*' and '.*' overlap"):
        open_checkpoint(tmp_path / "model.pth")


# Hostile safetensors


def safetensors(header: Any, data: bytes = bytes(8)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


HOSTILE_SAFETENSORS: dict[str, bytes] = {
    "nothing": b"",
    "no header": bytes(4),
    "a header longer than the file": (1 << 20).to_bytes(8, "little") + b"{}",
    "a header of 2**64 bytes": b"\xff" * 8 + b"{}",
    "an empty header": safetensors(b""),
    "no JSON": safetensors(b"{'a'"),
    "JSON in UTF-16": safetensors(json.dumps({"w": entry()}).encode("utf-16")),
    "JSON that is no UTF-8": safetensors(b'{"\xff": 1}'),
    "a list": safetensors([]),
    "no tensors": safetensors({}, b""),
    "deep lists": safetensors(b"[" * 100_000),
    "deep dicts": safetensors(b'{"a":' * 100_000),
    "a name twice": safetensors(b'{"w":%b,"w":%b}' % ((json.dumps(entry()).encode(),) * 2)),
    "a name with a line feed": safetensors({"w\nx": entry()}),
    "a name with half a surrogate pair": safetensors({"\ud800": entry()}),
    "a name of a megabyte": safetensors({"w" * 10**6: entry()}),
    "an entry that is a list": safetensors({"w": [1]}),
    "an entry that is a string": safetensors({"w": "dtype"}),
    "an entry that is null": safetensors({"w": None}),
    "an entry without a shape": safetensors({"w": {"dtype": "F32", "data_offsets": [0, 8]}}),
    "an unknown type": safetensors({"w": entry("F12")}),
    "an unknown type of a megabyte": safetensors({"w": entry("F" * 10**6)}),
    "a type that is a list": safetensors({"w": entry([])}),
    "a shape that is a string": safetensors({"w": entry(shape="2")}),
    "a shape that is a number": safetensors({"w": entry(shape=2)}),
    "a shape of strings": safetensors({"w": entry(shape=["2"])}),
    "a shape of fractions": safetensors({"w": entry(shape=[2.0])}),
    "a shape of truth values": safetensors({"w": entry("F64", [True])}),
    "a shape of NaN": safetensors({"w": entry(shape=[float("nan")])}),
    "a negative size": safetensors({"w": entry(shape=[-2])}),
    "two negative sizes": safetensors({"w": entry(shape=[-2, -1])}),
    "huge sizes": safetensors({"w": entry(shape=[2**62, 2**62])}),
    "huge sizes of nothing": safetensors({"w": entry(shape=[0, 2**47, 2**47], offsets=[0, 0])}, b""),
    "sizes of 4000 digits": safetensors({"w": entry(shape=[10**4000] * 100)}),
    "a size of 10000 digits": safetensors(
        b'{"w":{"dtype":"F32","shape":[1%b],"data_offsets":[0,8]}}' % (b"0" * 10_000)
    ),
    "a hundred dimensions": safetensors({"w": entry(shape=[1] * 99 + [2])}),
    "another size": safetensors({"w": entry(shape=[3])}),
    "offsets that are strings": safetensors({"w": entry(offsets=["0", "8"])}),
    "offsets that are null": safetensors({"w": entry(offsets=[None, None])}),
    "offsets that are lists": safetensors({"w": entry(offsets=[[], []])}),
    "three offsets": safetensors({"w": entry(offsets=[0, 4, 8])}),
    "no offsets": safetensors({"w": entry(offsets=None)}),
    "offsets in the wrong order": safetensors({"w": entry(offsets=[8, 0])}),
    "negative offsets": safetensors({"w": entry(offsets=[-8, 0])}),
    "offsets past the end": safetensors({"w": entry(offsets=[8, 16])}),
    "huge offsets": safetensors({"w": entry(offsets=[2**63, 2**63 + 8])}),
    "overlapping tensors": safetensors({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
    "the same bytes twice": safetensors({"a": entry(), "b": entry()}),
    "a gap": safetensors({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)),
    "bytes that belong to no tensor": safetensors({"a": entry()}, bytes(9)),
    "a missing byte": safetensors({"a": entry()}, bytes(7)),
    "documents beyond reason": safetensors(
        {"w": entry(), "__metadata__": {"xtts_export": "[" * 500 + "]" * 500}, "v": {}}
    ),
    "metadata that is a number": safetensors({"w": entry(), "__metadata__": 3}),
    "metadata that is a list": safetensors({"w": entry(), "__metadata__": []}),
    "a number in the metadata": safetensors({"w": entry(), "__metadata__": {"xtts_export": 3}}),
    "NaN in an entry": safetensors({"w": entry(x=float("nan"))}),
    "a number too large for any float": safetensors({"w": entry(x=10**400)}),
    "a fraction too large for any float": safetensors(json.dumps({"w": entry(x=1.5)}).replace("1.5", "1e999").encode()),
    "half a surrogate pair in the metadata": safetensors({"w": entry(), "__metadata__": {"a": "\ud800"}}),
    "a negative nothing": safetensors(json.dumps({"w": entry()}).replace("[0, ", "[-0, ").encode()),
    "a deep field": safetensors({"w": entry(x=json.loads("[" * 130 + "]" * 130))}),
    "a header of more than 100 MB": safetensors(json.dumps({"w": entry()}).encode() + b" " * 100_000_000),
    "a deep document": safetensors({"w": entry(), "__metadata__": {"xtts_export": '{"a":' * 99 + "1" + "}" * 99}}),
}


@pytest.mark.parametrize("name", HOSTILE_SAFETENSORS)
def test_a_hostile_safetensors_is_refused_and_costs_little(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE_SAFETENSORS[name])
    found, memory = cost_of(lambda: read(path))
    assert found is None
    assert memory < MEMORY


@pytest.mark.parametrize(("metadata", "found"), [({"a": "b", "c": 1}, "1"), ([], "a list")], ids=str)
def test_what_the_metadata_should_not_hold_is_named(tmp_path: Path, metadata: Any, found: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors({"w": entry(), "__metadata__": metadata}))
    with pytest.raises(CheckpointError, match=f"__metadata__ should hold strings by name, found {found};"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"a": "b"}, {"xtts_export": "3"}, {"xtts_export": "["}, {"xtts_export": "[1]"}], ids=str
)
def test_metadata_that_is_not_ours_is_none_of_our_business(tmp_path: Path, metadata: Any) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors({"w": entry(), "__metadata__": metadata}))
    found = read(path)
    assert found is not None
    assert found[1] == {}


# Hostile files in the old format


def self_containing() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def laughing() -> Any:
    value: Any = "ha"
    for _ in range(60):
        value = [value, value]
    return value


def deep(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


HOSTILE_OLD: dict[str, Any] = {
    "a list that holds itself": {"model": {"w": torch.ones(1)}, "config": self_containing()},
    "a list that holds itself as the model": {"model": self_containing()},
    "laughs": {"model": {"w": torch.ones(1)}, "config": laughing()},
    "deep lists": {"model": {"w": torch.ones(1)}, "config": deep(100)},
    "a trillion elements out of one": {"w": torch.ones(1).expand(10**12)},
    "a number as a name": {0: torch.ones(1)},
    "no tensor": {"w": 3},
}


@pytest.mark.usefixtures("_fewer_nodes")
@pytest.mark.parametrize("name", HOSTILE_OLD)
def test_a_hostile_file_in_the_old_format_is_refused_and_costs_little(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.pth"
    torch.save(HOSTILE_OLD[name], path, _use_new_zipfile_serialization=False)
    found, memory = cost_of(lambda: read(path))
    assert found is None
    assert memory < MEMORY


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x02.", b"hello world", bytes(1000), pickle.dumps({"w": 1})])
def test_what_is_no_checkpoint_at_all_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        open_checkpoint(tmp_path / "model.pth")
