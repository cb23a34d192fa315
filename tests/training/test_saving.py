"""What the Trainer's own saves leave on the disk, with every option, under the real Trainer and a light model."""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from tests.models.trainings import close_trainer_logs, ctrl_c_exit_code
from tests.training.test_background import refuse_thread
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.run.checkpoints import Saved, find_checkpoints, find_exports
from xtts_export_callback.run.lr_schedule import RESUME_KEY
from xtts_export_callback.run.retention import exports_bytes, remove_export
from xtts_export_callback.training import callback, hooks, saving, trainer_state
from xtts_export_callback.training.best_model_copy import Shortcut
from xtts_export_callback.training.callback import ExportCallback
from xtts_export_callback.training.config import ExportConfig
from xtts_export_callback.training.dashboard import Dashboard
from xtts_export_callback.training.exporter import Exporter
from xtts_export_callback.training.retention import ExportRetention
from xtts_export_callback.training.terminate import SaveOnTerminate

pytestmark = pytest.mark.integration

ON = {"enabled": True}
LightRun = Callable[..., Path]


def load(path: Path) -> dict[str, Any]:
    import torch

    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def first(value: Any) -> Any:
    """Trainer 0.3 keeps one optimizer where 0.4 keeps a list."""
    return value[0] if isinstance(value, list) else value


def without_state(saved: dict[str, Any]) -> bool:
    """Whether a checkpoint holds nothing to go on with; trainer 0.0.36 saves no scheduler at all."""
    return (saved["optimizer"], saved.get("scheduler", []), saved["scaler"]) == ([], [], None)


def steps(run: Path, kind: str) -> list[int]:
    return [saved.step for saved in find_checkpoints(run) if saved.kind == kind]


def same(one: Any, other: Any) -> bool:
    import torch

    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_full_files_are_what_the_trainer_saves_without_us(light: LightRun) -> None:
    with_us, without = light(ON), light()
    assert sorted(path.name for path in with_us.glob("*.pth")) == sorted(path.name for path in without.glob("*.pth"))
    for path in without.glob("*.pth"):
        ours, stock = load(with_us / path.name), load(path)
        del ours["config"], stock["config"]
        assert same(ours, stock), path.name


