"""Continuing a run with the callback is continuing it without, and never from a damaged file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.small_decoder import small_decoder
from tests.models.small_xtts import small_state, write_small
from tests.models.trainings import close_trainer_logs, lines_logged_by, make_trainer
from tests.training.test_exporter import exported
from tests.training.test_saving import first, load, same, steps
from xtts_export_callback import ExportConfig, export_callbacks
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.run.checkpoints import find_exports
from xtts_export_callback.training.restore import as_losses, choose_checkpoint

pytestmark = pytest.mark.integration

ON = {"enabled": True}


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What the training log says, of the Trainer and of us."""
    with lines_logged_by("trainer") as lines:
        yield lines


class Killed(BaseException):
    """Ends a training as suddenly as this process allows."""


class Light:
    """Light trainings that are killed at a step and continued."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def killed(self, step: int, export: dict[str, Any] | None = None, **fields: Any) -> Path:
        """Train up to a step, and be gone."""
        from tests.models.light import light_config, light_trainer

        def kill(trainer: Any) -> None:
            if trainer.total_steps_done > step:
                raise Killed

        self._count += 1
        config = light_config(self._folder / f"out{self._count}", export, epochs=4, **fields)
        trainer: Any = light_trainer(config, {"on_train_step_end": kill})
        with pytest.raises(Killed):
            trainer._fit()  # `fit` would tidy up
        for registered in _exporters():
            registered.end()
        return Path(trainer.output_path)

    def continued(self, run: Path, export: dict[str, Any] | None = None, **fields: Any) -> Any:
        """Continue a run to its end and return the Trainer."""
        from tests.models.light import light_config, light_trainer

        config = light_config(run.parent, export, epochs=4, **fields)
        trainer: Any = light_trainer(config, continue_path=str(run))
        trainer.fit()
        return trainer


def _exporters() -> list[Any]:
    from xtts_export_callback.training import hooks

    return [exporter for exporter, *_ in hooks._RUNS.values()]


@pytest.fixture
def light(tmp_path: Path) -> Iterator[Light]:
    yield Light(tmp_path)
    close_trainer_logs()
    shutil.rmtree(tmp_path, ignore_errors=True)


def weights(trainer: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_killed_and_continued_light_run_ends_with_the_same_bits_with_and_without_us(light: Light, step: int) -> None:
    plain = light.continued(light.killed(step))
    ours = light.continued(light.killed(step, ON), ON)
    assert ours.total_steps_done == plain.total_steps_done
    assert same(weights(ours), weights(plain))
    assert same(first(ours.optimizer).state_dict(), first(plain.optimizer).state_dict())


def test_a_killed_and_continued_real_run_has_the_same_bits_with_and_without_us(tiny_config: Callable[..., Any]) -> None:
    """A real GPTTrainer; the optimizer's moments are compared as well."""
    import torch

    found = []
    for export in (ExportConfig(), ExportConfig(**ON)):
        config = tiny_config(epochs=2, save_step=2, export=export)

        def kill(trainer: Any) -> None:
            if trainer.total_steps_done == 4:
                raise Killed

        torch.manual_seed(0)  # the model is drawn before the Trainer sows its own seed
        trainer = make_trainer(config, export_callbacks(config, {"on_train_step_end": kill}))
        with pytest.raises(Killed):
            trainer._fit()
        run = Path(trainer.output_path)
        continued = make_trainer(config, export_callbacks(config), continue_path=str(run))
        continued.fit()
        found.append((continued.total_steps_done, weights(continued), load(run / "checkpoint_6.pth")["optimizer"]))
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])
    assert same(found[0][2], found[1][2])


