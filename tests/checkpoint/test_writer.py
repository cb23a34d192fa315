"""What is written reads back the same everywhere, or nothing is written at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.models.generated import (
    COMPLEX,
    DTYPES,
    SPECIFICATION,
    StateDict,
    as_lists,
    assert_same_values,
    bits,
    documents,
    no_checksums,
    random_tensor,
    sharing,
    state_dicts,
    tensors,
)
from xtts_export_callback.checkpoint import Tensor, open_checkpoint, write_pth, write_safetensors, writer
from xtts_export_callback.checkpoint.pickler import UnsupportedValueError, dumps
from xtts_export_callback.checkpoint.zip_reader import data_offset, read_directory
from xtts_export_callback.checkpoint.zip_writer import directory, lay_out
from xtts_export_callback.errors import CheckpointError, ConfigError, OutputExistsError, VerificationError
from xtts_export_callback.files import random_access
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.tensors.tensor import BLOCK, MAX_NUMBER, ArrayStorage, Storage

OVERHEAD = 4000  # bytes of headers and pickle that a file with a handful of tensors may take beside them


def copy_range_is_missing(patch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    patch.delattr(os, "copy_file_range", raising=False)


def copy_range_crosses_devices(patch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    patch.setattr(os, "copy_file_range", refuse, raising=False)


def copy_range_stops_early(patch: pytest.MonkeyPatch) -> None:
    """As on file systems that copy nothing and say so with 0."""
    patch.setattr(os, "copy_file_range", lambda *args: 0, raising=False)


def everything_posix_is_missing(patch: pytest.MonkeyPatch) -> None:
    """As on Windows: no reads and writes at an offset, and no directory that could be opened and synced."""
    copy_range_is_missing(patch)
    patch.delattr(os, "preadv", raising=False)
    patch.delattr(os, "pwrite", raising=False)
    real_open = os.open

    def open_files_only(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if os.path.isdir(path):  # noqa: PTH112 - it may be bytes
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real_open(path, flags, *args, **options)

    patch.setattr(os, "open", open_files_only)
    patch.setattr(random_access, "_sync_file_range", lambda: None)


SYSTEMS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "this system": lambda patch: None,
    "no range copies": copy_range_is_missing,
    "range copies across devices": copy_range_crosses_devices,
    "range copies that stop": copy_range_stops_early,
    "nothing of POSIX": everything_posix_is_missing,
}


@pytest.fixture(params=SYSTEMS)
def any_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This system, and others simulated by taking away what they do not have."""
    with monkeypatch.context() as patch:
        SYSTEMS[request.param](patch)
        yield


