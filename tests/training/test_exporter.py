"""What becomes of the exports of a run when something fails beside them."""

from __future__ import annotations

import _thread
import errno
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.models.small_xtts import write_small
from tests.training.test_background import refuse_thread
from tests.training.test_saving import steps
from xtts_export_callback.inference_folder.ownership import folder_bytes
from xtts_export_callback.run.checkpoints import Saved, find_exports
from xtts_export_callback.run.retention import exports_bytes
from xtts_export_callback.training import exporter as exporter_module
from xtts_export_callback.training import saving, worker_client
from xtts_export_callback.training.config import ExportConfig
from xtts_export_callback.training.dashboard import Dashboard
from xtts_export_callback.training.exporter import Exporter
from xtts_export_callback.training.retention import ExportRetention
from xtts_export_callback.training.worker_client import Helper, HelperError

pytestmark = pytest.mark.integration

ON = {"enabled": True}
LightRun = Callable[..., Path]


def exported(run: Path, kind: str = "checkpoint") -> list[int]:
    return [saved.step for saved in find_exports(run / "inference") if saved.kind == kind]


def fail_task(monkeypatch: pytest.MonkeyPatch, task: str, times: int, target: str = "") -> None:
    """Have the helper fail at a task, as with a full disk."""
    perform = Helper.perform
    failures = [0]

    def failing(self: Helper, name: str, **arguments: Any) -> dict[str, Any]:
        if name == task and str(arguments.get("target", "")).endswith(target) and failures[0] < times:
            failures[0] += 1
            message = "no space left\non the device"
            raise HelperError(message)
        return perform(self, name, **arguments)

    monkeypatch.setattr(Helper, "perform", failing)