def test_weights_only_goes_on_at_the_right_step_with_the_right_weights_and_learning_rate(
    light: Light, log: list[str]
) -> None:
    from tests.models.light import light_config, light_trainer

    options = {**ON, "checkpoint_state": "weights"}
    run = light.killed(7, options, save_best_after=100)
    full = light.killed(7, ON, save_best_after=100)
    saved = load(run / "checkpoint_6.pth")
    resumed: Any = light_trainer(light_config(run.parent, options, epochs=4), continue_path=str(run))
    stock: Any = light_trainer(light_config(full.parent, epochs=4), continue_path=str(full))
    # Trainer 0.0.36 takes over `restore_step` only in `fit`.
    assert {trainer.total_steps_done or getattr(trainer, "restore_step", 0) for trainer in (resumed, stock)} == {7}
    assert same(dict(saved["model"]), weights(stock))
    assert same(weights(resumed), weights(stock))
    assert _rates(resumed) == _rates(stock) != [1e-3]
    assert first(resumed.optimizer).state_dict()["state"] == {}
    (line,) = [line for line in log if "holds weights only" in line]
    assert "step 7" in line
    assert "fresh optimizer moments" in line
    for trainer in (resumed, stock):
        trainer.fit()
    assert resumed.total_steps_done == stock.total_steps_done
    assert _rates(resumed) == _rates(stock)  # the schedule has gone on from the same place


def _rates(trainer: Any) -> list[float]:
    return [group["lr"] for group in first(trainer.optimizer).param_groups]


def test_weights_only_can_be_continued_without_us(light: Light) -> None:
    run = light.killed(7, {**ON, "checkpoint_state": "weights"}, save_best_after=100)
    assert light.continued(run).total_steps_done > 7


def test_a_newer_best_model_of_weights_does_not_lose_the_optimizer(light: Light, log: list[str]) -> None:
    options = {**ON, "best_model_state": "weights"}
    run = light.killed(9, options, save_step=3)  # checkpoints 3, 6, 9; best models 4, 8
    (run / "checkpoint_9.pth").unlink()
    best = load(run / "best_model_8.pth")["model_loss"]
    trainer = light.continued(run, options, save_step=3)
    assert [line for line in log if "Model restored from step 6" in line]
    assert [line for line in log if "best_model_8.pth is newer but holds weights only" in line]
    assert trainer.best_loss["eval_loss"] <= best["eval_loss"]


def test_going_back_does_not_forget_how_good_the_best_model_was(light: Light) -> None:
    from tests.models.light import light_config, light_trainer

    options = {**ON, "best_model_state": "weights"}
    run = light.killed(9, options, save_step=3)
    (run / "checkpoint_9.pth").unlink()
    seen: list[Any] = []
    config = light_config(run.parent, options, epochs=4, save_step=3)
    callbacks = {"on_epoch_start": lambda trainer: seen.append(trainer.best_loss)}
    light_trainer(config, callbacks, continue_path=str(run)).fit()
    assert seen[0] == load(run / "best_model_8.pth")["model_loss"] if (run / "best_model_8.pth").exists() else seen


def test_a_best_model_of_weights_is_continued_where_there_is_no_full_checkpoint(light: Light, log: list[str]) -> None:
    options = {**ON, "best_model_state": "weights"}
    run = light.killed(9, options, save_step=100)
    light.continued(run, options, save_step=100)
    assert [line for line in log if "best_model_8.pth holds weights only" in line]


@pytest.mark.parametrize("size", [0, 10, 5000, -1])
def test_a_truncated_newest_checkpoint_is_set_aside_and_the_newest_whole_one_used(
    light: Light, log: list[str], size: int
) -> None:
    run = light.killed(7, ON, save_best_after=100)
    assert steps(run, "checkpoint") == [4, 6]
    newest = run / "checkpoint_6.pth"
    with newest.open("r+b") as file:
        file.truncate(size if size >= 0 else newest.stat().st_size - 1)
    light.continued(run, ON, save_best_after=100)
    assert (run / "damaged_checkpoint_6.pth.broken").is_file()
    assert [line for line in log if "checkpoint_6.pth is damaged" in line]
    assert [line for line in log if "Model restored from step 4" in line]