class Example:
    """A source checkpoint and the place where its copy goes, alone in its folder."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source.pth"
        self.folder = folder / "out"
        self.folder.mkdir(exist_ok=True)
        self.path = self.folder / "model.pth"

    def save(self, model: StateDict, **document: Any) -> None:
        torch.save({"model": model, **document}, self.source)

    def copy(self, *, force: bool = False) -> Path:
        with open_checkpoint(self.source) as checkpoint:
            write_pth(self.path, {"model": checkpoint.tensors, **checkpoint.document}, force=force)
        return self.path

    def copy_to_safetensors(self, *, force: bool = False) -> Path:
        path = self.path.with_suffix(".safetensors")
        with open_checkpoint(self.source) as checkpoint:
            write_safetensors(path, checkpoint.tensors, {"step": 3}, force=force)
        return path

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return Example(tmp_path)


@pytest.fixture
def large_example(example: Example) -> Example:
    """Three blocks and a bit in one tensor, one byte in another, a tie, and a tensor that has to be gathered."""
    large = random_tensor(torch.uint8, (3 * BLOCK + 5,), 1)
    example.save(
        {"large": large, "small": torch.tensor([7], dtype=torch.uint8), "tied": large, "t": torch.eye(3)[:, 1]}
    )
    return example


# Round trips


@given(model=state_dicts(), document=st.dictionaries(st.sampled_from(["config", "step", "é"]), documents, max_size=3))
@settings(SPECIFICATION, max_examples=100)
def test_what_is_written_loads_as_it_was(tmp_path: Path, model: StateDict, document: dict[str, Any]) -> None:
    example = Example(tmp_path)
    example.save(model, **document)
    path = example.copy(force=True)
    expected = torch.load(example.source, weights_only=False)["model"]
    loaded = torch.load(path, weights_only=True)
    assert_same_values(loaded["model"], expected)
    assert_same_values(torch.load(str(path), weights_only=True, mmap=True)["model"], expected)
    assert as_lists({key: value for key, value in loaded.items() if key != "model"}) == as_lists(document)
    with open_checkpoint(path) as checkpoint:
        assert {name: tensor.read().tobytes() for name, tensor in checkpoint.tensors.items()} == {
            name: bits(tensor) for name, tensor in expected.items()
        }


@given(model=state_dicts([dtype for dtype in DTYPES if dtype not in COMPLEX]))
@settings(SPECIFICATION, max_examples=80)
def test_what_is_written_as_safetensors_loads_as_it_was(tmp_path: Path, model: StateDict) -> None:
    example = Example(tmp_path)
    example.save(model)
    path = example.copy_to_safetensors(force=True)
    expected = torch.load(example.source, weights_only=False)["model"]
    loaded = load_file(path)
    assert_same_values({name: loaded[name] for name in model}, expected)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.document == {"step": 3}
        assert {name: tensor.read().tobytes() for name, tensor in checkpoint.tensors.items()} == {
            name: bits(tensor) for name, tensor in expected.items()
        }


@pytest.mark.usefixtures("any_system")
@pytest.mark.parametrize("checksums", [True, False], ids=["with checksums", "without checksums"])
def test_every_system_writes_the_same(large_example: Example, checksums: bool) -> None:
    expected = torch.load(large_example.source)
    if not checksums:
        with no_checksums():
            torch.save(expected, large_example.source)
    assert_same_values(torch.load(large_example.copy())["model"], expected["model"])
    loaded = load_file(large_example.copy_to_safetensors())
    assert_same_values({name: loaded[name] for name in expected["model"]}, expected["model"])
    assert sorted(large_example.files()) == ["model.pth", "model.safetensors"]


@pytest.mark.usefixtures("any_system")
def test_every_system_writes_checksums_that_other_readers_accept(large_example: Example) -> None:
    with zipfile.ZipFile(large_example.copy()) as archive:
        assert archive.testzip() is None


@pytest.mark.skipif(shutil.which("unzip") is None, reason="no unzip here")
@given(model=state_dicts())
@settings(SPECIFICATION, max_examples=15)
def test_unzip_finds_no_fault(tmp_path: Path, model: StateDict) -> None:
    example = Example(tmp_path)
    example.save(model)
    result = subprocess.run(["unzip", "-t", example.copy(force=True)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "No errors detected" in result.stdout


@given(model=state_dicts())
@settings(SPECIFICATION, max_examples=30)
def test_every_record_is_stored_with_its_checksum_at_a_multiple_of_64(tmp_path: Path, model: StateDict) -> None:
    example = Example(tmp_path)
    example.save(model)
    path = example.copy(force=True)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
    content = path.read_bytes()
    for info in infos:
        assert info.compress_type == zipfile.ZIP_STORED
        name_size, extra_size = struct.unpack_from("<2H", content, info.header_offset + 26)
        assert (info.header_offset + 30 + name_size + extra_size) % 64 == 0


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_same_input_gives_the_same_bytes(
    large_example: Example, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    first, second = large_example.copy().read_bytes(), large_example.copy_to_safetensors().read_bytes()
    monkeypatch.setattr(writer, "_THREADS", threads)
    assert large_example.copy(force=True).read_bytes() == first
    assert large_example.copy_to_safetensors(force=True).read_bytes() == second


def test_progress_counts_every_byte_that_is_written(large_example: Example) -> None:
    counts: list[int] = []
    with open_checkpoint(large_example.source) as checkpoint:
        write_pth(large_example.path, {"model": checkpoint.tensors}, progress=counts.append)
    assert 3 * BLOCK < sum(counts) <= large_example.path.stat().st_size


# Sharing and size


def test_ties_and_views_keep_their_meaning(example: Example) -> None:
    table = torch.arange(12.0).reshape(3, 4)
    model = {"table": table, "tied": table, "row": table[1], "column": table[:, 2], "alone": torch.ones(2)}
    example.save(model)
    loaded = torch.load(example.copy())["model"]
    assert sharing(loaded) == sharing(model)
    loaded["row"][2] = 99.0
    assert loaded["tied"][1, 2] == loaded["column"][1] == 99.0


def test_a_transposed_tensor_keeps_its_strides(example: Example) -> None:
    example.save({"t": torch.arange(6.0).reshape(2, 3).t()})
    assert torch.load(example.copy())["model"]["t"].stride() == (1, 3)


LARGE = torch.zeros(100_000)
SIZES: dict[str, tuple[StateDict, int]] = {
    "a small view of a large storage": ({"w": LARGE[10:20]}, 40),
    "two distant views of a large storage": ({"a": LARGE[:10], "b": LARGE[-10:]}, 80),
    "overlapping views of a large storage": ({"a": LARGE[:600], "b": LARGE[400:1000]}, 4000),
    "an empty view of a large storage": ({"w": LARGE[5:5]}, 0),
    "a column": ({"w": LARGE.reshape(100, -1)[:, 0]}, 400),
    "a transposed tensor": ({"w": LARGE.reshape(100, -1).t()}, 400_000),
    "a tie": ({"a": LARGE, "b": LARGE}, 400_000),
    "an expanded tensor": ({"w": torch.zeros(1).expand(100_000)}, 4),
}


@pytest.mark.parametrize(("model", "needed"), SIZES.values(), ids=SIZES)
def test_a_file_is_no_larger_than_its_tensors_need(example: Example, model: StateDict, needed: int) -> None:
    example.save(model)
    path = example.copy()
    assert needed <= path.stat().st_size <= needed + OVERHEAD
    assert_same_values(torch.load(path)["model"], model)


def test_many_views_of_one_storage_read_it_once_and_then_only_their_part(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = random_tensor(torch.uint8, (8 * BLOCK,), 0)
    model = {f"part {index}": flat[index * 1000 : index * 1000 + 500] for index in range(1000)}
    example.save(model)
    read: list[int] = []
    real = RandomFile.read_into

    def count(self: RandomFile, buffer: memoryview, offset: int) -> None:
        if self.path == example.source:
            read.append(len(buffer))
        real(self, buffer, offset)

    monkeypatch.setattr(RandomFile, "read_into", count)
    monkeypatch.setattr(writer, "_THREADS", 1)
    assert_same_values(torch.load(example.copy())["model"], model)
    assert sum(read) < 2 * len(flat)


# Publishing


def test_an_existing_file_is_refused_before_anything_is_written(large_example: Example) -> None:
    large_example.path.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="exists already; name another output or replace it with --force"):
        large_example.copy()
    assert large_example.files() == {"model.pth": b"mine"}


def test_an_existing_file_is_replaced_by_force(large_example: Example) -> None:
    large_example.path.write_text("mine", encoding="utf-8")
    large_example.copy(force=True)
    assert list(large_example.files()) == ["model.pth"]
    assert "large" in torch.load(large_example.path)["model"]


def test_a_folder_of_that_name_is_never_replaced(large_example: Example) -> None:
    large_example.path.mkdir()
    with pytest.raises(OutputExistsError, match="a folder, expected the name of a file"):
        large_example.copy(force=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no umask there")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_is_honoured(large_example: Example, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = large_example.copy()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_the_file_appears_only_after_a_sync_that_began_when_all_was_written(
    large_example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    written_before_sync: list[int] = []
    frame_is_written = threading.Event()
    real_write, real_sync, real_last = RandomFile.write_at, RandomFile.sync, writer._Syncer.start_last

    def write_at(self: RandomFile, data: memoryview | bytes, offset: int) -> None:
        writes.append(len(data))
        real_write(self, data, offset)

    def sync(self: RandomFile) -> None:
        written_before_sync.append(len(writes))
        real_sync(self)

    def start_sync(self: RandomFile) -> None:
        frame_is_written.wait()  # one is under way while the last bytes are written

    def start_last(self: Any) -> None:
        real_last(self)
        frame_is_written.set()

    copy_range_is_missing(monkeypatch)
    monkeypatch.setattr(writer, "_SYNC_EVERY", 1)
    monkeypatch.setattr(RandomFile, "write_at", write_at)
    monkeypatch.setattr(RandomFile, "sync", sync)
    monkeypatch.setattr(RandomFile, "start_sync", start_sync)
    monkeypatch.setattr(writer._Syncer, "start_last", start_last)
    large_example.copy()
    assert written_before_sync == [len(writes)]


def test_writing_out_begins_while_there_is_more_to_write(
    large_example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    real_write, started = RandomFile.write_at, threading.Event()

    def write_at(self: RandomFile, data: memoryview | bytes, offset: int) -> None:
        writes.append(offset)
        assert len(writes) == 1 or started.wait(60)
        real_write(self, data, offset)

    def start_sync(self: RandomFile) -> None:
        started.set()

    copy_range_is_missing(monkeypatch)
    monkeypatch.setattr(writer, "_SYNC_EVERY", 1)
    monkeypatch.setattr(RandomFile, "write_at", write_at)
    monkeypatch.setattr(RandomFile, "start_sync", start_sync)
    large_example.copy()


def test_a_sync_that_cannot_begin_early_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with RandomFile(tmp_path / "file", create=True) as out:
        out.start_sync()
        assert sys.platform != "linux" or not synced
        monkeypatch.setattr(random_access, "_sync_file_range", lambda: None)  # another system
        out.start_sync()
        assert len(synced) >= 1
        monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", synced.append)
    out.start_sync()  # closed: the system refuses
    assert synced[-1] == -1


def test_an_early_sync_that_fails_in_any_way_leaves_nothing_behind(
    large_example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_sync(self: RandomFile) -> None:
        raise RuntimeError("no")

    copy_range_is_missing(monkeypatch)
    monkeypatch.setattr(writer, "_SYNC_EVERY", 1)
    monkeypatch.setattr(RandomFile, "start_sync", start_sync)
    with pytest.raises(RuntimeError, match="no"):
        large_example.copy()
    assert not large_example.files()


# Failures: the error arrives, what was there stays, nothing is left behind


class Broken(Storage):
    """Three blocks, of which one raises."""

    def __init__(self, block: int, error: BaseException) -> None:
        self.nbytes = 3 * BLOCK
        self._block = block
        self._error = error

    def reader(self) -> Callable[[memoryview], None]:
        calls = iter(range(3))

        def fill(buffer: memoryview) -> None:
            if next(calls) == self._block:
                raise self._error

        return fill


@pytest.fixture(params=["into an empty folder", "over an existing file"])
def occupied(request: pytest.FixtureRequest, large_example: Example) -> Iterator[Example]:
    """The large example, with or without a file in the place of the output; checks that it survives the test."""
    if "existing" in request.param:
        large_example.path.write_text("mine", encoding="utf-8")
    before = large_example.files()
    yield large_example
    assert large_example.files() == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("xtts-export")]


WRITERS: dict[str, Callable[[Path, dict[str, Tensor]], None]] = {
    "pth": lambda path, model: write_pth(path, {"model": model}, force=True),
    "safetensors": lambda path, model: write_safetensors(path, model, {}, force=True),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("block", [0, 1, 2])
@pytest.mark.parametrize(
    "error", [CheckpointError("bad"), OSError("bad"), MemoryError(), KeyboardInterrupt()], ids=repr
)
def test_an_error_in_a_source_leaves_nothing_behind(
    occupied: Example, writer: Callable[[Path, dict[str, Tensor]], None], block: int, error: BaseException
) -> None:
    with open_checkpoint(occupied.source) as checkpoint:
        broken = Tensor.contiguous(Broken(block, error), "uint8", (3 * BLOCK,))
        with pytest.raises(type(error)):
            writer(occupied.path, {**checkpoint.tensors, "broken": broken})


def fail_call(patch: pytest.MonkeyPatch, owner: Any, name: str, failing: int, error: BaseException) -> list[int]:
    """Have one call of a method raise; the list that is returned grows by one with each call."""
    real = getattr(owner, name)
    calls: list[int] = []

    def call(*args: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if calls[-1] == failing:
            raise error
        return real(*args, **options)

    patch.setattr(owner, name, call)
    return calls


@pytest.mark.usefixtures("any_system")
@pytest.mark.parametrize("method", ["write_at", "copy_range_from"])
def test_a_full_disk_at_any_write_leaves_nothing_behind(
    large_example: Example, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        calls = fail_call(patch, RandomFile, method, -1, full)
        large_example.copy()
    assert len(calls) >= 4
    before = large_example.files()
    for failing in range(len(calls)):
        with monkeypatch.context() as patch:
            fail_call(patch, RandomFile, method, failing, full)
            with pytest.raises(OSError, match="No space left"):
                large_example.copy(force=True)
        assert large_example.files() == before


@pytest.mark.skipif(sys.platform != "linux", reason="no device that is always full")
def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    full = RandomFile(Path("/dev/full"))
    full.close()
    full._fd = os.open("/dev/full", os.O_RDWR)
    with full, pytest.raises(OSError, match="'/dev/full'"):
        full.write_at(b"x", 0)


@pytest.mark.parametrize("every", [1, 64 << 20], ids=["while writing", "at the end"])
def test_a_failing_sync_leaves_nothing_behind(occupied: Example, monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    def fail(self: RandomFile) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(RandomFile, "sync", fail)
    monkeypatch.setattr(writer, "_SYNC_EVERY", every)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        occupied.copy(force=True)


def test_a_failing_rename_leaves_nothing_behind(occupied: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(PermissionError):
        occupied.copy(force=True)


def test_ctrl_c_while_threads_write_leaves_nothing_behind(occupied: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "as_completed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        occupied.copy(force=True)


class Patient(Storage):
    """Three blocks, of which the first takes until the writer has been told to stop."""

    def __init__(self, started: threading.Event, stopped: threading.Event) -> None:
        self.nbytes = 3 * BLOCK
        self.asked = 0
        self._started = started
        self._stopped = stopped

    def reader(self) -> Callable[[memoryview], None]:
        def fill(buffer: memoryview) -> None:
            self.asked += 1
            self._started.set()
            self._stopped.wait(timeout=10)

        return fill


class Impatient(Storage):
    """Fails as soon as the other one has started."""

    nbytes = 3 * BLOCK

    def __init__(self, started: threading.Event) -> None:
        self._started = started

    def reader(self) -> Callable[[memoryview], None]:
        def fill(buffer: memoryview) -> None:
            self._started.wait(timeout=10)
            msg = "bad"
            raise CheckpointError(msg)

        return fill


def test_an_error_stops_the_other_threads_and_starts_no_sync(
    large_example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, stopped = threading.Event(), threading.Event()
    real = ThreadPoolExecutor.shutdown

    def shutdown(self: ThreadPoolExecutor, **options: Any) -> None:
        if options.get("cancel_futures"):
            stopped.set()
        real(self, **options)

    syncs: list[RandomFile] = []
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)
    monkeypatch.setattr(writer, "_THREADS", 2)
    monkeypatch.setattr(RandomFile, "sync", syncs.append)
    patient = Patient(started, stopped)
    storages: list[Storage] = [patient, Impatient(started)]
    model = {str(index): Tensor.contiguous(base, "uint8", (base.nbytes,)) for index, base in enumerate(storages)}
    with pytest.raises(CheckpointError, match="bad"):
        write_pth(large_example.path, {"model": model})
    assert (patient.asked, syncs) == (1, [])


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j], ids=lambda value: type(value).__name__)
def test_a_value_that_json_does_not_know_is_refused(occupied: Example, value: Any) -> None:
    tensor = Tensor.contiguous(ArrayStorage(b"abcd"), "float32", (1,))
    with pytest.raises(UnsupportedValueError, match="neither a tensor nor a plain value"):
        write_pth(occupied.path, {"model": {"w": tensor}, "config": {"key": [value]}}, force=True)


@pytest.mark.parametrize(("name", "dtype"), [("w", torch.complex128), ("__metadata__", torch.float32)])
def test_what_safetensors_cannot_hold_is_refused(example: Example, name: str, dtype: torch.dtype) -> None:
    example.save({name: torch.ones(1, dtype=dtype)})
    with pytest.raises(ConfigError, match=r"cannot be stored as safetensors; write a \.pth instead"):
        example.copy_to_safetensors()
    assert example.files() == {}


@pytest.mark.parametrize("size", [0, 1, MAX_NUMBER])
def test_an_empty_tensor_of_any_size_that_can_be_read_can_be_written_in_both_formats(
    example: Example, size: int
) -> None:
    example.save({"w": torch.empty(0, size)})
    for path in (example.copy(force=True), example.copy_to_safetensors(force=True)):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.tensors["w"].shape == (0, size)


# Damage


@pytest.mark.usefixtures("any_system")
@pytest.mark.parametrize("position", [0, BLOCK, 3 * BLOCK + 4])
def test_a_damaged_source_is_named_with_its_record(occupied: Example, position: int) -> None:
    content = bytearray(occupied.source.read_bytes())
    with open_checkpoint(occupied.source) as checkpoint:
        storage: Any = checkpoint.tensors["large"].storage
        content[storage.offset + position] ^= 0x10
    occupied.source.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"source\.pth: record data/0: checksum [0-9a-f]{8}, expected"):
        occupied.copy(force=True)


@pytest.mark.usefixtures("any_system")
def test_a_source_that_is_cut_while_it_is_open_is_named_with_its_record(occupied: Example) -> None:
    with open_checkpoint(occupied.source) as checkpoint:
        os.truncate(occupied.source, 2 * BLOCK)
        with pytest.raises(CheckpointError, match=r"source\.pth: record data/[0-2]: truncated"):
            write_pth(occupied.path, {"model": checkpoint.tensors}, force=True)


def change_before_reading_back(patch: pytest.MonkeyPatch, position: int, change: Callable[[Path], None]) -> None:
    """Have what is at a position of the file change after it was written, as a failing disk does."""
    real = writer._read_back

    def read_back(out: RandomFile, buffer: memoryview, offset: int) -> None:
        if offset <= position < offset + len(buffer):
            change(out.path)
        real(out, buffer, offset)

    patch.setattr(writer, "_read_back", read_back)


@pytest.mark.parametrize("copy", [Example.copy, Example.copy_to_safetensors], ids=["pth", "safetensors"])
def test_a_changed_byte_anywhere_is_found_when_reading_back(
    example: Example, monkeypatch: pytest.MonkeyPatch, copy: Callable[..., Path]
) -> None:
    example.save({"a": torch.arange(20.0), "b": torch.ones(3, dtype=torch.bfloat16)})
    size = copy(example).stat().st_size
    before = example.files()
    passed = []
    for position in range(0, size, 7):

        def flip(path: Path, position: int = position) -> None:
            with path.open("rb+") as file:
                file.seek(position)
                value = file.read(1)[0]
                file.seek(position)
                file.write(bytes([value ^ 1]))

        with monkeypatch.context() as patch:
            change_before_reading_back(patch, position, flip)
            try:
                copy(example, force=True)
            except VerificationError as error:
                assert example.folder.name in str(error)
            else:
                passed.append(position)
    assert passed == []
    assert example.files() == before


def test_a_file_that_is_cut_before_reading_back_is_found(occupied: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    change_before_reading_back(monkeypatch, 2 * BLOCK, lambda path: os.truncate(path, BLOCK))
    with pytest.raises(VerificationError, match="check the disk"):
        occupied.copy(force=True)


# Archives larger than 4 GiB


GIB = 1 << 30


@pytest.fixture
def huge_archive(tmp_path: Path) -> Iterator[Path]:
    """An archive of 9 GiB that is almost only a hole: a record of 4.5 GiB, a small one, and one of 4.5 GiB again."""
    storages: list[Storage] = [ArrayStorage(b"") for _ in range(3)]
    for storage, nbytes in zip(storages, (9 * GIB // 2, 16, 9 * GIB // 2), strict=True):
        storage.nbytes = nbytes
    dtypes = ("uint8", "float32", "uint8")
    model = {
        f"w{index}": Tensor.contiguous(storage, dtype, (storage.nbytes // (4 if dtype == "float32" else 1),))
        for index, (storage, dtype) in enumerate(zip(storages, dtypes, strict=True))
    }
    pickled = dumps({"model": model}, lambda tensor: (tensor, str(storages.index(tensor.storage))))
    contents = {"data.pkl": pickled, "version": b"3\n", "data/1": torch.arange(4.0).numpy().tobytes()}
    sizes = {"data.pkl": len(pickled), "version": 2}
    sizes.update((f"data/{key}", storage.nbytes) for key, storage in enumerate(storages))
    path = tmp_path / "huge.pth"
    with RandomFile(path, create=True) as out:
        slots = lay_out([(f"archive/{name}", nbytes) for name, nbytes in sizes.items()])
        for slot, name in zip(slots, sizes, strict=True):
            content = contents.get(name, b"")
            slot.crc32 = zlib.crc32(content)
            out.write_at(slot.local_header, slot.header)
            out.write_at(content, slot.data)
        out.write_at(directory(slots), slots[-1].data + slots[-1].nbytes)
    yield path
    path.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="holes in files are not a given elsewhere")
def test_an_archive_beyond_4_gib_is_understood_by_torch_zipfile_and_us(huge_archive: Path) -> None:
    mapped = torch.load(str(huge_archive), weights_only=True, mmap=True)["model"]
    assert (mapped["w1"].tolist(), mapped["w2"].shape) == ([0.0, 1.0, 2.0, 3.0], (int(4.5 * GIB),))
    with zipfile.ZipFile(huge_archive) as archive:
        assert archive.getinfo("archive/data/0").file_size == int(4.5 * GIB)
        assert archive.read("archive/data/1") == mapped["w1"].numpy().tobytes()
    with open_checkpoint(huge_archive) as checkpoint:
        assert checkpoint.tensors["w1"].read().tolist() == [0.0, 1.0, 2.0, 3.0]
        assert checkpoint.tensors["w2"].nbytes == int(4.5 * GIB)


def test_an_archive_of_more_than_65535_records_is_understood(tmp_path: Path) -> None:
    slots = lay_out([("archive/data.pkl", 0), *((f"archive/data/{index}", 0) for index in range(66_000))])
    path = tmp_path / "many.pth"
    with RandomFile(path, create=True) as out:
        for slot in slots:
            out.write_at(slot.local_header, slot.header)
        out.write_at(directory(slots), slots[-1].data)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == 66_001
    with RandomFile(path) as file:
        records = read_directory(file)
        assert len(records) == 66_001
        assert data_offset(file, "data/65999", records["data/65999"].header, 0) == slots[-1].data


@given(sizes=st.lists(st.integers(0, 2**40) | st.integers(2**32 - 3, 2**32 + 3), min_size=1, max_size=20))
@settings(SPECIFICATION, max_examples=100)
def test_any_layout_is_aligned_and_without_overlap(sizes: list[int]) -> None:
    slots = lay_out([(f"archive/data/{index}", nbytes) for index, nbytes in enumerate(sizes)])
    end = 0
    for slot in slots:
        assert slot.header == end
        assert slot.data == slot.header + len(slot.local_header)
        assert slot.data % 64 == 0
        end = slot.data + slot.nbytes


# Other sources than files


@given(tensor=tensors())
@settings(SPECIFICATION, max_examples=30)
def test_a_packed_tensor_has_the_elements_in_row_major_order(tmp_path: Path, tensor: torch.Tensor) -> None:
    path = tmp_path / "model.pth"
    torch.save({"w": tensor}, path)
    with open_checkpoint(path) as checkpoint:
        storage = checkpoint.tensors["w"].packed()
        content = bytearray(storage.nbytes)
        storage.reader()(memoryview(content))
    assert bytes(content) == bits(tensor)
