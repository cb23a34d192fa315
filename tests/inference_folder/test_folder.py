"""Whose an inference folder is, who may read it, and what becomes of two writers of one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.small_xtts import small_state, write_small
from tests.models.trainings import lines_logged_by
from xtts_export_callback import average_checkpoints, export_checkpoint
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import OutputExistsError
from xtts_export_callback.files import atomic
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.inference_folder.ownership import not_ours
from xtts_export_callback.run.checkpoints import holds_anything
from xtts_export_callback.run.retention import prune_exports, prune_to, remove_export
from xtts_export_callback.training.worker import copy, drop_optimizer

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes of POSIX systems")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Two checkpoints, and an umask that leaves everybody everything."""
    umask = os.umask(0)
    for step in (1, 2):
        write_small(tmp_path / "run" / f"checkpoint_{step}.pth")
    yield tmp_path / "run"
    os.umask(umask)


@pytest.fixture
def folder(run: Path) -> Path:
    return export_checkpoint(run / "checkpoint_1.pth").path


def a_file_of_others(folder: Path) -> None:
    (folder / "ref.wav").write_bytes(b"the only recording")


def a_folder_under_a_name_of_ours(folder: Path) -> None:
    (folder / "dvae.pth").mkdir()
    (folder / "dvae.pth" / "notes.txt").write_text("important")


def a_file_under_a_name_of_ours(folder: Path) -> None:
    (folder / "speakers_xtts.pth").write_bytes(b"the user's own voices")


def an_edited_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "temperature": 0.2}))


def other_weights(folder: Path) -> None:
    state = small_state(7)
    del state["optimizer"]
    write_small(folder / "model.pth", state).with_name("vocab.json").write_bytes(
        (folder.parents[1] / "vocab.json").read_bytes()
    )


def weights_nobody_can_read(folder: Path) -> None:
    (folder / "model.pth").write_bytes(b"something else")


def a_link_to_a_file(folder: Path) -> None:
    (folder / "vocab.json").replace(folder.parents[1] / "moved.json")
    (folder / "vocab.json").symlink_to("../../moved.json")


def a_link_to_the_folder(folder: Path) -> None:
    folder.rename(folder.parents[1] / "moved")
    folder.symlink_to("../moved")


