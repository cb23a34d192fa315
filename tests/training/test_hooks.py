"""Where the Trainer saves and what it finds again there: folders that are not what their names look like."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.models.trainings import close_trainer_logs
from tests.training.test_saving import fail, load, steps
from xtts_export_callback.run.checkpoints import find_checkpoints, find_exports
from xtts_export_callback.training import hooks
from xtts_export_callback.training.exporter import Exporter

pytestmark = pytest.mark.integration

ON = {"enabled": True}
LightRun = Callable[..., Path]


def files_in(folder: Path) -> list[str]:
    """The names of all files, less those of caches that other packages make in a home folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.name for path in files if ".cache" not in path.relative_to(folder).parts)


@pytest.fixture
def elsewhere(light: LightRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A function that trains in a folder of its own, which is home and working directory, and returns the files."""

    def train(name: str, output_path: str, export: dict[str, Any]) -> list[str]:
        here = tmp_path / name
        here.mkdir()
        monkeypatch.chdir(here)
        monkeypatch.setenv("HOME", str(here))
        monkeypatch.setenv("USERPROFILE", str(here))
        light(export, output_path=output_path.format(here=here.as_posix()))
        return files_in(here)

    return train


# The Trainer writes through fsspec, to which these are `here / "runs"`.
ELSEWHERE = ["file://{here}/runs", "local://{here}/runs", "~/runs"]


@pytest.mark.parametrize("output_path", ELSEWHERE)
def test_exports_lie_beside_the_checkpoints_wherever_the_trainer_saves_on_this_disk(
    elsewhere: Callable[..., list[str]], output_path: str, tmp_path: Path
) -> None:
    plain = elsewhere("plain", "runs", {**ON, "average_last": 2})

    assert elsewhere("elsewhere", output_path, {**ON, "average_last": 2}) == plain

    (run,) = (tmp_path / "elsewhere" / "runs").iterdir()
    assert (run / "checkpoint_6.pth").is_file()
    assert (run / "inference" / "average_last_2" / "model.pth").is_file()


@pytest.mark.parametrize("output_path", ["memory://runs", "s3://bucket/runs"])
def test_one_line_says_where_exports_go_if_the_output_path_is_the_url_of_another_place(
    elsewhere: Callable[..., list[str]], log: list[str], output_path: str
) -> None:
    """The Trainer makes a folder of this disk of the URL since its version 0.2."""
    try:
        stock = elsewhere("without", output_path, {})
    except ImportError:
        pytest.skip("this Trainer takes the path for a bucket, and fsspec lacks what reads one")
    is_local = "checkpoint_6.pth" in stock
    del log[:]

    there = elsewhere("with", output_path, ON)

    said = (
        "takes the URL in output_path for a folder of this disk" if is_local else "exports need a folder of this disk"
    )
    assert len([line for line in log if said in line]) == 1
    assert ("export.json" in there) == is_local


@pytest.mark.parametrize("output_path", ["runs", "./runs", "s3://bucket/runs"])
def test_a_local_folder_is_exported_to_however_its_name_looks(
    elsewhere: Callable[..., list[str]], output_path: str
) -> None:
    """The Trainer makes a folder ``s3:`` of the bucket."""
    try:
        elsewhere("without", output_path, {})
    except ImportError:
        pytest.skip("this Trainer takes the path for a bucket, and fsspec lacks what reads one")
    assert {"checkpoint_6.pth", "model.pth", "export.json"} <= set(elsewhere("with", output_path, ON))


def test_a_run_that_starts_from_the_url_of_a_checkpoint_is_exported(
    light: LightRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.models.light import light_config, light_trainer

    monkeypatch.setenv("TTS_HOME", str(tmp_path / "cache"))  # where the Trainer keeps what it has downloaded
    source = f"file://{(light() / 'checkpoint_6.pth').as_posix()}"
    trainer: Any = light_trainer(light_config(tmp_path / "second", ON), restore_path=source)
    trainer.fit()
    run = Path(trainer.output_path)
    exported = {saved.step for saved in find_exports(run / "inference")}
    # Trainer 0.0.36 counts on from the step of the checkpoint, later ones from 0.
    assert {saved.step for saved in find_checkpoints(run)} < exported
    assert len(exported) >= 4


PATTERNS = ["voice [12]", "voice ?"]
needs_odd_names = pytest.mark.skipif(sys.platform == "win32", reason="names that Windows does not allow")


@needs_odd_names
@pytest.mark.parametrize("name", PATTERNS)
def test_a_run_whose_name_is_a_pattern_keeps_the_same_files_as_any_other(light: LightRun, name: str) -> None:
    run = light(ON, run_name=name, epochs=3)
    assert sorted(path.name for path in run.glob("*.pth")) == [
        *("best_model.pth", "best_model_12.pth", "checkpoint_10.pth", "checkpoint_8.pth")
    ]
    assert load(run / "best_model.pth")["step"] == 12


@needs_odd_names
@pytest.mark.parametrize("name", PATTERNS)
def test_a_run_whose_name_is_a_pattern_removes_nothing_of_the_runs_that_match_it(tmp_path: Path, name: str) -> None:
    from tests.models.light import light_config, light_trainer

    files = ["best_model_1.pth", "checkpoint_1.pth", "checkpoint_2.pth", "checkpoint_3.pth"]
    others: list[Path] = []

    def make_neighbour(trainer: Any) -> None:
        run = Path(trainer.output_path)
        others.append(run.with_name(run.name.replace("[12]", "1").replace("?", "1")))
        others[0].mkdir()
        for file in files:
            (others[0] / file).touch()

    light_trainer(light_config(tmp_path / "out", ON, run_name=name), {"on_init_end": make_neighbour}).fit()
    close_trainer_logs()
    assert files_in(others[0]) == files


@needs_odd_names
@pytest.mark.parametrize("name", PATTERNS)
def test_training_that_ends_with_an_error_keeps_the_checkpoints_of_a_run_whose_name_is_a_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from tests.models.light import light_config, light_trainer

    monkeypatch.setattr(Exporter, "export", lambda *args, **options: None)  # exports alone would keep it as well

    def end(trainer: Any) -> None:
        if trainer.total_steps_done == 5:
            fail()

    config = light_config(tmp_path / "out", ON, run_name=name, save_best_after=100)
    trainer: Any = light_trainer(config, {"on_train_step_end": end})
    with pytest.raises(SystemExit):
        trainer.fit()
    close_trainer_logs()
    assert steps(Path(trainer.output_path), "checkpoint") == [2, 4]


def test_a_line_at_the_start_says_that_the_folder_holds_another_training(
    tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.models.light import light_run

    monkeypatch.setattr("trainer.trainer.get_experiment_folder_path", lambda root, _: Path(root) / "same-minute")
    light_run(tmp_path, {"enabled": True}, epochs=1)
    assert [line for line in log if "earlier training" in line] == []
    run = light_run(tmp_path, {"enabled": True}, epochs=1)
    (line,) = [line for line in log if "earlier training" in line]
    assert line.startswith(f" ! EXPORT : {run}: holds checkpoints of an earlier training")
    light_run(tmp_path, {"enabled": True}, run=run, epochs=2)
    assert [line for line in log if "earlier training" in line] == [line]


@needs_odd_names
def test_a_line_at_the_start_says_that_the_trainer_will_not_find_a_run_whose_name_is_a_pattern(
    log: list[str], tmp_path: Path
) -> None:
    from tests.models.light import light_config, light_trainer

    light_trainer(light_config(tmp_path / "out", ON, run_name="voice [2]"))
    close_trainer_logs()
    (line,) = log
    assert "will not find the run again" in line
    assert "Rename the folder" in line


def test_a_run_is_kept_when_it_cannot_be_searched_for_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.models.light import light_config, light_trainer

    def end(trainer: Any) -> None:
        if trainer.total_steps_done == 5:
            monkeypatch.setattr(hooks, "holds_anything", fail)
            for path in Path(trainer.output_path).glob("*.pth"):
                path.unlink()
            fail()

    trainer: Any = light_trainer(light_config(tmp_path / "out", ON), {"on_train_step_end": end})
    with pytest.raises(SystemExit):
        trainer.fit()
    close_trainer_logs()
    assert find_exports(Path(trainer.output_path) / "inference")