def test_an_average_that_fails_leaves_its_inputs(
    light: LightRun,
    log: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_task(monkeypatch, "average", 9)
    run = light({**ON, "keep_last": 1, "average_last": 3}, epochs=2, save_n_checkpoints=1, save_best_after=100)
    assert exported(run) == [2, 4, 6]
    assert [line for line in log if "the average was not written: no space left on the device" in line]


def test_the_budget_holds_with_the_average(light: LightRun) -> None:
    one = folder_bytes(light({**ON, "export_best": False}, epochs=1) / "inference" / "checkpoint_2")
    limit = 2.7 * one
    run = light({**ON, "export_best": False, "max_disk_gb": limit / 1e9, "average_last": 2}, epochs=2)
    assert (run / "inference" / "average_last_2").is_dir()
    assert exports_bytes(run / "inference") <= limit


def test_a_failing_look_at_the_budget_costs_no_export(light: LightRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("xtts_export_callback.run.retention.prune_to", fail)
    run = light({**ON, "max_disk_gb": 1.0}, save_best_after=100)
    assert exported(run) == [2, 4, 6]
    assert list((run / "inference").glob(".*")) == []


def test_an_unreadable_run_folder_at_the_end_does_not_end_training(
    light: LightRun,
    log: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stale(run: Path) -> list[Saved]:
        raise OSError(errno.ESTALE, "Stale file handle")

    finish = Exporter.finish

    def finish_without_a_look(self: Exporter, trainer: Any) -> None:
        monkeypatch.setattr(exporter_module, "find_checkpoints", stale)
        finish(self, trainer)

    monkeypatch.setattr(Exporter, "finish", finish_without_a_look)
    light(ON)  # ends without an error
    assert [line for line in log if "missing exports were not looked for" in line]


def test_a_made_up_export_of_a_best_model_replaces_the_older_ones(
    light: LightRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_task(monkeypatch, "export", 1, target="best_model_8")
    run = light(ON, epochs=2)
    assert steps(run, "best_model") == [8]
    assert exported(run, "best_model") == [8]


def test_optimizers_are_dropped_although_exports_fail(light: LightRun, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_task(monkeypatch, "export", 99)
    run = light({**ON, "keep_optimizer_for": 1}, save_best_after=100, save_n_checkpoints=5)
    states = [torch.load(run / f"checkpoint_{step}.pth", weights_only=True)["optimizer"] for step in (2, 4, 6)]
    assert [bool(state) for state in states] == [False, False, True]


def test_weights_alone_have_no_optimizer_to_drop(light: LightRun, log: list[str]) -> None:
    light({**ON, "keep_optimizer_for": 1, "checkpoint_state": "weights"})
    assert [line for line in log if "optimizer" in line] == []


@pytest.mark.parametrize("name", ["xtts-export", "xtts-export-sync"])
def test_a_thread_that_cannot_be_started_neither_ends_nor_holds_up_training(
    light: LightRun,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    refused = refuse_thread(monkeypatch, name)
    run = light(ON, save_best_after=100)
    assert refused
    assert exported(run) == [2, 4, 6] or exported(run) == [4, 6]
    assert list((run / "inference").glob(".*")) == []


def test_the_first_save_of_a_continued_run_holds_what_it_was_continued_from(tmp_path: Path) -> None:
    from tests.models.light import light_config, light_run, light_trainer
    from tests.models.trainings import close_trainer_logs

    run = light_run(tmp_path / "out", ON, save_n_checkpoints=1, save_best_after=100)
    trainer: Any = light_trainer(light_config(tmp_path / "out", ON, save_n_checkpoints=1), continue_path=str(run))
    synced = threading.Event()
    sync = saving.sync_file

    def slow(path: Path) -> None:
        synced.wait(60)
        sync(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "sync_file", slow)
        trainer.total_steps_done = 10
        trainer.save_checkpoint()
        held = [path.name.partition(".old-")[0] for path in run.glob(".*.old-*")]
        synced.set()
        trainer.callbacks.on_keyboard_interrupt(trainer)
    close_trainer_logs()
    assert held == [".checkpoint_6.pth"]
    assert list(run.glob(".*")) == []


def test_every_sync_is_waited_for_although_a_later_one_is_done_first(tmp_path: Path) -> None:
    from tests.models.light import light_config, light_trainer
    from tests.models.trainings import close_trainer_logs

    trainer: Any = light_trainer(light_config(tmp_path / "out", ON))
    sync = saving.sync_file
    gate = threading.Event()

    def second_first(path: Path) -> None:
        if path.name == "checkpoint_4.pth":
            gate.wait(60)
        sync(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving, "sync_file", second_first)
        for step in (2, 4, 6):
            trainer.total_steps_done = step
            trainer.save_checkpoint()
        threading.Timer(0.5, gate.set).start()
        trainer.callbacks.on_keyboard_interrupt(trainer)
    close_trainer_logs()
    assert list(Path(trainer.output_path).glob(".*")) == []


def test_a_free_space_that_is_not_known_stops_no_save(light: LightRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(folder: Path) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(saving, "free_bytes", unknown)
    assert steps(light(ON, save_best_after=100), "checkpoint") == [4, 6]


# A helper that hangs, at the end of the training

HANGS = """
import os, signal
from xtts_export_callback.training import worker
def stop(**arguments):
    os.kill(os.getpid(), signal.SIGSTOP)
worker.TASKS.update(export=stop, drop_optimizer=stop)
worker.main()
"""


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper that hangs at every export."""
    if sys.platform == "win32":
        pytest.skip("signals of POSIX systems")
    monkeypatch.setattr(worker_client, "COMMAND", (sys.executable, "-c", HANGS))


@pytest.mark.usefixtures("hanging")
def test_training_ends_although_the_helper_hangs(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_client, "GIVEN_UP_AFTER", 1.0)
    run = light({**ON, "average_last": 2, "keep_optimizer_for": 1}, save_best_after=100)
    assert steps(run, "checkpoint") == [4, 6]
    assert exported(run) == []
    assert [line for line in log if "no progress for 1 s" in line]
    assert list((run / "inference").glob(".*")) == []


@pytest.mark.usefixtures("hanging")
def test_the_end_of_the_training_gives_a_helper_up_once(
    tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_client, "GIVEN_UP_AFTER", 1.0)
    exporter = small_exporter(tmp_path / "run", 1, 2, 3, average_last=2, keep_optimizer_for=1)
    exporter.finish()
    exporter.end()
    assert len([line for line in log if "no progress" in line]) == 1
    for step in (1, 2, 3):
        assert len([line for line in log if f"checkpoint_{step} was not exported" in line]) == 1
    assert list((tmp_path / "run" / "inference").iterdir()) == []


@pytest.mark.usefixtures("hanging")
def test_one_ctrl_c_ends_the_wait_for_a_helper_that_hangs(tmp_path: Path, log: list[str]) -> None:
    from tests.models.light import light_config, light_trainer
    from tests.models.trainings import close_trainer_logs

    trainer: Any = light_trainer(light_config(tmp_path / "out", ON))
    trainer.total_steps_done = 2
    trainer.save_checkpoint()
    trainer.epochs_done = trainer.config.epochs - 1
    threading.Timer(0.5, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        trainer.callbacks.on_epoch_end(trainer)
    trainer.total_steps_done = 3
    trainer.save_checkpoint()  # what the Trainer does next
    trainer.callbacks.on_keyboard_interrupt(trainer)
    close_trainer_logs()
    assert [line for line in log if "no progress" in line] == []
    assert len([line for line in log if "checkpoint_3 was not exported" in line]) == 1
    assert list(Path(trainer.output_path).rglob(".*")) == []


def small_exporter(run: Path, *numbers: int, **options: Any) -> Exporter:
    """The exporter of a run with small checkpoints, which are queued."""
    config = ExportConfig(enabled=True, **options)
    exporter = Exporter(run, config, Dashboard(SimpleNamespace(dashboard_logger=None)), ExportRetention(run, config))
    for step in numbers:
        path = write_small(run / f"checkpoint_{step}.pth")
        exporter.export(Saved(step, "checkpoint", path))
    return exporter


def test_a_checkpoint_behind_a_relative_link_is_exported(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_small(run / "checkpoint_2.pth")
    (tmp_path / "big").mkdir()
    (run / "checkpoint_2.pth").rename(tmp_path / "big" / "checkpoint_2.pth")
    (run / "checkpoint_2.pth").symlink_to("../big/checkpoint_2.pth")
    exporter = small_exporter(run)
    exporter.export(Saved(2, "checkpoint", run / "checkpoint_2.pth"))
    exporter.end()
    assert exported(run) == [2]
    assert list((run / "inference").glob(".*")) == []
