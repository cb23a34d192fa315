"""The mean of the weights over every step, and their exponential moving average, in training and afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.light import light_config, light_trainer
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.run.running_mean import parse_steps, steps_of, windows_between
from xtts_export_callback.training.config import ExportConfig
from xtts_export_callback.training.running_mean import RunningMean

NAME = "gpt.mel_head.weight"
MEAN = {"enabled": True, "running_mean": "mean", "running_mean_every": 1, "export_best": False}


class Seen:
    """The weights after each update of the optimizer, in float64, and the steps at which checkpoints were saved."""

    def __init__(self) -> None:
        self.weights: list[Any] = []
        self.saved: dict[int, int] = {}  # updates by step

    def watch(self, trainer: Any) -> None:
        parameter = dict(trainer.model.named_parameters())[f"xtts.{NAME}"]
        optimizer = trainer.optimizer[0] if isinstance(trainer.optimizer, list) else trainer.optimizer
        optimizer.register_step_post_hook(lambda *_: self.weights.append(parameter.detach().double().numpy().copy()))
        save = trainer.save_checkpoint

        def noted() -> None:
            self.saved[trainer.total_steps_done] = len(self.weights)
            save()

        trainer.save_checkpoint = noted


def trained(output: Path, export: dict[str, Any], **fields: Any) -> tuple[Path, Seen]:
    seen = Seen()
    trainer = light_trainer(light_config(output, export, **fields), {"on_init_end": seen.watch})
    trainer.fit()
    return Path(trainer.output_path), seen


def exported(folder: Path) -> Any:
    with open_checkpoint(folder) as checkpoint:
        return checkpoint.tensors[NAME].read().copy()


def assert_rounded_once(found: Any, expected: Any) -> None:
    """Half a unit in the last place of float32, and what float64 itself may lose."""
    half = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64) / 2
    assert (np.abs(found.astype(np.float64) - expected) <= half * (1 + 1e-6)).all()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """A run of 8 steps with checkpoints at 2, 4 and 6, all kept, and the best model at 8."""
    return trained(tmp_path_factory.mktemp("mean"), MEAN, save_n_checkpoints=9)


@pytest.mark.integration
def test_each_checkpoint_has_the_mean_of_all_steps_since_the_one_before(run: tuple[Path, Seen]) -> None:
    folder, seen = run
    ends = [0, *seen.saved.values()]
    assert list(seen.saved) == [2, 4, 6]
    for step, start, end in zip(seen.saved, ends, ends[1:], strict=False):
        found = exported(folder / "inference" / f"running_mean_{step}")
        assert_rounded_once(found, np.mean(seen.weights[start:end], axis=0))


@pytest.mark.integration
def test_what_is_not_trained_is_bit_for_bit_that_of_the_checkpoint(run: tuple[Path, Seen]) -> None:
    folder, _ = run
    inference = folder / "inference"
    with open_checkpoint(inference / "running_mean_4") as mean, open_checkpoint(inference / "checkpoint_4") as plain:
        untrained = [name for name in plain.tensors if not name.startswith("gpt.")]
        assert list(mean.tensors) == list(plain.tensors)
        assert all((mean.tensors[name].read() == plain.tensors[name].read()).all() for name in untrained)
        assert mean.document["model_loss"] is None


@pytest.mark.integration
def test_windows_combine_exactly(run: tuple[Path, Seen], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, seen = run
    code = main(
        ["average", str(folder), "--running-mean", "--steps", "2:6", "--output", str(tmp_path / "out"), "--json"]
    )
    printed = json.loads(capsys.readouterr().out)

    assert code == 0
    assert_rounded_once(exported(tmp_path / "out"), np.mean(seen.weights[seen.saved[2] : seen.saved[6]], axis=0))
    windows = printed["provenance"]["rules"]["windows"]
    assert [(one["first"], one["last"]) for one in windows] == [(2, 4), (4, 6)]


@pytest.mark.integration
def test_all_windows_up_to_the_last_save_are_the_default(
    run: tuple[Path, Seen], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, seen = run
    assert main(["average", str(folder), "--running-mean"]) == 0
    output = folder / "inference" / "running_mean_0_8"
    assert_rounded_once(exported(output), np.mean(seen.weights, axis=0))
    assert f"{output}: mean of 8 updates, steps 0 to 8, verified" in capsys.readouterr().out


@pytest.mark.integration
@pytest.mark.parametrize("steps", ["1:6", "0:5", "4:2", "two", "8:"])
def test_steps_without_windows_are_refused_in_one_line(
    run: tuple[Path, Seen], steps: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["average", str(run[0]), "--running-mean", "--steps", steps]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("xtts-export: ")
    assert "expected" in line


@pytest.mark.integration
def test_an_ema_halves_the_weight_of_a_step_after_its_half_life(tmp_path: Path) -> None:
    options = {**MEAN, "running_mean": "ema", "running_mean_half_life": 2}
    folder, seen = trained(tmp_path, options, save_n_checkpoints=9)
    average = seen.weights[0]
    for weights in seen.weights[1 : seen.saved[6]]:
        average = average * 0.5**0.5 + weights * (1 - 0.5**0.5)
    assert_rounded_once(exported(folder / "inference" / "running_mean_6"), average)


@pytest.mark.integration
def test_sums_and_exports_go_with_the_checkpoints_and_keep_last(tmp_path: Path) -> None:
    folder, _ = trained(tmp_path, {**MEAN, "keep_last": 1}, epochs=4)
    checkpoints = sorted(int(path.stem.split("_")[1]) for path in folder.glob("checkpoint_*.pth"))
    best = [int(path.stem.split("_")[2]) for path in folder.glob("best_model_*.pth")]
    assert steps_of(folder) == [*checkpoints, *best]
    means = [path.name for path in (folder / "inference").iterdir() if path.name.startswith("running_mean")]
    assert means == [f"running_mean_{checkpoints[-1]}"]


@pytest.mark.integration
def test_training_is_the_same_with_it_and_its_loss_is_logged_beside_the_models(tmp_path: Path, log: list[str]) -> None:
    with_it = {**MEAN, "evaluate_running_mean": True}
    ends = []
    for number, export in enumerate(({**MEAN, "running_mean": "off"}, with_it)):
        torch.manual_seed(0)
        seen = trained(tmp_path / str(number), export, save_step=100, save_best_after=1000)[1]
        ends.append(seen.weights[-1])
    assert (ends[0] == ends[1]).all()
    lines = [line for line in log if "evaluation loss of the running mean" in line]
    assert len(lines) == 2
    assert all(float(line.split(": ")[2].split()[0]) > 0 for line in lines)


@pytest.mark.integration
def test_a_sum_that_cannot_be_written_is_a_line_in_the_log_and_training_goes_on(
    tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xtts_export_callback.training.running_mean.write_pth", full)
    folder, _ = trained(tmp_path, MEAN)
    assert (folder / "inference" / "checkpoint_6" / "model.pth").is_file()
    assert [line for line in log if "the running mean of step 2 was not saved: OSError" in line]


# Interruptions, on a model of a few numbers: its optimizer makes the sequence of weights that a test asks for.


class Sequence:
    """A training of one parameter whose weights are given."""

    def __init__(self, run: Path, options: ExportConfig, *, step: int = 0) -> None:
        self.model = torch.nn.ModuleDict({"gpt": torch.nn.ParameterDict({"x": torch.nn.Parameter(torch.zeros(3))})})
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        args = SimpleNamespace(continue_path=str(run) if step else "")
        self.mean = RunningMean(run, options)
        self.mean.start(
            SimpleNamespace(
                model=self.model, optimizer=self.optimizer, args=args, total_steps_done=step, grad_accum_steps=1
            )
        )

    def update(self, weights: Any) -> None:
        (parameter,) = self.model.parameters()
        with torch.no_grad():
            parameter.copy_(torch.tensor(weights))
        parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()


EVENTS = st.lists(
    st.tuples(
        st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), st.sampled_from(["", "checkpoint", "best_model"])
    ),
    min_size=2,
    max_size=12,
)


@settings(max_examples=40)
@given(EVENTS, st.integers(1, 11), st.sampled_from(["mean", "ema"]), st.integers(1, 3))
def test_killed_and_resumed_it_is_bit_for_bit_the_same(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[list[float], str]], killed: int, way: str, every: int
) -> None:
    options = ExportConfig(running_mean=way, running_mean_every=every, running_mean_half_life=3)
    events = [*events, ([0.5] * 3, "checkpoint")]
    runs = [tmp_path_factory.mktemp("run") for _ in range(2)]

    def go(training: Sequence, steps: range) -> None:
        for step in steps:
            weights, saves = events[step - 1]
            training.update(weights)
            if saves:
                training.mean.save(saves, step)

    go(Sequence(runs[0], options), range(1, len(events) + 1))
    killed = min(killed, len(events))
    go(Sequence(runs[1], options), range(1, killed + 1))
    resumed = max((step for step in range(1, killed + 1) if events[step - 1][1]), default=0)
    go(Sequence(runs[1], options, step=resumed), range(resumed + 1, len(events) + 1))

    assert steps_of(runs[0]) == steps_of(runs[1])
    for step in steps_of(runs[0]):
        files = [run / "running_mean" / f"step_{step}.pth" for run in runs]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_after_accumulated_gradients_only_steps_of_the_optimizer_count(tmp_path: Path) -> None:
    training = Sequence(tmp_path, ExportConfig(running_mean="mean", running_mean_every=1))
    for value in (1.0, 2.0):
        training.update([value] * 3)
    training.mean.save("checkpoint", 8)
    (window,) = windows_between(tmp_path, None, None)
    assert (window.first, window.last, window.updates) == (0, 8, 2)


def test_a_run_without_the_sums_of_its_checkpoint_starts_anew_and_says_so(tmp_path: Path, log: list[str]) -> None:
    training = Sequence(tmp_path, ExportConfig(running_mean="ema", running_mean_every=1), step=5)
    training.update([1.0] * 3)
    training.mean.save("checkpoint", 6)
    (window,) = windows_between(tmp_path, None, None)
    assert window.updates == 1
    assert [line for line in log if "no running mean of step 5" in line]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("running_mean", "average"),
        ("running_mean_every", 0),
        ("running_mean_half_life", 0),
        ("evaluate_running_mean", 1),
    ],
)
def test_a_value_that_an_option_cannot_take_is_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"export.{option} is"):
        ExportConfig(**{option: value})


@pytest.mark.parametrize(
    ("text", "steps"), [(":", (None, None)), ("3:", (3, None)), (":9", (None, 9)), ("3:9", (3, 9))]
)
def test_steps_are_read_as_from_and_to(text: str, steps: tuple[int | None, int | None]) -> None:
    assert parse_steps(text) == steps


@pytest.mark.integration
def test_provenance_names_the_checkpoint_and_the_window(run: tuple[Path, Seen]) -> None:
    found = read_provenance(run[0] / "inference" / "running_mean_4")
    assert found is not None
    assert found["kind"] == "running_mean"
    assert found["sources"][0]["name"] == "checkpoint_4.pth"
    assert found["rules"]["windows"] == [{"last": 4, "first": 2, "updates": 2, "way": "mean"}]
