"""The evaluation loss of models of a real run, and what is named instead of being half-done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.models.command_line import complaint
from tests.models.trainings import close_trainer_logs, train
from xtts_export_callback import average_checkpoints, evaluate_checkpoints, export_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.demo.tiny_model import TinyAssets, tiny_trainer_config
from xtts_export_callback.evaluation import evaluate
from xtts_export_callback.evaluation.results import Evaluation, read_evaluation

pytestmark = pytest.mark.integration


class Run(NamedTuple):
    """A run with a checkpoint, a best model, an export of it and an average, and what evaluating all of it found."""

    folder: Path
    best: Path
    evaluation: Evaluation


@pytest.fixture(scope="module")
def run(tiny_assets: TinyAssets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    output = tmp_path_factory.mktemp("run")
    config = tiny_trainer_config(
        tiny_assets, output, epochs=2, save_step=2, save_best_after=0, save_n_checkpoints=1, eval_split_size=7
    )
    folder = train(config).output_path
    close_trainer_logs()
    (best,) = folder.glob("best_model_*.pth")
    (checkpoint,) = folder.glob("checkpoint_*.pth")
    export_checkpoint(best, folder / "inference" / best.stem)
    average_checkpoints([best, checkpoint], folder / "inference" / "average_last_2")
    yield Run(folder, best, evaluate_checkpoints([folder], device="cpu", output=output / "evaluation"))
    shutil.rmtree(output)


def test_the_best_model_has_the_loss_that_the_trainer_logged_with_it(run: Run) -> None:
    logged = torch.load(run.best, map_location="cpu", weights_only=False)["model_loss"]["eval_loss"]
    (found,) = [one.loss for one in run.evaluation.candidates if one.name == run.best.stem]

    assert found is not None and found.mean == pytest.approx(logged, abs=1e-6)


def test_a_run_stands_for_its_checkpoints_exports_and_averages_each_once(run: Run) -> None:
    found = {one.name: one.kind for one in run.evaluation.candidates}

    (checkpoint,) = run.folder.glob("checkpoint_*.pth")
    assert found == {run.best.stem: "export", checkpoint.stem: "checkpoint", "average_last_2": "average"}


def test_a_model_that_is_not_measured_because_another_has_its_weights_is_named(run: Run, tmp_path: Path) -> None:
    copied = tmp_path / "copied.pth"
    shutil.copy(run.best, copied)
    found = evaluate_checkpoints([run.best, copied], config=run.folder / "config.json", device="cpu")

    assert [one.name for one in found.candidates] == [run.best.stem]
    assert found.notes == [f"copied has the same weights as {run.best.stem}"]


def test_a_checkpoint_alone_is_evaluated_with_the_config_beside_it(run: Run) -> None:
    (alone,) = evaluate_checkpoints([run.best], device="cpu").candidates

    assert alone.loss == next(one.loss for one in run.evaluation.candidates if one.name == run.best.stem)


def test_the_shares_of_the_clips_make_the_loss(run: Run) -> None:
    for one in run.evaluation.candidates:
        assert one.loss is not None
        assert sum(one.loss.clips) / len(one.loss.clips) == pytest.approx(one.loss.mean, rel=1e-6)
        assert sum(one.loss.parts.values()) == pytest.approx(one.loss.mean, rel=1e-6)
        assert one.loss.low < one.loss.mean < one.loss.high


def test_what_is_measured_is_not_measured_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xtts_export_callback.evaluation.loss import LossMeter

    run.evaluation.write(tmp_path)
    known = [one.name for one in run.evaluation.candidates][1:]
    written = json.loads((tmp_path / "evaluation.json").read_text())
    written["candidates"] = [one for one in written["candidates"] if one["name"] in known]
    (tmp_path / "evaluation.json").write_text(json.dumps(written))
    measured = []
    measure = LossMeter.measure
    monkeypatch.setattr(
        LossMeter, "measure", lambda self, path, *rest: measured.append(path) or measure(self, path, *rest)
    )

    again = evaluate_checkpoints([run.folder], device="cpu", output=tmp_path)

    assert len(measured) == 1
    assert {one.name: one.loss for one in again.candidates} == {one.name: one.loss for one in run.evaluation.candidates}


def test_ctrl_c_keeps_what_is_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from xtts_export_callback.evaluation.loss import LossMeter

    measure = LossMeter.measure
    calls = []

    def interrupted(self: Any, path: Path, progress: Any = None) -> Any:
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(self, path, progress)

    monkeypatch.setattr(LossMeter, "measure", interrupted)

    assert main(["evaluate", str(run.folder), "--device", "cpu", "--output", str(tmp_path)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    kept = read_evaluation(tmp_path).candidates
    assert [one.loss is not None for one in kept] == [True, False, False]
    assert kept[0].rank == 1 and kept[1].rank is None


def test_clips_that_training_leaves_out_are_counted(run: Run, tiny_assets: TinyAssets, tmp_path: Path) -> None:
    shutil.copytree(tiny_assets.dataset, tmp_path / "data")
    metadata = tmp_path / "data" / "metadata.csv"
    first, *others = metadata.read_text(encoding="utf-8").splitlines()
    name = first.partition("|")[0]
    metadata.write_text("\n".join([f"{name}|{'a ' * 200}|{'a ' * 200}", *others]) + "\n", encoding="utf-8")

    found = evaluate_checkpoints([run.best], config=run.folder / "config.json", data=metadata, device="cpu")

    assert found.data is not None and found.data.clips == 11
    assert [line.partition(":")[0] for line in found.not_measured] == ["loss of 1 clips"]


def test_other_data_is_not_mixed_with_what_is_there(
    run: Run, tiny_assets: TinyAssets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.evaluation.write(tmp_path)
    data = tiny_assets.dataset / "metadata.csv"

    line = complaint(capsys, "evaluate", run.folder, "--device", "cpu", "--output", tmp_path, "--data", data)

    assert "is of other data or another config; name another --output, or --force" in line
    assert read_evaluation(tmp_path) == run.evaluation


def test_a_metadata_file_stands_for_all_of_its_clips(
    run: Run, tiny_assets: TinyAssets, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny_assets.dataset / "metadata.csv"

    assert (
        main(["evaluate", str(run.best), "--config", str(run.folder / "config.json"), "--data", str(data), "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["data"] == {"dataset": "metadata", "clips": 12}


def test_a_data_set_that_moved_is_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((run.folder / "config.json").read_text())
    config["datasets"][0]["path"] = str(tmp_path / "gone")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))

    line = complaint(capsys, "evaluate", run.best, "--config", path)

    assert line.endswith(f"datasets.0.path: there is no folder {tmp_path / 'gone'}; name where it is now with --data")


def test_missing_recordings_are_named_before_anything_is_measured(
    run: Run, tiny_assets: TinyAssets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_assets.dataset, tmp_path / "moved")
    (tmp_path / "moved" / "wavs" / "clip003.wav").unlink()

    line = complaint(capsys, "evaluate", run.folder, "--data", tmp_path / "moved" / "metadata.csv")

    assert "1 of 12 recordings are missing" in line and "clip003.wav" in line


def test_a_data_set_that_moved_as_a_whole_gives_the_same(run: Run, tiny_assets: TinyAssets, tmp_path: Path) -> None:
    shutil.copytree(tiny_assets.dataset, tmp_path / "moved")

    found = evaluate_checkpoints([run.best], config=run.folder / "config.json", data=tmp_path / "moved", device="cpu")

    (expected,) = [one.loss for one in run.evaluation.candidates if one.name == run.best.stem]
    assert found.candidates[0].loss == expected


def test_another_vocabulary_is_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run.folder / "inference" / run.best.stem, tmp_path / "model")
    vocab = tmp_path / "model" / "vocab.json"
    swapped = json.loads(vocab.read_text())
    tokens = swapped["model"]["vocab"]
    tokens["a"], tokens["b"] = tokens["b"], tokens["a"]
    vocab.write_text(json.dumps(swapped))

    line = complaint(capsys, "evaluate", tmp_path / "model", "--config", run.folder / "config.json")

    assert "2 tokens of its vocab.json have another row or none in the run's" in line


def test_the_table_names_ties(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run.evaluation.write(tmp_path)

    assert main(["evaluate", str(run.folder), "--device", "cpu", "--output", str(tmp_path)]) == 0
    assert "decided by faults, then errors, then voice, then loss; = tied" in capsys.readouterr().out


def test_a_config_that_is_not_of_a_run_is_named(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "evaluate", run.best, "--config", run.folder / "inference" / run.best.stem / "config.json")

    assert line.endswith("name the config.json that the Trainer wrote into the run")


def test_an_unknown_measure_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--by beauty: expected some of faults" in complaint(capsys, "evaluate", run.folder, "--by", "beauty")


def test_no_measure_but_the_weights_hangs_on_the_place(run: Run) -> None:
    assert str(run.folder) not in json.dumps(run.evaluation.to_dict())


def test_a_device_that_is_not_there_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "evaluate", run.folder, "--device", "quantum")

    assert line.startswith("xtts-export: --device quantum: cannot be used here")


def test_evaluate_takes_the_whole_batches_again_where_they_take_too_much_memory(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xtts_export_callback.evaluation import loss

    monkeypatch.setattr(loss, "_KEPT_BYTES", 1)

    found = evaluate.evaluate_checkpoints([run.folder], device="cpu")

    assert {one.name: one.loss for one in found.candidates} == {one.name: one.loss for one in run.evaluation.candidates}


def test_loss_and_speech_are_measured_together_with_the_voice_of_the_run(run: Run, tmp_path: Path) -> None:
    from xtts_export_callback import SpeechOptions

    for package in ("pocketsphinx", "distillmos", "silero_vad"):
        pytest.importorskip(package)
    (tmp_path / "sentences.txt").write_text("we sing.")
    forecasts: list[tuple[float, int]] = []
    found = evaluate_checkpoints(
        [run.best],
        config=run.folder / "config.json",
        speech=SpeechOptions(tmp_path / "sentences.txt"),
        output=tmp_path / "evaluation",
        device="cpu",
        forecast=lambda *told: forecasts.append(told),
    )
    (candidate,) = found.candidates
    ((seconds, clips),) = forecasts

    assert candidate.loss is not None
    assert clips == len(candidate.samples) == 1
    assert seconds > 0
    assert (tmp_path / "evaluation" / "reference.wav").is_file()


def test_the_greedy_soup_is_an_ordinary_merge_with_its_recipe_and_never_worse(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint,) = run.folder.glob("checkpoint_*.pth")
    models = [str(run.best), str(checkpoint)]

    options = ["--config", str(run.folder / "config.json"), "--device", "cpu", "--output", str(tmp_path), "--json"]
    assert main(["evaluate", *models, "--greedy", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    losses = {one["name"]: one["loss"]["mean"] for one in found["candidates"]}
    (note,) = found["notes"]
    if "nothing is written" in note:
        assert not (tmp_path / "greedy_soup").exists()
        return
    assert losses["greedy_soup"] <= min(losses.values())
    again = evaluate_checkpoints([tmp_path / "greedy_soup"], config=run.folder / "config.json", device="cpu")
    assert again.candidates[0].loss is not None
    assert again.candidates[0].loss.mean == pytest.approx(losses["greedy_soup"], abs=1e-9)
    assert main(["merge", str(tmp_path / "greedy_soup.yaml"), "--output", str(tmp_path / "again")]) == 0
    weights = [
        torch.load(tmp_path / name / "model.pth", weights_only=True)["model"] for name in ("greedy_soup", "again")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_soup_that_is_there_is_not_replaced(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "greedy_soup").mkdir()

    line = complaint(capsys, "evaluate", run.folder, "--greedy", "--output", tmp_path)

    assert line.endswith("greedy_soup: exists already; name another --output or replace it with --force")


def test_a_sweep_goes_from_the_base_to_the_fine_tune(
    run: Run, tiny_assets: TinyAssets, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint,) = run.folder.glob("checkpoint_*.pth")
    other = tiny_assets.dataset / "metadata.csv"
    options = [
        "--config",
        str(run.folder / "config.json"),
        "--device",
        "cpu",
        "--others",
        f"en={other}",
        "--steps",
        "2",
    ]

    assert main(["evaluate", str(run.best), "--sweep", str(checkpoint), *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    known = {one.name: one.loss.mean for one in run.evaluation.candidates if one.loss is not None}
    means = [loss["mean"] for loss in found["losses"]["target"]]
    assert found["weights"] == [0.0, 0.5, 1.0]
    assert means == pytest.approx([known[checkpoint.stem], known["average_last_2"], known[run.best.stem]], abs=1e-6)
    assert len(found["losses"]["en"]) == 3 and len(found["losses"]["en"][0]["clips"]) == 10
