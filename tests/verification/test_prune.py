"""`xtts-export prune`: what goes, what never goes, and that something verified stays in its place."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.models.command_line import complaint
from tests.models.small_xtts import write_small
from xtts_export_callback import export_checkpoint, inspect_checkpoint, inspect_run, verify_run
from xtts_export_callback.cli.main import main
from xtts_export_callback.verification.prune import prune

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoints 1000 to 3000, the first exported; a best model with its copy."""
    folder = tmp_path / "run"
    for step in (1000, 2000, 3000):
        write_small(folder / f"checkpoint_{step}.pth")
    write_small(folder / "best_model_2500.pth")
    shutil.copy(folder / "best_model_2500.pth", folder / "best_model.pth")
    export_checkpoint(folder / "checkpoint_1000.pth")
    return folder


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def plan(run: Path, **options: int) -> dict[str, str]:
    return {removal.path.name: removal.what for removal in inspect_run(run, **options).removals}


def files(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_the_plan_has_what_can_go_and_nothing_else(run: Path) -> None:
    assert plan(run) == {
        "checkpoint_1000.pth": "checkpoint",
        "checkpoint_2000.pth": "optimizer",
        "best_model.pth": "copy",
    }


def test_the_last_checkpoints_that_the_user_names_stay_as_they_are(run: Path) -> None:
    assert plan(run, keep_last=2) == {"checkpoint_1000.pth": "checkpoint", "best_model.pth": "copy"}
    assert plan(run, keep_last=3) == {"best_model.pth": "copy"}


def test_after_it_the_run_is_whole_and_smaller_by_what_was_said(run: Path) -> None:
    before = inspect_run(run)
    assert main(["prune", str(run), "--yes"]) == 0
    after = inspect_run(run)

    assert verify_run(run).is_fine
    assert not (run / "checkpoint_1000.pth").exists()
    assert inspect_checkpoint(run / "checkpoint_2000.pth").fresh_moments
    assert (run / "best_model.pth").samefile(run / "best_model_2500.pth")
    assert after.removals == ()
    assert before.nbytes - after.nbytes == pytest.approx(before.freeable, rel=0.05)


def test_the_weights_of_every_step_are_still_there(run: Path) -> None:
    weights = torch.load(run / "checkpoint_1000.pth")["model"]
    main(["prune", str(run), "--yes", "-q"])
    left = torch.load(run / "inference" / "checkpoint_1000" / "model.pth")["model"]
    assert all(torch.equal(weights[f"xtts.{name}"], tensor) for name, tensor in left.items())


def test_inspect_names_the_same_files_and_the_command(run: Path, capsys: Capture) -> None:
    main(["inspect", str(run)])
    inspected = capsys.readouterr().out
    main(["prune", str(run), "--dry-run"])
    planned = [line for line in capsys.readouterr().out.splitlines()[1:] if "stays:" not in line]

    assert len(planned) == 3
    assert all(line in inspected for line in planned)
    assert f"`xtts-export prune {run}`" in inspected


def test_a_dry_run_and_a_missing_answer_remove_nothing(run: Path, capsys: Capture) -> None:
    before = files(run)
    assert main(["prune", str(run), "--dry-run"]) == 0
    assert main(["prune", str(run)]) == 2
    captured = capsys.readouterr()
    assert "add --yes to remove" in captured.err
    assert files(run) == before


@pytest.mark.parametrize(("answer", "is_done"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_it_asks(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, answer: str, is_done: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    printed = Terminal()
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    monkeypatch.setattr("sys.stdout", printed)
    assert main(["prune", str(run)]) == 0
    assert "can be freed" in printed.getvalue()
    assert (run / "checkpoint_1000.pth").exists() != is_done


def test_json_has_the_plan_and_what_was_done(run: Path, capsys: Capture) -> None:
    main(["prune", str(run), "--json", "--yes"])
    value = json.loads(capsys.readouterr().out)
    assert [removal["what"] for removal in value["removals"]] == ["checkpoint", "optimizer", "copy"]
    assert len(value["removed"]) == 3
    assert (value["kept"], value["freed_bytes"] > 0) == ([], True)


class TestWhatStays:
    def test_a_checkpoint_whose_export_is_damaged(self, run: Path, capsys: Capture) -> None:
        weights = run / "inference" / "checkpoint_1000" / "model.pth"
        flip_a_bit(weights)
        assert main(["prune", str(run), "--yes"]) == 2
        assert (run / "checkpoint_1000.pth").exists()
        assert "checkpoint_1000.pth stays: its export has faults" in capsys.readouterr().out

    def test_a_checkpoint_that_has_changed_since_its_export(self, run: Path) -> None:
        report = inspect_run(run)
        shutil.copy(run / "checkpoint_2000.pth", run / "checkpoint_1000.pth")
        done = prune(report)
        assert "checkpoint_1000.pth" in {removal.path.name for removal, _ in done.kept}

    def test_a_checkpoint_whose_export_is_less_precise(self, run: Path) -> None:
        export_checkpoint(run / "checkpoint_1000.pth", dtype="float16", force=True)
        assert [each.what for each in inspect_run(run).removals if each.path.stem == "checkpoint_1000"] == [
            "optimizer",
            "export",
        ]

    def test_a_damaged_checkpoint_and_the_one_to_resume_from_in_its_place(self, run: Path) -> None:
        for step in (1000, 2000, 3000):
            export_checkpoint(run / f"checkpoint_{step}.pth")
        os.truncate(run / "checkpoint_3000.pth", 1000)
        (run / "best_model_2500.pth").unlink()
        (run / "best_model.pth").unlink()
        main(["prune", str(run), "--yes"])
        assert {path.name for path in run.glob("*.pth")} == {"checkpoint_2000.pth", "checkpoint_3000.pth"}

    def test_optimizer_state_while_the_newest_checkpoint_is_damaged(self, run: Path) -> None:
        flip_a_bit(run / "checkpoint_3000.pth")
        (run / "best_model_2500.pth").unlink()
        before = (run / "checkpoint_2000.pth").read_bytes()
        assert main(["prune", str(run), "--yes"]) == 2
        assert (run / "checkpoint_2000.pth").read_bytes() == before

    def test_files_of_the_user(self, run: Path) -> None:
        export_checkpoint(run / "checkpoint_1000.pth", dtype="float16", force=True)
        notes = run / "inference" / "checkpoint_1000" / "notes.txt"
        notes.write_text("mine", encoding="utf-8")
        (run / "my_model.pth").write_bytes(b"mine")
        main(["prune", str(run), "--yes"])
        assert notes.exists()
        assert (run / "my_model.pth").read_bytes() == b"mine"

    def test_a_link_s_target(self, run: Path, tmp_path: Path) -> None:
        target = tmp_path / "elsewhere.pth"
        shutil.move(run / "checkpoint_1000.pth", target)
        (run / "checkpoint_1000.pth").symlink_to(target)
        main(["prune", str(run), "--yes"])
        assert target.exists()
        assert (run / "checkpoint_1000.pth").is_symlink()

    def test_best_model_pth_where_the_trainer_would_write_into_it(self, run: Path) -> None:
        (run / "config.json").write_text(json.dumps({"save_all_best": True}), encoding="utf-8")
        assert "best_model.pth" not in plan(run)

    def test_best_model_pth_of_other_content(self, run: Path) -> None:
        report = inspect_run(run)
        other = write_small(run / "other" / "checkpoint_9.pth").read_bytes()
        if len(other) == (run / "best_model.pth").stat().st_size:
            (run / "best_model.pth").write_bytes(other)
            assert "best_model.pth" in {removal.path.name for removal, _ in prune(report).kept}


@pytest.mark.parametrize("arguments", [["{run}/checkpoint_1000.pth"], ["{run}/nothing"], ["{run}", "--keep-last", "0"]])
def test_bad_input_is_one_line(run: Path, capsys: Capture, arguments: list[str]) -> None:
    assert complaint(capsys, "prune", *(word.format(run=run) for word in arguments))