def test_what_was_set_aside_is_nothing_to_the_trainer(light: Light) -> None:
    from trainer.io import get_last_checkpoint, sort_checkpoints

    run = light.killed(7, ON, save_best_after=100)
    (run / "checkpoint_6.pth").write_bytes(b"PK")
    light.continued(run, ON, save_best_after=100)
    aside = run / "damaged_checkpoint_6.pth.broken"
    assert str(aside) not in get_last_checkpoint(str(run))
    assert str(aside) not in sort_checkpoints(str(run), "checkpoint")


def test_a_run_without_a_whole_checkpoint_is_not_continued(light: Light) -> None:
    run = light.killed(7, ON, save_best_after=100)
    for path in run.glob("*.pth"):
        path.write_bytes(b"PK")
    with pytest.raises(ConfigError, match="no whole checkpoint is left"):
        light.continued(run, ON)


def test_a_run_whose_only_whole_file_is_the_copy_of_the_best_model_is_continued_from_it(light: Light) -> None:
    run = light.killed(9, ON)
    for path in run.glob("*_[0-9]*.pth"):
        path.write_bytes(path.read_bytes()[:1000])
    trainer = light.continued(run, ON)
    assert trainer.args.restore_path == str(run / "best_model.pth")
    assert max(steps(run, "checkpoint")) > 9


def test_a_run_that_was_interrupted_before_its_first_loss_can_be_continued(light: Light) -> None:
    import torch

    run = light.killed(3, ON)
    assert steps(run, "best_model") == []
    path = run / "checkpoint_2.pth"
    torch.save({**load(path), "model_loss": {"train_loss": None, "eval_loss": None}}, path)
    light.continued(run, ON)
    assert steps(run, "best_model")


def _restarts(optimizer: Any) -> Any:
    import torch

    return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=5, T_mult=2)


def _warm_up_then_restarts(optimizer: Any) -> Any:
    import torch

    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=3)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, _restarts(optimizer)], milestones=[3])


@pytest.mark.parametrize("is_rewritten", [False, True], ids=["saved as weights", "rewritten as weights"])
@pytest.mark.parametrize("schedule", [_restarts, _warm_up_then_restarts])
def test_weights_only_keep_the_place_in_a_schedule(schedule: Callable[[Any], Any], is_rewritten: bool) -> None:
    import torch

    from xtts_export_callback.run.lr_schedule import position_in_document, position_of, restore_position

    def fresh() -> tuple[Any, Any]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, schedule(optimizer)

    def position(optimizer: Any, scheduler: Any) -> dict[str, Any]:
        if not is_rewritten:
            return position_of(optimizer, scheduler)
        return position_in_document({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})

    def rates(optimizer: Any, scheduler: Any, count: int) -> list[float]:
        found = []
        for _ in range(count):
            optimizer.step()
            scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found

    first_run, continued = fresh(), fresh()
    rates(*first_run, 8)
    restore_position(position(*first_run), *continued)
    assert rates(*continued, 20) == pytest.approx(rates(*first_run, 20))


def reconfigure(run: Path, **fields: Any) -> None:
    """Change the config that a continued run takes up."""
    config = json.loads((run / "config.json").read_bytes())
    (run / "config.json").write_text(json.dumps({**config, **fields}), encoding="utf-8")


def test_a_best_model_made_up_for_when_continuing_replaces_the_exports_of_older_ones(
    light: Light,
) -> None:
    run = light.killed(9, ON, save_all_best=True)
    assert exported(run, "best_model") == [4, 8]
    (run / "best_model_4.pth").unlink()  # as it would be without save_all_best, and the newer export not yet written
    shutil.rmtree(run / "inference" / "best_model_8")
    reconfigure(run, save_all_best=False, save_best_after=100)
    light.continued(run, ON)
    assert exported(run, "best_model") == [8]


