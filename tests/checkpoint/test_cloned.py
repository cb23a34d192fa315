"""A checkpoint shares its blocks with the one it is made from, where the file system can do that, and is as good."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models.file_systems import used_bytes
from tests.models.generated import assert_same_values, no_checksums, random_tensor
from xtts_export_callback.checkpoint import open_checkpoint, write_pth
from xtts_export_callback.checkpoint.zip_writer import lay_out
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.files.clone import BLOCK
from xtts_export_callback.files.disk import DiskSpace
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.tensors.tensor import FileStorage

LARGE, SMALL = 3_000_001, 1000
DROPPED = 500_000


def model() -> dict[str, torch.Tensor]:
    sizes = {"small": SMALL, "large": LARGE, "between": SMALL, "other": LARGE, "last": 7}
    return {name: random_tensor(torch.uint8, (size,), seed) for seed, (name, size) in enumerate(sizes.items())}


def save(path: Path) -> Path:
    """A checkpoint of which `kept` leaves out what stands in the middle and at the end."""
    tensors = model()
    dropped = {"dropped": random_tensor(torch.uint8, (DROPPED,), 9), "dropped too": torch.ones(10)}
    order = {"small": None, "large": None, "dropped": None, **tensors, "dropped too": None}
    torch.save({"model": {name: (tensors | dropped)[name] for name in order}}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


def copy(source: Path, target: Path, *, known: bool = False, digests: dict[int, bytes] | None = None) -> Path:
    with open_checkpoint(source) as checkpoint:
        kept = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.startswith("dropped")}
        for tensor in kept.values():
            assert isinstance(tensor.storage, FileStorage)
            tensor.storage.is_verified |= known
        write_pth(target, {"model": kept, "step": 3}, digests=digests)
    return target


def flip(path: Path, name: str, position: int) -> None:
    """Change a bit of a tensor."""
    with open_checkpoint(path) as checkpoint:
        storage = checkpoint.tensors[name].storage
        assert isinstance(storage, FileStorage)
        offset = storage.offset + position
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def check(path: Path) -> None:
    """Hold a file to what every file has to pass."""
    assert_same_values(torch.load(str(path), weights_only=True, mmap=True)["model"], model())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    with open_checkpoint(path) as checkpoint:
        assert {name: tensor.read().tobytes() for name, tensor in checkpoint.tensors.items()} == {
            name: tensor.numpy().tobytes() for name, tensor in model().items()
        }


@pytest.mark.parametrize("known", [False, True], ids=["not known", "known"])
def test_a_clone_takes_no_space_and_is_good_when_its_source_is_gone(cloning_folder: Path, known: bool) -> None:
    source = save(cloning_folder / "source.pth")
    before = used_bytes(cloning_folder)
    target = copy(source, cloning_folder / "copy.pth", known=known)
    assert used_bytes(cloning_folder) - before < LARGE / 5
    assert DiskSpace().freed_by(cloning_folder, target) < 10 * BLOCK
    source.unlink()
    check(target)


def test_a_clone_has_the_bytes_of_a_copy(cloning_folder: Path, tmp_path: Path) -> None:
    cloned = copy(save(cloning_folder / "source.pth"), cloning_folder / "copy.pth")
    copied = copy(save(tmp_path / "source.pth"), tmp_path / "copy.pth")
    assert cloned.read_bytes() == copied.read_bytes()
    check(copied)


def test_a_clone_has_the_hash_of_a_copy_unless_nobody_read_its_bytes(cloning_folder: Path, tmp_path: Path) -> None:
    cloned: dict[int, bytes] = {}
    copied: dict[int, bytes] = {}
    unread: dict[int, bytes] = {}
    copy(save(cloning_folder / "source.pth"), cloning_folder / "copy.pth", digests=cloned)
    copy(save(tmp_path / "source.pth"), tmp_path / "copy.pth", digests=copied)
    copy(cloning_folder / "source.pth", cloning_folder / "other.pth", known=True, digests=unread)
    assert cloned == copied
    assert 0 < len(unread) < len(cloned)


def test_a_source_without_checksums_is_cloned_and_gets_them(cloning_folder: Path) -> None:
    with no_checksums():
        source = save(cloning_folder / "source.pth")
    target = copy(source, cloning_folder / "copy.pth")
    assert DiskSpace().freed_by(cloning_folder, target) < 10 * BLOCK
    check(target)


@pytest.mark.parametrize("position", [0, BLOCK, LARGE // 2, LARGE - 1])
def test_damage_in_the_source_is_found_although_nothing_is_copied(cloning_folder: Path, position: int) -> None:
    source = save(cloning_folder / "source.pth")
    flip(source, "large", position)
    with pytest.raises(CheckpointError, match=r"source\.pth: record data/1: checksum [0-9a-f]{8}, expected"):
        copy(source, cloning_folder / "copy.pth")
    assert not (cloning_folder / "copy.pth").exists()


def test_of_a_source_that_is_known_to_be_good_only_the_edges_are_read(
    cloning_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(cloning_folder / "source.pth")
    read: list[int] = []
    real = RandomFile.read_into

    def count(self: RandomFile, buffer: memoryview, offset: int) -> None:
        read.append(len(buffer) if self.path == source else 0)
        real(self, buffer, offset)

    monkeypatch.setattr(RandomFile, "read_into", count)
    copy(source, cloning_folder / "copy.pth", known=True)
    assert sum(read) < LARGE / 5


@given(
    sizes=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 3 * BLOCK), st.booleans()), min_size=1, max_size=20)
)
def test_any_layout_puts_large_records_where_their_blocks_can_be_shared(sizes: list[tuple[int, int, bool]]) -> None:
    source, start = object(), 0
    records: list[tuple[str, int]] = []
    origins: list[tuple[object, int] | None] = []
    for number, (nbytes, gap, is_computed) in enumerate(sizes):
        start = -(-(start + gap) // 64) * 64
        records.append((f"archive/data/{number}", nbytes))
        origins.append(None if is_computed else (source, start))
        start += nbytes
    slots = lay_out(records, origins)
    end = 0
    for slot, origin in zip(slots, origins, strict=True):
        assert (slot.header, slot.data % 64) == (end, 0)
        assert slot.data == slot.header + len(slot.local_header)
        assert slot.data - slot.header <= 2 * BLOCK + 200
        if origin is not None and slot.nbytes >= 64 * BLOCK:
            assert (slot.data - origin[1]) % BLOCK == 0
        end = slot.data + slot.nbytes


def test_records_that_follow_each_other_in_the_source_keep_their_distance() -> None:
    source = object()
    origins: list[tuple[object, int] | None] = [(source, 8192 + 64), (source, 8192 + 640), (source, 8192 + 300_800)]
    slots = lay_out([("archive/data/0", 500), ("archive/data/1", 300_000), ("archive/data/2", 300_000)], origins)
    assert slots[2].data - slots[1].data == 300_160
    assert slots[1].data % BLOCK == 640


def test_a_layout_without_a_source_is_that_of_before() -> None:
    records = [("archive/data.pkl", 1000), ("archive/data/0", 10**6)]
    assert lay_out(records) == lay_out(records, [None, None])