def fail_half_way(monkeypatch: pytest.MonkeyPatch, step: int, error: Exception, times: int = 1) -> list[int]:
    """Have saves of one step write half a file and fail. Returns the steps that were tried."""
    import torch

    write = torch.save
    tried: list[int] = []

    def save(state: dict[str, Any], file: Any, **options: Any) -> None:
        tried.append(state["step"])
        if state["step"] == step and tried.count(step) <= times:
            file.write(b"PK half a file")
            file.flush()
            raise error
        write(state, file, **options)

    monkeypatch.setattr(torch, "save", save)
    return tried


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    ],
    ids=["no space", "disk error", "torch's own words"],
)
def test_a_save_that_fails_leaves_nothing_and_the_older_checkpoint_and_training_goes_on(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail_half_way(monkeypatch, 4, error, times=9)
    run = light(ON, save_n_checkpoints=1, save_best_after=100)
    assert steps(run, "checkpoint") == [6]
    assert [path.name for path in run.glob(".*")] == []
    (line,) = [line for line in log if "was not saved" in line]
    assert "checkpoint_4.pth" in line
    assert "training goes on" in line
    assert "checkpoint_state" in line


def test_retention_does_not_run_when_the_save_before_it_failed(
    light: LightRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_half_way(monkeypatch, 6, OSError(errno.ENOSPC, "No space left on device"), times=9)
    run = light(ON, save_n_checkpoints=1, save_best_after=100)
    assert steps(run, "checkpoint") == [4]


def test_a_best_model_that_could_not_be_saved_is_no_best_model(
    light: LightRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_half_way(monkeypatch, 4, OSError(errno.ENOSPC, "No space left on device"), times=9)
    run = light(ON, save_step=100)
    assert steps(run, "best_model") == [8]


def test_an_error_that_is_not_the_disks_still_ends_training(light: LightRun, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_half_way(monkeypatch, 4, TypeError("cannot pickle this"))
    with pytest.raises(SystemExit):
        light(ON)


class InterruptedFile(io.FileIO):
    """Ctrl-C comes with the third write."""

    writes = 0

    def write(self, data: Any) -> int:
        self.writes += 1
        if self.writes == 3:
            raise KeyboardInterrupt
        return super().write(data)


def test_ctrl_c_in_the_middle_of_a_save_is_heard_although_torch_reports_a_half_written_file(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    def end(code: int) -> NoReturn:
        raise SystemExit(code)

    write = torch.save
    interrupted: list[int] = []

    def save(state: dict[str, Any], file: Any, **options: Any) -> None:
        if state["step"] == 4 and not interrupted:
            interrupted.append(4)
            with InterruptedFile(tmp_path / "half.pth", "wb") as half:
                write(state, half, **options)
        write(state, file, **options)

    monkeypatch.setattr(torch, "save", save)
    monkeypatch.setattr("os._exit", end)  # how the Trainer ends after Ctrl-C
    with pytest.raises(SystemExit) as ended:
        light(ON, save_best_after=100)
    (run,) = tmp_path.glob("out0/light-*")
    assert interrupted
    assert ended.value.code == ctrl_c_exit_code()
    assert steps(run, "checkpoint") == [2, 4]
    assert {saved.step for saved in find_exports(run / "inference")} == {2, 4}
    assert [line for line in log if " ! EXPORT" in line] == []


def test_ctrl_c_in_the_middle_of_a_best_save_says_that_there_is_no_file_of_that_name(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    def end(code: int) -> NoReturn:
        raise SystemExit(code)

    write = torch.save
    interrupted: list[str] = []

    def save(state: dict[str, Any], file: Any, **options: Any) -> None:
        name = str(getattr(file, "name", file))
        if "best_model" in name and not interrupted:
            interrupted.append(name)
            raise KeyboardInterrupt
        write(state, file, **options)

    monkeypatch.setattr(torch, "save", save)
    monkeypatch.setattr("os._exit", end)
    with pytest.raises(SystemExit):
        light(ON, save_best_after=0)
    (run,) = tmp_path.glob("out0/light-*")
    assert interrupted
    (line,) = [line for line in log if "was not saved: interrupted" in line]
    assert line.startswith(" ! EXPORT : best_model_")
    assert not list(run.glob("best_model_*.pth"))
    assert list(run.glob("checkpoint_*.pth"))


def test_a_full_disk_at_the_save_that_ctrl_c_causes_is_no_second_ctrl_c(
    log: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.models.light import light_config, light_trainer

    fail_half_way(monkeypatch, 0, OSError(errno.ENOSPC, "No space left on device"))
    trainer: Any = light_trainer(light_config(tmp_path / "out", ON))
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        trainer.save_checkpoint()
    close_trainer_logs()
    assert "checkpoint_0.pth was not saved" in "".join(log)


def test_a_save_without_space_is_tried_again_when_exports_may_make_room(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = fail_half_way(monkeypatch, 6, OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr("xtts_export_callback.files.disk.free_bytes", lambda folder: 0)
    export = Exporter.export

    def export_and_wait(self: Exporter, saved: Any, **options: Any) -> None:
        export(self, saved, **options)
        self.wait()

    monkeypatch.setattr(Exporter, "export", export_and_wait)
    run = light({**ON, "max_disk_gb": 1}, save_best_after=100)
    assert tried.count(6) == 2
    assert 6 in steps(run, "checkpoint")
    assert [line for line in log if "removed to make room" in line]
    assert find_exports(run / "inference")


def test_a_warning_comes_one_save_before_the_disk_is_full(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "free_bytes", lambda folder: 60_000)
    monkeypatch.setattr(saving, "state_bytes", lambda state: 40_000)
    light(ON, save_best_after=100, epochs=1)
    assert [line for line in log if "this save fits, the next one will not" in line and "Free space" in line]


def test_weights_only_checkpoints_hold_everything_but_optimizer_scheduler_and_scaler(light: LightRun) -> None:
    full = light(ON)
    run = light({**ON, "checkpoint_state": "weights"})
    ours, stock = load(run / "checkpoint_6.pth"), load(full / "checkpoint_6.pth")
    assert without_state(ours)
    position = ours.pop(RESUME_KEY)
    assert position["learning_rates"] == [[first(stock["optimizer"])["param_groups"][0]["lr"]]]
    if "scheduler" in stock:
        assert position["schedule"][0]["last_epoch"] == first(stock["scheduler"])["last_epoch"]
    for key in ("model", "step", "epoch", "model_loss"):
        assert same(ours[key], stock[key])
    assert [key for key in ours if key in stock] == list(stock)
    assert set(ours) - set(stock) <= {"scheduler"}  # trainer 0.0.36 saves none
    assert (run / "checkpoint_6.pth").stat().st_size < 0.7 * (full / "checkpoint_6.pth").stat().st_size
    assert load(run / "best_model_8.pth")["optimizer"]


def test_weights_only_best_models_leave_checkpoints_full(light: LightRun) -> None:
    run = light({**ON, "best_model_state": "weights"})
    assert load(run / "best_model_8.pth")["optimizer"] == []
    assert load(run / "best_model.pth")["optimizer"] == []
    assert load(run / "checkpoint_6.pth")["optimizer"]


def test_only_the_newest_checkpoints_keep_their_optimizer(light: LightRun, log: list[str]) -> None:
    run = light({**ON, "keep_optimizer_for": 1}, save_n_checkpoints=3, epochs=3)
    full = light(ON, save_n_checkpoints=3, epochs=3)
    assert steps(run, "checkpoint") == steps(full, "checkpoint") == [6, 8, 10]
    assert load(run / "checkpoint_10.pth")["optimizer"]
    for step in (6, 8):
        ours, stock = load(run / f"checkpoint_{step}.pth"), load(full / f"checkpoint_{step}.pth")
        assert without_state(ours)
        assert ours[RESUME_KEY]["learning_rates"] == [[first(stock["optimizer"])["param_groups"][0]["lr"]]]
        if "scheduler" in stock:
            assert ours[RESUME_KEY]["schedule"][0]["last_epoch"] == first(stock["scheduler"])["last_epoch"]
        assert same(dict(ours["model"]), dict(stock["model"]))
        assert ours["model_loss"] == stock["model_loss"]
    assert [line for line in log if "optimizer state dropped from" in line]


def test_optimizers_stay_when_the_newest_checkpoint_is_damaged(light: LightRun) -> None:
    from xtts_export_callback.training import worker

    run = light(ON)
    newest = run / "checkpoint_6.pth"
    content = bytearray(newest.read_bytes())
    with open_checkpoint(newest) as checkpoint:
        moment = first(checkpoint.document["optimizer"])["state"][0]["exp_avg"].read().tobytes()
    content[bytes(content).index(moment)] ^= 1
    newest.write_bytes(content)
    answer = worker.perform({"task": "drop_optimizer", "run": str(run), "keep": 1})
    assert not answer["ok"]
    assert "checkpoint_6.pth" in answer["error"]
    assert load(run / "checkpoint_4.pth")["optimizer"]


def test_the_best_model_is_a_copy_by_default(light: LightRun) -> None:
    run = light(ON)
    best, shortcut = run / "best_model_8.pth", run / "best_model.pth"
    assert shortcut.read_bytes() == best.read_bytes()
    assert not shortcut.samefile(best)


def test_a_linked_best_model_costs_no_second_copy(light: LightRun) -> None:
    run = light({**ON, "link_best_model": True})
    assert (run / "best_model.pth").samefile(run / "best_model_8.pth")


@pytest.mark.parametrize("link", [False, True])
def test_older_best_models_outlive_newer_ones_with_save_all_best(light: LightRun, link: bool) -> None:
    run = light({**ON, "link_best_model": link}, save_all_best=True, epochs=3)
    assert steps(run, "best_model") == [4, 8, 12]
    for step in (4, 8, 12):
        assert load(run / f"best_model_{step}.pth")["step"] == step
    # Without us, with save_all_best, the Trainer writes into what is there.
    assert [step for step in (4, 8, 12) if (run / f"best_model_{step}.pth").samefile(run / "best_model.pth")] == []
    assert load(run / "best_model.pth")["step"] == 12


def test_exports_honour_their_budget_oldest_first(light: LightRun) -> None:
    everything = light(ON, epochs=3)
    size = max(exports_bytes(everything / "inference") / len(find_exports(everything / "inference")), 1)
    run = light({**ON, "max_disk_gb": 2.5 * size / 1e9}, epochs=3)
    exports = find_exports(run / "inference")
    assert exports_bytes(run / "inference") <= 2.5 * size
    assert {saved.step for saved in exports} == {10, 12}


def test_a_budget_too_small_for_one_export_still_keeps_one(light: LightRun) -> None:
    run = light({**ON, "max_disk_gb": 1e-9}, epochs=2)
    assert len(find_exports(run / "inference")) == 1


def exporter_of(run: Path, **options: Any) -> Exporter:
    """The exporter of a run that has ended."""
    config = ExportConfig(enabled=True, **options)
    return Exporter(run, config, Dashboard(SimpleNamespace(dashboard_logger=None)), ExportRetention(run, config))


def exported(run: Path) -> list[int]:
    return [saved.step for saved in find_exports(run / "inference") if saved.kind == "checkpoint"]


def test_an_export_just_written_stays_although_a_run_that_went_back_has_newer_ones(light: LightRun) -> None:
    run = light(ON, save_n_checkpoints=9, save_best_after=100)
    exporter = exporter_of(run, keep_last=1)
    exporter.export(Saved(4, "checkpoint", run / "checkpoint_4.pth"))
    exporter.end()
    assert exported(run) == [4, 6]


def test_an_export_made_up_for_is_one_too_many_once_the_average_is_written(light: LightRun) -> None:
    run = light(ON, save_n_checkpoints=9, save_best_after=100)
    remove_export(run / "inference" / "checkpoint_4")
    exporter = exporter_of(run, keep_last=1, average_last=3)
    exporter.finish()
    exporter.end()
    assert (run / "inference" / "average_last_3").is_dir()
    assert exported(run) == [6]


def test_what_is_not_an_export_of_ours_is_never_pruned(light: LightRun, tmp_path: Path) -> None:
    from xtts_export_callback.run.retention import prune_to

    run = light(ON)
    users = run / "inference" / "checkpoint_1"
    users.mkdir()
    (users / "model.pth").write_bytes(bytes(1000))
    prune_to(run / "inference", 0)
    assert (users / "model.pth").stat().st_size == 1000
    assert len(find_exports(run / "inference")) == 1


def test_a_copy_that_cannot_be_queued_leaves_a_link_and_training_goes_on(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_thread(monkeypatch, "xtts-export")
    run = light(ON, save_step=100, epochs=1)
    assert (run / "best_model.pth").samefile(run / "best_model_4.pth")
    assert [line for line in log if "best_model.pth was not copied: RuntimeError: can't start new thread" in line]


def test_training_that_ends_with_an_error_waits_until_its_saves_are_on_the_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tests.models.light import light_config, light_trainer

    sync, end, gate = saving.sync_file, Exporter.end, threading.Event()

    def slow(path: Path) -> None:
        if path.name == "checkpoint_4.pth":
            gate.wait(60)
        sync(path)

    def end_before_the_sync(exporter: Exporter) -> None:
        end(exporter)
        threading.Timer(0.5, gate.set).start()

    def fail(trainer: Any) -> None:
        if trainer.total_steps_done == 5:
            message = "the training script's own error"
            raise ValueError(message)

    monkeypatch.setattr(saving, "sync_file", slow)
    monkeypatch.setattr(Exporter, "end", end_before_the_sync)
    config = light_config(tmp_path / "out", ON, save_best_after=100)
    trainer: Any = light_trainer(config, {"on_train_step_end": fail})
    with pytest.raises(SystemExit):
        trainer.fit()
    close_trainer_logs()
    assert steps(Path(trainer.output_path), "checkpoint") == [2, 4]
    assert list(Path(trainer.output_path).glob(".*")) == []


def test_ctrl_c_while_the_writing_functions_are_exchanged_leaves_them_the_trainers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from trainer import io as trainer_io

    class Interrupting:
        def copy(self) -> None: ...

        def __setattr__(self, name: str, value: Any) -> NoReturn:
            raise KeyboardInterrupt

    monkeypatch.setattr("fsspec.get_mapper", lambda run: SimpleNamespace(fs=Interrupting()))
    trainer = SimpleNamespace(output_path=tmp_path, dashboard_logger=SimpleNamespace())
    saves = saving.TrainerSaves(trainer, ExportConfig(), copy_later=lambda source, target: None)
    original = trainer_io.save_fsspec
    monkeypatch.setattr(trainer_io, "save_fsspec", original)  # undone also where this fails
    with pytest.raises(KeyboardInterrupt), saves.whole():
        pytest.fail("the block was entered")
    assert trainer_io.save_fsspec is original


def test_where_there_are_no_links_the_trainers_retention_waits(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Any, target: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(source))

    monkeypatch.setattr("os.link", refuse)
    run = light(ON, save_n_checkpoints=1, epochs=3)
    assert {saved.step for saved in find_exports(run / "inference") if saved.kind == "checkpoint"} == {2, 4, 6, 8, 10}
    assert [line for line in log if " ! EXPORT" in line] == []


def remembering_dashboard() -> Any:
    """A dashboard logger that keeps what it is given."""
    from trainer.logging import DummyLogger

    class Remembering(DummyLogger):
        def __init__(self) -> None:
            self.texts: dict[str, str] = {}
            self.scalars: list[tuple[str, dict[str, float], int]] = []

        def add_text(self, title: str, text: str, step: int) -> None:
            self.texts[title] = text

        def add_scalars(self, scope_name: str, scalars: dict[str, float], step: int) -> None:
            self.scalars.append((scope_name, scalars, step))

    return Remembering()


def test_the_dashboard_shows_options_every_export_and_the_disk(tmp_path: Path, log: list[str]) -> None:
    from tests.models.light import light_config, light_trainer

    dashboard = remembering_dashboard()
    config = light_config(tmp_path / "out", {**ON, "checkpoint_state": "weights"}, epochs=1)
    light_trainer(config, dashboard=dashboard).fit()
    close_trainer_logs()
    assert "| checkpoint_state | weights |" in dashboard.texts["xtts-export"]
    noted = {step: scalars for scope, scalars, step in dashboard.scalars if scope == "Export" and "seconds" in scalars}
    assert set(noted) == {2, 4}
    assert all(scalars["seconds"] > 0 and scalars["megabytes"] > 0 for scalars in noted.values())
    (disk,) = [scalars for _, scalars, _ in dashboard.scalars if "stock_disk_gigabytes" in scalars]
    assert disk["disk_gigabytes"] > 0
    lines = [line for line in log if line.startswith(" > EXPORT : ") and "training waited" in line]
    assert len(lines) == 2
    (summary,) = [line for line in log if "stock recipe" in line]
    assert "the run takes" in summary


def test_tensorboard_gets_a_card_on_its_page_of_hyper_parameters(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from trainer.logging.tensorboard_logger import TensorboardLogger

    from tests.models.light import light_config, light_trainer

    config = light_config(tmp_path / "out", ON, epochs=1)
    dashboard = TensorboardLogger(str(tmp_path / "board"), "light")
    light_trainer(config, dashboard=dashboard).fit()
    close_trainer_logs()
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert "hparams" in events.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name
    assert {"Export/seconds", "Export/megabytes", "Export/training_waited_seconds"} <= set(events.Tags()["scalars"])


def fail(*args: Any, **options: Any) -> NoReturn:
    message = "this was not expected"
    raise RuntimeError(message)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (saving, "state_bytes"),
        (saving, "weights_only"),
        (trainer_state, "position_of"),
        (hooks, "_exchange_writing"),
        (hooks, "_exchange"),
        (saving.TrainerSaves, "_hold"),
        (saving.TrainerSaves, "_newest"),
        (saving.TrainerSaves, "_sync_later"),
        (saving.TrainerSaves, "_warn_of_lack"),
        (saving, "find_checkpoints"),
        (saving.TrainerSaves, "wait"),
        (Shortcut, "make"),
        (Exporter, "before_save"),
        (Exporter, "_hold"),
        (Exporter, "finish"),
        (Exporter, "end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unexpected_error_of_ours_ends_no_save_and_no_training(
    light: LightRun, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    monkeypatch.setattr(owner, name, fail)
    run = light({**ON, "checkpoint_state": "weights"})
    assert steps(run, "checkpoint") == [4, 6]
    assert steps(run, "best_model") == [8]
    assert all(load(path)["model"] for path in run.glob("*.pth"))


EVENTS = ["on_init_end", "on_epoch_start", "on_train_step_end", "on_epoch_end", "on_keyboard_interrupt"]


@pytest.mark.parametrize("event", EVENTS)
def test_an_unexpected_error_of_ours_in_an_event_is_a_line_in_the_log(
    log: list[str], monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    exports = ExportCallback(ExportConfig(enabled=True))
    heard: list[Any] = []
    monkeypatch.setattr(ExportCallback, "_is_active", property(fail))
    exports._has_started = True
    exports._terminate = SaveOnTerminate(lambda: None)
    trainer: Any = SimpleNamespace()  # has nothing that an event could ask it for
    exports.as_callbacks({event: heard.append})[event](trainer)
    assert heard == [trainer]
    (line,) = log
    assert line.startswith(f" ! EXPORT : {event} was not finished: ")


def test_an_unexpected_error_of_ours_at_the_start_leaves_a_training_as_without_us(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = light()
    monkeypatch.setattr(callback, "protect_from_removal", fail)
    run = light(ON)
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in stock.iterdir())
    complaints = [line for line in log if line.startswith(" ! ")]
    assert complaints == [" ! EXPORT : training goes on without exports: RuntimeError: this was not expected"]


def test_a_checkpoint_keeps_its_optimizer_state_where_it_cannot_be_left_out(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_state, "position_of", fail)
    run = light({**ON, "checkpoint_state": "weights"}, save_best_after=100)
    assert load(run / "checkpoint_6.pth")["optimizer"]
    assert [line for line in log if "checkpoint_6.pth keeps its optimizer state: RuntimeError" in line]


def test_a_failing_look_for_room_leaves_the_error_of_the_save(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_half_way(monkeypatch, 4, OSError(errno.ENOSPC, "No space left on device"), times=9)
    monkeypatch.setattr(ExportRetention, "make_room", fail)
    run = light(ON, save_best_after=100)
    assert steps(run, "checkpoint") == [2, 6]
    assert [line for line in log if "checkpoint_4.pth was not saved: No space left on device" in line]


def test_a_file_system_that_cannot_sync_costs_no_checkpoint(
    light: LightRun, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> NoReturn:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("os.fsync", refuse)
    monkeypatch.setattr("os.link", refuse)
    run = light(ON)
    assert steps(run, "checkpoint") == [4, 6]
    assert [line for line in log if "was not saved" in line] == []


def test_where_files_cannot_be_synced_no_older_ones_pile_up_for_it(
    light: LightRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> NoReturn:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("os.fsync", refuse)
    assert list(light(ON).glob(".*")) == []
