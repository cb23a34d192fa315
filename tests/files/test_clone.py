"""What files share: blocks are cloned where that is possible, and count once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtts_export_callback.files.clone import BLOCK, clone_range, shared_extents, whole_blocks
from xtts_export_callback.files.disk import DiskSpace
from xtts_export_callback.files.random_access import RandomFile

NBYTES = 64 * BLOCK + 100


@pytest.fixture
def file(cloning_folder: Path) -> Path:
    return written(cloning_folder / "file")


def written(path: Path) -> Path:
    path.write_bytes(os.urandom(NBYTES))
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


def clone(source: Path, target: Path) -> bool:
    with RandomFile(source) as file, RandomFile(target, create=True) as out:
        return clone_range(out, 0, file, 0, file.size)


def fail_with(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "ioctl", fail)


def test_a_clone_holds_the_same_and_outlives_its_source(file: Path) -> None:
    content = file.read_bytes()
    assert clone(file, file.with_name("clone"))
    file.unlink()
    assert file.with_name("clone").read_bytes() == content


def test_a_change_of_the_source_does_not_reach_the_clone(file: Path) -> None:
    content = file.read_bytes()
    clone(file, file.with_name("clone"))
    with file.open("r+b") as opened:
        opened.write(b"changed")
    assert file.with_name("clone").read_bytes() == content


def test_blocks_that_two_files_share_count_once(file: Path) -> None:
    clone(file, file.with_name("clone"))
    assert DiskSpace().of(file.parent) == NBYTES + NBYTES - 65 * BLOCK


def test_removing_one_of_two_files_that_share_all_blocks_frees_none(file: Path) -> None:
    clone(file, file.with_name("clone"))
    assert DiskSpace().freed_by(file.parent, file) <= 0


def test_a_file_that_shares_nothing_any_more_counts_in_full(file: Path) -> None:
    clone(file, file.with_name("clone"))
    file.unlink()
    assert DiskSpace().of(file.parent) == NBYTES


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM])
def test_a_file_system_that_refuses_leaves_the_copy_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fail_with(monkeypatch, number)
    assert not clone(written(tmp_path / "file"), tmp_path / "clone")
    assert (tmp_path / "clone").read_bytes() == b""


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, errno.ENOSPC)
    with pytest.raises(OSError, match="clone"):
        clone(written(tmp_path / "file"), tmp_path / "clone")


def test_what_is_not_known_to_be_shared_counts_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "one")
    written(tmp_path / "two")
    fail_with(monkeypatch, errno.EOPNOTSUPP)
    assert DiskSpace().of(tmp_path) == 2 * NBYTES


def test_files_that_share_nothing_have_no_shared_extents(tmp_path: Path) -> None:
    with written(tmp_path / "file").open("rb") as file:
        assert shared_extents(file.fileno()) == []


def test_a_file_of_two_names_counts_once(tmp_path: Path) -> None:
    os.link(written(tmp_path / "file"), tmp_path / "link")
    assert DiskSpace().of(tmp_path) == NBYTES
    assert DiskSpace().freed_by(tmp_path, tmp_path / "link") == 0


def test_links_to_files_elsewhere_take_nothing(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(written(tmp_path / "file"))
    (inside / "folder").symlink_to(tmp_path)
    assert DiskSpace().of(inside) == 0


def test_all_below_a_folder_counts_but_for_what_is_left_out(tmp_path: Path) -> None:
    for name in ("a/b/file", "a/file", "file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        written(tmp_path / name)
    assert DiskSpace().of(tmp_path) == 3 * NBYTES
    assert DiskSpace().of(tmp_path, without=[tmp_path / "a" / "b"]) == 2 * NBYTES


def test_a_folder_that_is_gone_takes_nothing(tmp_path: Path) -> None:
    assert DiskSpace().of(tmp_path / "gone") == 0


@given(offset=st.integers(0, 10**6), source_offset=st.integers(0, 10**6), size=st.integers(0, 10**6))
def test_whole_blocks_are_whole_in_both_files_and_none_is_left_out(offset: int, source_offset: int, size: int) -> None:
    first, last = whole_blocks(offset, source_offset, size)
    if (offset - source_offset) % BLOCK or size < BLOCK:
        assert first == last
    if first != last:
        assert 0 <= first < last <= size
        assert {(place + part) % BLOCK for place in (offset, source_offset) for part in (first, last)} == {0}
        assert first < BLOCK
        assert size - last < BLOCK
