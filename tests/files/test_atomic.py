"""Outputs appear whole or not at all, whenever their writer is killed."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from xtts_export_callback.errors import OutputExistsError
from xtts_export_callback.files import atomic
from xtts_export_callback.files.atomic import remove_leftovers, whole_directory, whole_file

REPOSITORY = Path(__file__).parents[2]


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder, with its text."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def fill(path: Path, text: str) -> None:
    """Write one file, into a folder or as one."""
    (path / "model.pth" if path.is_dir() else path).write_text(text, encoding="utf-8")


PUBLISHERS: dict[str, tuple[Callable[..., AbstractContextManager[Path]], str]] = {
    "file": (whole_file, "out"),
    "folder": (whole_directory, "out/model.pth"),
}


@pytest.fixture(params=PUBLISHERS)
def publisher(request: pytest.FixtureRequest) -> tuple[Callable[..., AbstractContextManager[Path]], str]:
    """A way to publish, and the one name that is there afterwards."""
    return PUBLISHERS[request.param]


@pytest.fixture(params=["exchange", "set aside"])
def way_to_replace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders swapped in one step, as on Linux, and with the old one set aside, as elsewhere."""
    if request.param == "set aside":
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)


# Without any accident


def test_nothing_is_visible_before_the_end(tmp_path: Path, publisher: Any) -> None:
    publish_whole, name = publisher
    with publish_whole(tmp_path / "out") as temporary:
        fill(temporary, "new")
        assert not (tmp_path / "out").exists()
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
    assert tree(tmp_path) == {name: "new"}


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    with whole_directory(tmp_path / "run" / "inference" / "out") as temporary:
        fill(temporary, "new")
    assert tree(tmp_path) == {"run/inference/out/model.pth": "new"}


def test_an_error_leaves_nothing_behind(tmp_path: Path, publisher: Any) -> None:
    publish_whole, _ = publisher
    with pytest.raises(ZeroDivisionError), publish_whole(tmp_path / "out") as temporary:
        fill(temporary, "new")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_at_once(tmp_path: Path, publisher: Any) -> None:
    publish_whole, name = publisher
    with publish_whole(tmp_path / "out") as temporary:
        fill(temporary, "old")
    with pytest.raises(OutputExistsError, match=r"out: exists already"), publish_whole(tmp_path / "out"):
        pytest.fail("the block was entered")
    assert tree(tmp_path) == {name: "old"}


def test_an_output_that_appears_meanwhile_is_kept(tmp_path: Path, publisher: Any) -> None:
    publish_whole, name = publisher
    with pytest.raises(OutputExistsError), publish_whole(tmp_path / "out") as temporary:
        fill(temporary, "new")
        with publish_whole(tmp_path / "out") as other:
            fill(other, "the other's")
    assert tree(tmp_path) == {name: "the other's"}


@pytest.mark.usefixtures("way_to_replace")
def test_force_replaces_at_the_end(tmp_path: Path, publisher: Any) -> None:
    publish_whole, name = publisher
    with publish_whole(tmp_path / "out") as temporary:
        fill(temporary, "old")
    with publish_whole(tmp_path / "out", force=True) as temporary:
        fill(temporary, "new")
        assert (tmp_path / name).read_text(encoding="utf-8") == "old"
    assert tree(tmp_path) == {name: "new"}
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.usefixtures("way_to_replace")
def test_force_keeps_the_old_one_when_the_block_fails(tmp_path: Path, publisher: Any) -> None:
    publish_whole, name = publisher
    with publish_whole(tmp_path / "out") as temporary:
        fill(temporary, "old")
    with pytest.raises(ZeroDivisionError), publish_whole(tmp_path / "out", force=True) as temporary:
        fill(temporary, "new")
        raise ZeroDivisionError
    assert tree(tmp_path) == {name: "old"}
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to(path.parent / "else")], ids=["file", "link"])
def test_force_never_replaces_something_else_by_a_folder(tmp_path: Path, make: Callable[[Path], None]) -> None:
    try:
        make(tmp_path / "out")
    except OSError:
        pytest.skip("no links here")
    with (
        pytest.raises(OutputExistsError, match="a file or a link, expected a folder"),
        whole_directory(tmp_path / "out", force=True),
    ):
        pytest.fail("the block was entered")
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208 - a dangling link is listed too