def test_full_checkpoints_of_before_stay_full_where_new_ones_are_weights(light: Light, log: list[str]) -> None:
    fields = {"save_best_after": 100, "save_n_checkpoints": 99}
    run = light.killed(7, ON, **fields)
    reconfigure(run, export={**ON, "checkpoint_state": "weights", "keep_optimizer_for": 1})
    light.continued(run, ON)
    assert load(run / "checkpoint_4.pth")["optimizer"]
    assert [line for line in log if "optimizer state" in line] == []


def test_continuing_makes_up_for_exports_and_best_model_and_removes_leftovers(light: Light) -> None:
    run = light.killed(9, ON)
    shutil.rmtree(run / "inference" / "checkpoint_6")
    (run / "best_model.pth").unlink()
    leftover = run / "inference" / ".checkpoint_6.tmp-00000000-999999999-00000000"
    dead = f".checkpoint_8.pth.tmp-{_host()}-999999999-00000000"
    (run / dead).write_bytes(b"half a file")
    (run / "inference" / dead).write_bytes(b"half a file")
    light.continued(run, ON)
    names = {saved.name for saved in find_exports(run / "inference")}
    assert {path.stem for path in run.glob("checkpoint_*.pth")} <= names
    assert (run / "best_model.pth").exists()
    assert [path for path in (*run.glob(".*"), *(run / "inference").glob(".*")) if path != leftover] == []


def _host() -> str:
    from xtts_export_callback.files import atomic

    return atomic._HOST


@pytest.fixture(scope="module")
def whole() -> bytes:
    """A checkpoint that nothing is wrong with."""
    with small_decoder(), tempfile.TemporaryDirectory() as folder:
        return write_small(Path(folder, "checkpoint_2.pth")).read_bytes()


def two_checkpoints(run: Path, newest: bytes, whole: bytes) -> Path:
    """A run of two checkpoints and a copy of its best model; return the newest."""
    run.mkdir(exist_ok=True)
    for name in ("checkpoint_1.pth", "best_model.pth"):
        (run / name).write_bytes(whole)
    (run / "checkpoint_2.pth").write_bytes(newest)
    return run / "checkpoint_2.pth"


