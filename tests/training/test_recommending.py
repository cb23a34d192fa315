"""The recommended model: chosen when a training ends, which it never disturbs."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.models.trainings import close_trainer_logs, ctrl_c_exit_code, lines_logged_by, start_recipe, train
from tests.training.test_interrupts import TIMEOUT, finish, press_ctrl_c, wait_for
from xtts_export_callback import evaluate_checkpoints, export_callbacks, verify_checkpoint
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.demo.tiny_model import TinyAssets, tiny_trainer_config
from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.evaluation.trainer_config import evaluation_samples, read_trainer_config
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.training import recommending
from xtts_export_callback.training.config import ExportConfig

pytestmark = pytest.mark.integration

PID = "pid_of_the_choice"
# Notes the process that chooses.
NOTE_PID = f"""
import xtts_export_callback.training.recommending as recommending
*start, code = recommending.COMMAND
recommending.COMMAND = (*start, "import os; open('{PID}.new', 'w').write(str(os.getpid())); "
    "os.rename('{PID}.new', '{PID}'); " + code)
"""

RECOMMEND: dict[str, Any] = {"enabled": True, "recommend": True, "average_last": 2}


needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")


def fingerprint(path: Path) -> str | None:
    with open_checkpoint(path) as checkpoint:
        return checkpoint.fingerprint()


def leftovers(run: Path) -> list[str]:
    return [entry.name for entry in (run / "inference").iterdir() if entry.name.startswith(".")]


def recommended(run: Path) -> dict[str, Any]:
    found = read_provenance(run / "inference" / "recommended")
    assert found is not None
    return dict(found["recommended"])


@pytest.fixture(scope="module")
def run(tiny_assets: TinyAssets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A finished training of three checkpoints, whose config names no data set, as the stock recipe's; and its log."""
    output = tmp_path_factory.mktemp("run")
    config = tiny_trainer_config(
        tiny_assets, output, epochs=2, save_step=2, save_best_after=10**6, eval_split_size=7,
        export=ExportConfig(**RECOMMEND),
    )  # fmt: skip
    with lines_logged_by("trainer.xtts_export") as log:
        folder = train(config, export_callbacks(config)).output_path
        lines = list(log)
    close_trainer_logs()
    saved = json.loads((folder / "config.json").read_text())
    (folder / "with_data.json").write_text(json.dumps(saved))
    (folder / "config.json").write_text(json.dumps({**saved, "datasets": [], "trainer_args": {}}))
    yield folder, lines
    shutil.rmtree(output)


def test_the_model_with_the_lowest_loss_is_recommended_with_the_reason(run: tuple[Path, list[str]]) -> None:
    folder, log = run
    found = recommended(folder)
    losses = {name: loss["mean"] for name, loss in found["losses"].items()}

    assert {"average_last_2", "checkpoint_2", "checkpoint_4"} <= {*losses, *_made_of(found)}
    assert found["model"] == min(losses, key=lambda name: losses[name])
    assert found["model"] in found["reason"]
    assert any(f"recommended is {found['model']} (" in line and found["reason"] in line for line in log)


def _made_of(found: dict[str, Any]) -> set[str]:
    """Where the soup is the mean of the last two, it stands in the place of their average."""
    return {"average_last_2"} if found["model"] == "greedy_soup" and len(found["sources"]) == 2 else set()


def test_the_losses_are_those_that_evaluate_gives(run: tuple[Path, list[str]]) -> None:
    folder, _ = run
    model = folder / "inference" / "recommended"
    found = recommended(folder)

    (again,) = evaluate_checkpoints([model], config=folder / "with_data.json", device="cpu").candidates

    assert again.loss is not None
    assert again.loss.mean == pytest.approx(found["losses"][found["model"]]["mean"], abs=1e-6)


def test_the_recommended_folder_is_a_whole_export(run: tuple[Path, list[str]]) -> None:
    folder, _ = run

    assert verify_checkpoint(folder / "inference" / "recommended").is_fine
    assert leftovers(folder) == []


@pytest.fixture
def exports(run: tuple[Path, list[str]], tmp_path: Path) -> Path:
    """A copy of the run without its full checkpoints."""
    folder, _ = run
    shutil.copytree(folder / "inference", tmp_path / "copy" / "inference", copy_function=os.link)
    shutil.copyfile(folder / "with_data.json", tmp_path / "copy" / "config.json")
    return tmp_path / "copy"


def choose_again(run: Path, seconds: float = 600.0) -> dict[str, Any]:
    from xtts_export_callback.evaluation.recommend import recommend

    samples = evaluation_samples(read_trainer_config(run / "config.json"), every=False)
    stored = {"dtype": "float32", "precision": {}, "format": "pth"}
    target = run / "inference" / "recommended"
    return recommend(run, target, samples=samples, stored=stored, seconds=seconds, device="cpu")


def test_the_recommended_model_of_an_earlier_training_is_replaced(exports: Path) -> None:
    before = recommended(exports)
    shutil.rmtree(exports / "inference" / before["model"], ignore_errors=True)
    shutil.copytree(exports / "inference" / "checkpoint_2", exports / "replaced", copy_function=os.link)
    shutil.rmtree(exports / "inference" / "recommended")
    (exports / "replaced").rename(exports / "inference" / "recommended")

    done = choose_again(exports)

    assert done["written"]
    assert recommended(exports)["model"] == done["model"] != "checkpoint_2"
    assert verify_checkpoint(exports / "inference" / "recommended").is_fine


def test_it_stays_where_the_new_checkpoints_are_worse(exports: Path) -> None:
    for folder in (exports / "inference").iterdir():
        if folder.name not in ("recommended", "checkpoint_2"):
            shutil.rmtree(folder)
    before = fingerprint(exports / "inference" / "recommended" / "model.pth")

    done = choose_again(exports)

    assert not done["written"] and done["model"] == "recommended"
    assert fingerprint(exports / "inference" / "recommended" / "model.pth") == before