def test_a_failing_rename_of_a_folder_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with whole_directory(tmp_path / "out") as temporary:
        fill(temporary, "old")
    monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    real = Path.rename

    def refuse_new(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse_new)
        with pytest.raises(PermissionError), whole_directory(tmp_path / "out", force=True) as temporary:
            fill(temporary, "new")
    assert tree(tmp_path) == {"out/model.pth": "old"}


# Killed writers

WRITER = """
import itertools, sys
from pathlib import Path
from xtts_export_callback.files import atomic
way, folder = sys.argv[1], Path(sys.argv[2])
if way == "set aside":
    atomic._exchange = lambda first, second: False
print("ready", flush=True)
for round in itertools.count(1):
    if way == "file":
        with atomic.whole_file(folder / "out", force=True) as temporary:
            with temporary.open("w") as file:
                for part in range(20):
                    file.write(f"{round}\\n")
                    file.flush()
    else:
        with atomic.whole_directory(folder / "out", force=True) as temporary:
            for part in range(5):
                (temporary / f"{part}.txt").write_text(f"{round}\\n")
"""


@pytest.fixture
def start_writer(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """A function that starts a process which replaces ``out`` again and again."""
    processes: list[subprocess.Popen[str]] = []

    def start(way: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, way, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def assert_whole(folder: Path, way: str) -> None:
    """Exactly one output, all of it from one round."""
    assert [path.name for path in folder.iterdir()] == ["out"]
    contents = tree(folder)
    lines = [line for text in contents.values() for line in text.splitlines()]
    assert len(lines) == (20 if way == "file" else 5)
    assert len(set(lines)) == 1


@pytest.mark.parametrize("way", ["file", "exchange", "set aside"])
def test_a_writer_killed_at_any_moment_leaves_a_whole_output(
    tmp_path: Path, start_writer: Callable[[str], subprocess.Popen[str]], way: str
) -> None:
    moments = random.Random(0)
    for _ in range(8):
        process = start_writer(way)
        while not (tmp_path / "out").exists() and not list(tmp_path.glob(".out.old-*")):
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.wait()
        assert [path for path in tmp_path.iterdir() if path.name[0] != "."] in ([], [tmp_path / "out"])
        remove_leftovers(tmp_path)
        assert_whole(tmp_path, way)


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be stopped there")
def test_what_a_running_process_writes_is_left_alone(
    tmp_path: Path, start_writer: Callable[[str], subprocess.Popen[str]]
) -> None:
    process = start_writer("exchange")
    while True:
        process.send_signal(signal.SIGSTOP)
        if (tmp_path / "out").exists() and list(tmp_path.glob(".out.tmp-*")):
            break
        process.send_signal(signal.SIGCONT)
    before = sorted(tmp_path.rglob("*"))
    assert remove_leftovers(tmp_path) == []
    assert sorted(tmp_path.rglob("*")) == before
    process.kill()
    process.send_signal(signal.SIGCONT)
    process.wait()
    assert "out" in remove_leftovers(tmp_path)
    assert_whole(tmp_path, "exchange")


@pytest.fixture
def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leftover(folder: Path, kind: str, pid: int, *, host: str = atomic._HOST, random: str = "0123abcd") -> Path:
    path = folder / f".out.{kind}-{host}-{pid}-{random}"
    path.mkdir()
    fill(path, kind)
    return path


def test_leftovers_of_a_dead_process_are_removed(tmp_path: Path, dead_pid: int) -> None:
    leftover(tmp_path, "tmp", dead_pid)
    (tmp_path / f".model.pth.tmp-{atomic._HOST}-{dead_pid}-0123abcd").touch()
    assert remove_leftovers(tmp_path) == ["model.pth", "out"]
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_was_set_aside_comes_back_where_the_new_one_never_arrived(tmp_path: Path, dead_pid: int) -> None:
    leftover(tmp_path, "old", dead_pid)
    leftover(tmp_path, "tmp", dead_pid)
    remove_leftovers(tmp_path)
    assert tree(tmp_path) == {"out/model.pth": "old"}
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_an_output_that_was_set_aside_is_removed_where_the_new_one_arrived(tmp_path: Path, dead_pid: int) -> None:
    leftover(tmp_path, "old", dead_pid)
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "new")
    remove_leftovers(tmp_path)
    assert tree(tmp_path) == {"out/model.pth": "new"}


def test_another_machines_work_is_left_alone_for_a_day(tmp_path: Path, dead_pid: int) -> None:
    path = leftover(tmp_path, "tmp", dead_pid, host="ffffffff")
    yesterday = time.time() - atomic._ABANDONED - 60
    os.utime(path, (yesterday, yesterday))
    assert remove_leftovers(tmp_path) == []
    os.utime(path / "model.pth", (yesterday, yesterday))
    assert remove_leftovers(tmp_path) == ["out"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_a_restarted_container_has_held_comes_back_and_stays_held(tmp_path: Path, dead_pid: int) -> None:
    held = tmp_path / f".checkpoint_2.pth.old-deadbeef-{dead_pid}-0123abcd"
    held.write_text("whole")
    remove_leftovers(tmp_path)
    assert (tmp_path / "checkpoint_2.pth").read_text() == "whole"
    assert held.exists()


def test_a_held_file_comes_back_although_its_process_id_is_somebody_elses_now(tmp_path: Path) -> None:
    held = tmp_path / f".checkpoint_2.pth.old-{atomic._HOST}-{os.getppid()}-0123abcd"
    held.write_text("whole")
    remove_leftovers(tmp_path)
    assert (tmp_path / "checkpoint_2.pth").read_text() == "whole"
    assert held.exists()


def test_an_error_leaves_no_folder_that_was_made_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(OSError, match="full"), whole_directory(tmp_path / "there" / "a" / "b" / "out"):
        raise OSError("full")
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("pid", [10**12, 10**30])
def test_a_process_id_that_cannot_be_is_of_no_running_process(tmp_path: Path, pid: int) -> None:
    leftover(tmp_path, "tmp", pid)
    assert remove_leftovers(tmp_path) == ["out"]


@pytest.mark.parametrize("name", [".git", ".out.tmp", ".out.tmp-1", "out.tmp-00000000-1-0123abcd", ".DS_Store"])
def test_files_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert remove_leftovers(tmp_path) == []
    assert (tmp_path / name).exists()


def test_a_folder_that_does_not_exist_needs_no_cleaning(tmp_path: Path) -> None:
    assert remove_leftovers(tmp_path / "nowhere") == []


# Two writers of one name


@pytest.fixture(params=["in one step", "as elsewhere"])
def way_to_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that replaces nothing, as on Linux, and what stands in for it elsewhere."""
    if request.param == "as elsewhere":
        monkeypatch.setattr(atomic, "_rename", lambda first, second, flag: False)


@pytest.mark.usefixtures("way_to_name")
def test_an_output_that_appears_at_the_last_moment_is_kept(
    tmp_path: Path, publisher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_whole, name = publisher
    move = atomic._move_into_place

    def other_first(temporary: Path, path: Path) -> None:
        monkeypatch.setattr(atomic, "_move_into_place", move)
        with publish_whole(tmp_path / "out") as other:
            fill(other, "the other's")
        move(temporary, path)

    monkeypatch.setattr(atomic, "_move_into_place", other_first)
    with pytest.raises(OutputExistsError, match="out: exists already"), publish_whole(tmp_path / "out") as temporary:
        fill(temporary, "new")
    assert tree(tmp_path) == {name: "the other's"}
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.usefixtures("way_to_name")
def test_a_file_system_without_links_gets_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with whole_file(tmp_path / "out") as temporary:
        fill(temporary, "new")
    assert tree(tmp_path) == {"out": "new"}


RACER = """
import sys, time
from pathlib import Path
from xtts_export_callback.files import atomic
from xtts_export_callback.errors import OutputExistsError
folder, way, name, rounds = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
print("ready", flush=True)
start = float(sys.stdin.readline())
for round in range(rounds):
    target = folder / f"{round}"
    try:
        with (atomic.whole_file if way == "file" else atomic.whole_directory)(target) as temporary:
            (temporary if way == "file" else temporary / "model.pth").write_text(name)
            time.sleep(max(0, start + round * 0.03 - time.time()))
        print(round, flush=True)
    except OutputExistsError:
        pass
"""


@pytest.mark.parametrize("way", ["file", "folder"])
def test_of_many_writers_at_once_the_one_who_is_told_so_has_written_it(tmp_path: Path, way: str) -> None:
    rounds = 20
    racers = []
    for name in "abcd":
        command = [sys.executable, "-c", RACER, str(tmp_path), way, name, str(rounds)]
        racers.append(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
        )
    for racer in racers:
        assert racer.stdout is not None
        racer.stdout.readline()
    start = time.time() + 0.2
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write(f"{start}\n")
        racer.stdin.flush()
    printed = [racer.communicate()[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    told = sorted((int(number), name) for name, numbers in zip("abcd", printed, strict=True) for number in numbers)
    written = [((tmp_path / f"{n}") if way == "file" else tmp_path / f"{n}" / "model.pth") for n in range(rounds)]
    assert told == [(number, path.read_text()) for number, path in enumerate(written)]
    assert len(list(tmp_path.iterdir())) == rounds


@pytest.mark.usefixtures("way_to_replace")
def test_a_folder_that_must_stay_by_the_end_stays(tmp_path: Path) -> None:
    def check(folder: Path) -> None:
        if (folder / "ref.wav").exists():
            raise OutputExistsError("not ours")

    with whole_directory(tmp_path / "out") as temporary:
        fill(temporary, "old")
    with (
        pytest.raises(OutputExistsError, match="not ours"),
        whole_directory(tmp_path / "out", force=True, check=check) as temporary,
    ):
        fill(temporary, "new")
        (tmp_path / "out" / "ref.wav").write_text("mine")
    assert tree(tmp_path) == {"out/model.pth": "old", "out/ref.wav": "mine"}
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.usefixtures("way_to_replace")
@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to(path.parent / "else")], ids=["file", "link"])
def test_force_replaces_nothing_else_that_came_meanwhile(tmp_path: Path, make: Callable[[Path], None]) -> None:
    with pytest.raises(OutputExistsError), whole_directory(tmp_path / "out", force=True) as temporary:
        fill(temporary, "new")
        make(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]  # noqa: PTH208 - a dangling link is listed too


def test_what_another_thread_of_this_process_writes_is_left_alone(tmp_path: Path, publisher: Any) -> None:
    publish_whole, name = publisher
    with publish_whole(tmp_path / "out") as temporary:
        fill(temporary, "new")
        assert remove_leftovers(tmp_path) == []
    assert tree(tmp_path) == {name: "new"}


def test_a_leftover_of_an_earlier_process_of_the_same_number_is_removed(tmp_path: Path) -> None:
    leftover(tmp_path, "tmp", os.getpid())
    assert remove_leftovers(tmp_path) == ["out"]


@pytest.mark.usefixtures("way_to_name")
def test_what_was_set_aside_does_not_replace_a_link_to_a_disk_that_is_not_there(tmp_path: Path, dead_pid: int) -> None:
    held = tmp_path / f".checkpoint_2.pth.old-{atomic._HOST}-{dead_pid}-0123abcd"
    held.write_text("whole")
    (tmp_path / "checkpoint_2.pth").symlink_to("/not/mounted/checkpoint_2.pth")
    assert remove_leftovers(tmp_path) == []
    assert (tmp_path / "checkpoint_2.pth").is_symlink()
    assert held.exists()


@pytest.mark.usefixtures("way_to_name")
def test_a_file_that_was_set_aside_comes_back_under_one_name(tmp_path: Path, dead_pid: int) -> None:
    held = tmp_path / f".checkpoint_2.pth.old-{atomic._HOST}-{dead_pid}-0123abcd"
    held.write_text("whole")
    assert remove_leftovers(tmp_path) == ["checkpoint_2.pth"]
    assert list(tmp_path.iterdir()) == [tmp_path / "checkpoint_2.pth"]