CHANGES: list[Callable[[Path], None]] = [
    a_file_of_others,
    a_folder_under_a_name_of_ours,
    a_file_under_a_name_of_ours,
    an_edited_config,
    other_weights,
    weights_nobody_can_read,
    a_link_to_a_file,
    a_link_to_the_folder,
]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, through links; nothing hidden."""
    names = [*folder.rglob("*"), *(path for path in folder.iterdir() if path.is_dir())]
    files = [path for path in names if path.is_file()] + [path for entry in names for path in entry.glob("*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture(params=CHANGES, ids=lambda change: change.__name__)
def changed(request: pytest.FixtureRequest, folder: Path) -> Path:
    """An export to which something was done since it was written."""
    request.param(folder)
    return folder


def test_retention_leaves_a_folder_that_is_not_wholly_ours(changed: Path, run: Path) -> None:
    export_checkpoint(run / "checkpoint_2.pth")
    before = contents(run)
    assert prune_exports(run / "inference", 1) == []
    assert contents(run) == before


def test_the_budget_leaves_a_folder_that_is_not_wholly_ours(changed: Path, run: Path) -> None:
    export_checkpoint(run / "checkpoint_2.pth")
    before = contents(run)
    assert prune_to(run / "inference", 0) == []
    assert contents(run) == before


def test_force_refuses_a_folder_that_is_not_wholly_ours(changed: Path, run: Path) -> None:
    before = contents(run)
    with pytest.raises(OutputExistsError):
        export_checkpoint(run / "checkpoint_1.pth", changed, force=True)
    assert contents(run) == before


def test_what_came_while_the_new_one_was_written_is_not_replaced(folder: Path, run: Path) -> None:
    def meanwhile(nbytes: int) -> None:
        a_file_of_others(folder)

    with pytest.raises(OutputExistsError, match=r"checkpoint_1: contains files that this tool did not write.*ref\.wav"):
        export_checkpoint(run / "checkpoint_2.pth", folder, force=True, progress=meanwhile)
    assert (folder / "ref.wav").read_bytes() == b"the only recording"
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint_1"]


def test_what_comes_while_an_export_is_removed_brings_it_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def at_the_last_moment(self: Path, target: Path) -> Path:
        if self == folder:
            a_file_of_others(self)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", at_the_last_moment)
    assert not remove_export(folder)
    assert (folder / "ref.wav").exists()


def test_a_folder_that_stays_is_named_once(folder: Path) -> None:
    a_file_of_others(folder)
    with lines_logged_by("trainer.xtts_export") as lines:
        for _ in range(2):
            remove_export(folder)
    assert [line for line in lines if "ref.wav" in line and "not removed" in line] == lines
    assert len(lines) == 1


def test_an_export_as_it_was_written_is_removed(folder: Path) -> None:
    assert remove_export(folder)
    assert list(folder.parent.iterdir()) == []


def test_an_export_that_lacks_files_is_still_ours(folder: Path) -> None:
    (folder / "vocab.json").unlink()
    assert not_ours(folder) == []


def test_a_hidden_folder_of_the_users_outlives_the_removal_beside_it(folder: Path) -> None:
    hidden = folder.with_name(f".{folder.name}.removed")
    hidden.mkdir()
    a_file_of_others(hidden)
    remove_export(folder)
    assert (hidden / "ref.wav").exists()


def test_a_folder_of_exports_with_a_file_of_the_users_is_worth_keeping(tmp_path: Path) -> None:
    assert not holds_anything(tmp_path)
    (tmp_path / "ref.wav").touch()
    assert holds_anything(tmp_path)


# Modes


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in folder.iterdir()}


@posix
@pytest.mark.parametrize(
    ("mode", "umask", "file", "directory"),
    [
        (0o600, 0, 0o600, 0o700),
        (0o640, 0, 0o640, 0o750),
        (0o664, 0, 0o664, 0o775),
        (0o444, 0, 0o444, 0o755),
        (0o666, 0o027, 0o640, 0o750),
    ],
)
def test_an_export_has_the_mode_of_its_source_narrowed_by_the_umask(
    run: Path, mode: int, umask: int, file: int, directory: int
) -> None:
    (run / "checkpoint_1.pth").chmod(mode)
    os.umask(umask)
    folder = export_checkpoint(run / "checkpoint_1.pth").path
    assert (modes(folder), folder.stat().st_mode & 0o777) == ({file}, directory)


@posix
def test_an_average_may_be_read_by_those_who_may_read_every_source(run: Path) -> None:
    (run / "checkpoint_1.pth").chmod(0o640)
    (run / "checkpoint_2.pth").chmod(0o604)
    folder = average_checkpoints([run / "checkpoint_1.pth", run / "checkpoint_2.pth"], run / "mean").path
    assert (modes(folder), folder.stat().st_mode & 0o777) == ({0o600}, 0o700)


@posix
def test_what_is_half_written_is_no_more_readable_than_the_result(run: Path) -> None:
    (run / "checkpoint_1.pth").chmod(0o600)
    seen: set[int] = set()

    def look(nbytes: int) -> None:
        for path in (run / "inference").rglob("*"):
            seen.add(path.stat().st_mode & 0o077)

    export_checkpoint(run / "checkpoint_1.pth", progress=look)
    assert seen == {0}


@posix
def test_private_voices_stay_private_in_the_export_of_a_public_checkpoint(run: Path) -> None:
    voice = {"gpt_cond_latent": torch.zeros(1, 2, 8), "speaker_embedding": torch.zeros(1, 4, 1)}
    torch.save({"Anna": voice}, run / "speakers_xtts.pth")
    (run / "speakers_xtts.pth").chmod(0o600)
    folder = export_checkpoint(run / "checkpoint_1.pth").path
    assert (folder / "speakers_xtts.pth").stat().st_mode & 0o777 == 0o600


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_checkpoint_rewritten_without_its_optimizer_keeps_mode_and_owner(run: Path, mode: int) -> None:
    path = run / "checkpoint_1.pth"
    path.chmod(mode)
    if os.getuid() == 0:
        os.chown(path, 1234, 2345)
    before = path.stat()
    os.umask(0o077)
    assert drop_optimizer(run=str(run), keep=1)["names"] == [path.name]
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@posix
def test_the_copy_of_a_best_model_has_its_mode(run: Path) -> None:
    (run / "checkpoint_1.pth").chmod(0o640)
    copy(source=str(run / "checkpoint_1.pth"), target=str(run / "best_model.pth"))
    assert (run / "best_model.pth").stat().st_mode & 0o777 == 0o640


@posix
def test_a_rewritten_checkpoint_is_private_until_it_is_whole(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[int] = []
    init = RandomFile.__init__

    def note(self: RandomFile, path: Path, **options: Any) -> None:
        init(self, path, **options)
        if options.get("create"):
            created.append(path.stat().st_mode & 0o777)

    monkeypatch.setattr(RandomFile, "__init__", note)
    drop_optimizer(run=str(run), keep=1)
    assert created == [0o600]


def test_a_checkpoint_behind_a_link_keeps_its_optimizer(run: Path) -> None:
    (run / "checkpoint_1.pth").rename(run.parent / "elsewhere.pth")
    (run / "checkpoint_1.pth").symlink_to("../elsewhere.pth")
    before = (run.parent / "elsewhere.pth").read_bytes()
    assert drop_optimizer(run=str(run), keep=1)["names"] == []
    assert (run / "checkpoint_1.pth").is_symlink()
    assert (run.parent / "elsewhere.pth").read_bytes() == before


def test_a_checkpoint_with_values_that_are_not_read_keeps_its_optimizer(run: Path) -> None:
    path = run / "checkpoint_1.pth"
    torch.save({**torch.load(path), "model": {**torch.load(path)["model"], "_extra_state": {"version": 1}}}, path)
    before = path.read_bytes()
    assert drop_optimizer(run=str(run), keep=1)["names"] == []
    assert path.read_bytes() == before


def test_a_checkpoint_with_samples_and_extra_state_is_exported(run: Path) -> None:
    path = run / "checkpoint_1.pth"
    state = torch.load(path)
    state["model"]["xtts._extra_state"] = {"version": 1}
    state["train_samples"] = [{"text": f"{number}", "audio_file": "a.wav", "speaker": "a"} for number in range(60_000)]
    torch.save(state, path)
    with open_checkpoint(export_checkpoint(path).path) as exported:
        expected = sorted(name.removeprefix("xtts.") for name in state["model"] if name.startswith("xtts."))
        assert sorted(exported.tensors) == [name for name in expected if name != "_extra_state"]


# Two at once


@pytest.fixture
def other_first(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """A function that has something done between the last look at an output and the moment it gets its name."""
    move = atomic._move_into_place

    def arrange(action: Callable[[], object]) -> None:
        def moved(temporary: Path, path: Path) -> None:
            if temporary.is_dir():
                monkeypatch.setattr(atomic, "_move_into_place", move)
                action()
            move(temporary, path)

        monkeypatch.setattr(atomic, "_move_into_place", moved)

    return arrange


def test_the_later_of_two_exports_of_one_checkpoint_finds_it_done(
    run: Path, other_first: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = run / "checkpoint_1.pth"
    other_first(lambda: export_checkpoint(checkpoint))
    assert main(["export", str(checkpoint)]) == 0
    assert "skipped" in capsys.readouterr().out
    assert [path.name for path in (run / "inference").iterdir()] == ["checkpoint_1"]


def test_the_later_of_two_different_exports_is_refused(run: Path, other_first: Any) -> None:
    out = run / "out"
    other_first(lambda: export_checkpoint(run / "checkpoint_1.pth", out))
    with pytest.raises(OutputExistsError):
        export_checkpoint(run / "checkpoint_2.pth", out)
    assert json.loads((out / "export.json").read_text())["sources"][0]["name"] == "checkpoint_1.pth"