def test_a_folder_with_files_of_the_user_is_not_replaced(exports: Path) -> None:
    notes = exports / "inference" / "recommended" / "notes.txt"
    notes.write_text("mine")

    with pytest.raises(OutputExistsError, match=r"contains files that this tool did not write.*notes\.txt"):
        choose_again(exports)
    assert notes.read_text() == "mine"


def test_what_the_time_does_not_suffice_for_is_named(exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xtts_export_callback.evaluation import recommend

    shutil.rmtree(exports / "inference" / "recommended")
    ticks = itertools.count()  # one for each batch: 4 of 7 clips make a pass
    monkeypatch.setattr(recommend, "time", SimpleNamespace(monotonic=lambda: next(ticks)))

    done = choose_again(exports, seconds=6)

    assert done["model"] == "average_last_2"
    assert "The time did not suffice for checkpoint_2" in done["reason"]


def test_without_time_nothing_is_recommended(exports: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of \d models was measured within 0 s; measure them with"):
        choose_again(exports, seconds=0)


def test_a_training_without_an_evaluation_split_says_so(light: Callable[..., Path], log: list[str]) -> None:
    run = light(RECOMMEND)

    assert not (run / "inference" / "recommended").exists()
    assert (run / "inference" / "average_last_2").is_dir()
    assert any("no model is recommended: the training has no evaluation split" in line for line in log)


def test_a_failing_evaluation_is_a_line_in_the_log(
    tiny_assets: TinyAssets, tiny_config: Callable[..., Any], tmp_path: Path, log: list[str]
) -> None:
    config = tiny_config(save_step=2, export=ExportConfig(**RECOMMEND))
    dvae = tmp_path / "dvae.pth"
    dvae.symlink_to(tiny_assets.dvae)
    config.model_args.dvae_checkpoint = str(dvae)

    run = train(config, export_callbacks(config, {"on_train_epoch_end": lambda _: dvae.unlink()})).output_path

    assert not (run / "inference" / "recommended").exists()
    assert (run / "inference" / "average_last_2").is_dir()
    assert leftovers(run) == []
    (line,) = [line for line in log if "no model is recommended" in line]
    assert f"model_args.dvae_checkpoint: there is no file {dvae}" in line


def test_a_process_that_dies_is_a_line_in_the_log(
    tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(recommending, "COMMAND", (sys.executable, "-c", code))
    config = tiny_config(save_step=2, export=ExportConfig(**RECOMMEND))

    run = train(config, export_callbacks(config)).output_path

    assert (run / "inference" / "average_last_2").is_dir()
    assert any("no model is recommended: its process ended with exit code -9" in line for line in log)


def test_the_time_limit_is_kept(
    tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    monkeypatch.setattr(recommending, "COMMAND", (sys.executable, "-c", "import time; time.sleep(1000)"))
    monkeypatch.setattr(recommending, "SECONDS", 1.0)
    monkeypatch.setattr(recommending, "GRACE", 1.0)
    config = tiny_config(save_step=2, export=ExportConfig(**RECOMMEND))

    train(config, export_callbacks(config))

    assert any("no model is recommended: it took longer than 2 s and was ended" in line for line in log)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if Path("/proc/self").exists() else True


def written_config(config: Any, path: Path) -> Path:
    path.write_text(json.dumps({**config.to_dict(), "trainer_args": {"grad_accum_steps": 1}}))
    return path


def start_until_it_chooses(config: Any, folder: Path) -> subprocess.Popen[str]:
    """Start a training in a folder, which is the working directory, and wait until a model is being chosen."""
    process = start_recipe(written_config(config, folder / "config.json"), prelude=NOTE_PID)
    wait_for((folder / PID).exists, process)
    return process


@needs_signals
def test_ctrl_c_while_it_is_chosen_ends_training_as_without_it(
    tiny_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config(save_step=2, num_loader_workers=1, export=ExportConfig(**RECOMMEND))
    process = start_until_it_chooses(config, tmp_path)

    os.kill(process.pid, signal.SIGINT)
    output = finish(process)
    (run,) = Path(config.output_path).glob("tiny-*")

    assert process.returncode == 0, output[-3000:]
    assert "no model is recommended: interrupted" in output
    assert (run / "inference" / "average_last_2").is_dir()
    assert not (run / "inference" / "recommended").exists()
    assert leftovers(run) == []
    assert not is_running(int((tmp_path / PID).read_text()))


@needs_signals
def test_a_training_that_is_interrupted_recommends_a_model_too(tiny_config: Callable[..., Any], tmp_path: Path) -> None:
    config = tiny_config(save_step=2, epochs=100, num_loader_workers=1, export=ExportConfig(**RECOMMEND))
    process = start_recipe(written_config(config, tmp_path / "config.json"))
    run = wait_for(lambda: next(Path(config.output_path).glob("tiny-*"), None), process)
    wait_for((run / "inference" / "checkpoint_4").exists, process)

    press_ctrl_c(process, run)
    output = finish(process)

    assert process.returncode == ctrl_c_exit_code(), output[-3000:]
    assert recommended(run)["model"] in recommended(run)["reason"]


@needs_signals
def test_the_process_ends_with_a_training_that_is_killed(
    tiny_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config(save_step=2, num_loader_workers=1, export=ExportConfig(**RECOMMEND))
    process = start_until_it_chooses(config, tmp_path)
    chooser = int((tmp_path / PID).read_text())

    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    deadline = time.monotonic() + TIMEOUT
    while is_running(chooser) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert not is_running(chooser)