def torch_reads(path: Path) -> bool:
    try:
        load(path)
    except Exception:
        return False
    return True


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Cuts, flipped bytes, blocks of zeros or noise, bytes taken out or put in; anywhere, at the ends more often."""
    kind = draw(st.sampled_from(["cut", "flip", "zeros", "noise", "less", "more", "no directory", "nothing"]))
    edge, offset = draw(st.sampled_from(["start", "end", "anywhere"])), draw(st.integers(0, 5000))
    share, length = draw(st.floats(0, 1)), draw(st.integers(1, 5000))
    noise = draw(st.binary(min_size=1, max_size=50))

    def damage(data: bytes) -> bytes:
        at = {"start": offset, "end": max(len(data) - 1 - offset, 0), "anywhere": int(share * (len(data) - 1))}[edge]
        return {
            "cut": data[:at],
            "flip": data[:at] + bytes([data[at] ^ noise[0]]) + data[at + 1 :],
            "zeros": (data[:at] + bytes(length) + data[at + length :])[: len(data)],
            "noise": (data[:at] + noise + data[at + len(noise) :])[: len(data)],
            "less": data[:at] + data[at + length :],
            "more": data[:at] + noise + data[at:],
            "no directory": data[: data.rfind(b"PK\x01\x02")],
            "nothing": data,
        }[kind]

    return damage


@settings(max_examples=150, deadline=None)
@given(damage=damages())
def test_what_is_set_aside_cannot_be_read_by_torch_and_what_torch_reads_keeps_its_name(
    whole: bytes, damage: Callable[[bytes], bytes]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        newest = two_checkpoints(Path(folder), damage(whole), whole)
        is_readable = torch_reads(newest)
        chosen = choose_checkpoint(newest.parent, newest, may_rename=True)
        assert newest.exists() or not is_readable
        assert chosen.exists()
        assert [path.name for path in newest.parent.glob("*.broken")] in ([], ["damaged_checkpoint_2.pth.broken"])
        assert len(list(newest.parent.iterdir())) == 3


@pytest.mark.parametrize("kind", ["extra state", "element type", "large config"])
def test_what_torch_reads_and_we_do_not_is_left_to_the_trainer(tmp_path: Path, whole: bytes, kind: str) -> None:
    import torch

    state = small_state(2)
    if kind == "extra state":
        state["model"]["xtts.gpt._extra_state"] = {"version": 1}
    elif kind == "element type":
        if not hasattr(torch, "float8_e8m0fnu"):
            pytest.skip("this torch has no type that we do not read")
        state["model"]["xtts.gpt.scale"] = torch.ones(3).to(torch.float8_e8m0fnu)
    else:
        state["config"]["table"] = {str(number): [number] * 3 for number in range(60_000)}
    newest = two_checkpoints(tmp_path, b"", whole)
    torch.save(state, newest)
    assert choose_checkpoint(tmp_path, newest, may_rename=True) == newest
    assert list(tmp_path.glob("*.broken")) == []


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "EMFILE", "EACCES", "ENOMEM", "ETIMEDOUT"])
def test_a_moment_in_which_the_disk_cannot_be_read_renames_nothing(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    newest = two_checkpoints(tmp_path, whole, whole)
    number, real = getattr(errno, name), os.open

    def away(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith(".pth"):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", away)
    assert choose_checkpoint(tmp_path, newest, may_rename=True) == newest
    assert list(tmp_path.glob("*.broken")) == []


def test_a_link_to_a_damaged_checkpoint_is_renamed_and_what_it_leads_to_is_not(tmp_path: Path, whole: bytes) -> None:
    newest = two_checkpoints(tmp_path / "run", b"", whole)
    target = tmp_path / "checkpoint_2.pth"
    target.write_bytes(whole[:1000])
    newest.unlink()
    newest.symlink_to("../checkpoint_2.pth")
    (newest.parent / "damaged_checkpoint_2.pth.broken").symlink_to("nowhere")  # of an earlier time
    assert choose_checkpoint(newest.parent, newest, may_rename=True).name == "checkpoint_1.pth"
    assert target.read_bytes() == whole[:1000]
    links = {path.name: str(path.readlink()) for path in newest.parent.glob("*.broken")}
    assert sorted(links.values()) == ["../checkpoint_2.pth", "nowhere"]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (3, (float("inf"), 3.0)),
        (3.25, (float("inf"), 3.25)),
        ({}, (float("inf"), None)),
        ({"eval_loss": 2.5}, (float("inf"), 2.5)),
        ({"train_loss": 1.5, "eval_loss": None}, (1.5, None)),
        (None, (float("inf"), None)),
    ],
)
def test_a_best_loss_of_any_trainer_can_be_compared_with(loss: Any, expected: tuple[Any, Any]) -> None:
    losses = as_losses(loss, is_evaluated=True)
    assert (losses["train_loss"], losses["eval_loss"]) == expected


@pytest.mark.parametrize("loss", [3.25, 3, {}, "tensor"])
def test_going_back_to_a_run_of_an_older_trainer_trains_to_the_end(light: Light, loss: Any) -> None:
    import torch

    run = light.killed(9, ON, save_step=3)
    path = run / "best_model_8.pth"
    losses = {"train_loss": torch.tensor(3.0), "eval_loss": torch.tensor(3.25)} if loss == "tensor" else loss
    torch.save({**load(path), "model_loss": losses}, path)
    newest = run / "checkpoint_9.pth"
    newest.write_bytes(newest.read_bytes()[:5000])
    assert light.continued(run, ON, save_step=3).total_steps_done > 9
