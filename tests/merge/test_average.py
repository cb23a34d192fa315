"""`xtts-export average` and `average_checkpoints` on runs laid out like real ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.benchmarks.files import layout, speaks, write_run
from tests.benchmarks.ways import check_mean
from tests.models.command_line import complaint
from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import average_checkpoints, export_checkpoint
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.merge.average import planned_average
from xtts_export_callback.merge.merge import differing_dvaes
from xtts_export_callback.tensors.tensor import FileStorage


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    write_run(folder, files=4, scale="small")
    return folder


@pytest.fixture
def run(pristine: Path, tmp_path: Path) -> Path:
    """A run with checkpoints 1000 to 4000, with the real names and tiny shapes."""
    folder = tmp_path / "run"
    shutil.copytree(pristine, folder)
    return folder


def checkpoints(run: Path) -> list[Path]:
    return [run / f"checkpoint_{step}.pth" for step in (1000, 2000, 3000, 4000)]


def test_of_a_run_the_last_by_step_number_are_averaged(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoint_4000.pth").rename(run / "checkpoint_10000.pth")
    assert main(["average", str(run), "--last", "2"]) == 0
    output = run / "inference" / "average_last_2"
    check_mean(output / "model.pth", run / "checkpoint_3000.pth", run / "checkpoint_10000.pth")
    printed = capsys.readouterr().out
    assert "0.5 x checkpoint_3000 (step 3000)" in printed
    assert "0.5 x checkpoint_10000 (step 4000)" in printed
    assert "of float32, verified" in printed


def test_the_result_has_what_inference_needs_and_the_names_of_its_inputs(run: Path) -> None:
    written = average_checkpoints(checkpoints(run), run / "mean")
    assert {path.name for path in (run / "mean").iterdir()} == {"model.pth", "config.json", "vocab.json", "export.json"}
    with open_checkpoint(run / "mean") as mean:
        assert list(mean.tensors) == [name.removeprefix("xtts.") for name in layout() if speaks(name)]
    assert written.provenance["kind"] == "average"
    assert written.provenance["rules"]["method"] == "linear"
    assert [source["weight"] for source in written.provenance["sources"]] == [0.25] * 4


def test_weights_go_with_the_checkpoints_as_they_were_named(run: Path) -> None:
    first, _, third, _ = checkpoints(run)
    average_checkpoints([third, first], run / "mean", weights=[3, 1])
    models = [torch.load(path, weights_only=True)["model"] for path in (third, first)]
    name = "gpt.mel_embedding.weight"
    expected = (models[0][f"xtts.{name}"].double() * 3 + models[1][f"xtts.{name}"].double()) / 4
    assert torch.equal(torch.load(run / "mean" / "model.pth", weights_only=True)["model"][name], expected.float())


def test_integers_are_those_of_the_newest_whatever_the_order(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, _, _ = checkpoints(run)
    assert main(["average", str(second), str(first), "--output", str(run / "mean")]) == 0
    model = torch.load(run / "mean" / "model.pth", weights_only=True)["model"]
    integers = [tensor for tensor in model.values() if not tensor.is_floating_point()]
    assert len(integers) == 37
    assert all(tensor.item() == 2000 and tensor.dtype == torch.int64 for tensor in integers)
    assert "37 integer tensors differ: the last model's are used" in capsys.readouterr().out


def test_fewer_than_asked_for_is_an_error_that_lists_what_there_is(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = complaint(capsys, "average", run, "--last", "5")
    assert "expected at least 5 checkpoints, found 4 (steps: 1000, 2000, 3000, 4000)" in said
    assert not (run / "inference").exists()


def test_full_precision_exports_stand_for_checkpoints_that_are_gone(run: Path) -> None:
    first, second, *_ = checkpoints(run)
    before = run / "before.pth"
    shutil.copy(first, before)
    export_checkpoint(first)
    first.unlink()
    for path in checkpoints(run)[2:]:
        path.unlink()
    assert main(["average", str(run), "--last", "2"]) == 0
    check_mean(run / "inference" / "average_last_2" / "model.pth", before, second)


def test_half_precision_exports_give_way_to_full_checkpoints(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in checkpoints(run):
        export_checkpoint(path, dtype="float16")
    assert main(["average", str(run), "--last", "2"]) == 0
    check_mean(run / "inference" / "average_last_2" / "model.pth", *checkpoints(run)[2:])
    assert "float16" not in capsys.readouterr().out


def test_averaging_half_precision_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in checkpoints(run)[2:]:
        export_checkpoint(path, dtype="bfloat16")
        path.unlink()
    assert main(["average", str(run), "--last", "2"]) == 0
    printed = capsys.readouterr().out
    assert "checkpoint_3000 is bfloat16: the result is no more precise than that" in printed
    assert "of bfloat16" in printed


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_mean_is_rounded_to_the_type_asked_for(run: Path, dtype: str) -> None:
    average_checkpoints(checkpoints(run), run / "mean", dtype=dtype)
    model = torch.load(run / "mean" / "model.pth", weights_only=True)["model"]
    assert {tensor.dtype for tensor in model.values()} == {getattr(torch, dtype), torch.int64}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (["1"], "weights: expected 2, one for each model, found 1 (1.0)"),
        (["1", "-1"], "weights: 1.0 -1.0 sum to 0, so they cannot be normalised"),
        (["0.1", "-0.09999999999999999"], "sum to 0"),
        (["1", "nan"], "weights: expected finite numbers, found 1.0 nan"),
        (["1", "inf"], "weights: expected finite numbers, found 1.0 inf"),
        (["1e308", "1e308"], "weights: expected finite numbers"),
    ],
)
def test_wrong_weights_are_refused(
    run: Path, capsys: pytest.CaptureFixture[str], weights: list[str], expected: str
) -> None:
    first, second, *_ = checkpoints(run)
    assert expected in complaint(capsys, "average", first, second, "--output", run / "mean", "--weights", *weights)
    assert not (run / "mean").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["checkpoint_1000.pth", "checkpoint_2000.pth"], "--output: expected a folder to write to"),
        (["checkpoint_1000.pth", "--output", "x"], "expected at least 2 checkpoints to average, found 1"),
        (["checkpoint_1000.pth", "checkpoint_2000.pth", "--last", "2", "--output", "x"], "--last: expected one run"),
        ([".", "--last", "0"], "--last should be at least 2, found 0"),
        ([".", "--last", "1"], "--last should be at least 2, found 1"),
        (["checkpoint_1000.pth", "checkpoint_9.pth", "--output", "x"], "checkpoint_9.pth: cannot be read"),
    ],
)
def test_wrong_usage_is_one_line(
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(run)
    assert expected in complaint(capsys, "average", *arguments)


def test_an_existing_output_stays_without_force_and_goes_with_it(run: Path) -> None:
    first, second, third, _ = checkpoints(run)
    average_checkpoints([first, second], run / "mean")
    with pytest.raises(OutputExistsError):
        average_checkpoints([first, third], run / "mean")
    check_mean(run / "mean" / "model.pth", first, second)
    average_checkpoints([first, third], run / "mean", force=True)
    check_mean(run / "mean" / "model.pth", first, third)


def test_for_training_the_folder_has_all_that_gpt_trainer_loads(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["average", str(run), "--last", "2", "--for-training"]) == 0
    output = run / "inference" / "average_last_2"
    printed = capsys.readouterr().out
    for name, option in [
        ("model.pth", "xtts_checkpoint"),
        ("vocab.json", "tokenizer_file"),
        ("mel_stats.pth", "mel_norm_file"),
        ("dvae.pth", "dvae_checkpoint"),
    ]:
        assert f"--coqpit.model_args.{option} {output / name}" in printed
        assert (output / name).is_file()
    full = torch.load(run / "checkpoint_4000.pth", weights_only=True)["model"]
    dvae = torch.load(output / "dvae.pth", weights_only=True)
    assert len(dvae) == 56
    assert all(torch.equal(tensor, full[f"dvae.{name}"]) for name, tensor in dvae.items())
    model = torch.load(output / "model.pth", weights_only=True)["model"]
    assert torch.equal(torch.load(output / "mel_stats.pth", weights_only=True), model["mel_stats"])


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two checkpoints with DVAEs of their own."""
    return [write_small(tmp_path / f"checkpoint_{step}.pth") for step in (1, 2)]


@pytest.mark.parametrize("command", ["average", "merge"])
def test_dvaes_that_differ_are_told_with_whose_is_taken(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, *map(str, pair), "--for-training", "--output", str(tmp_path / "mean")]) == 0
    said = "the DVAE of checkpoint_2 is used, not that of checkpoint_1: each GPT was trained on the codes of its own"
    assert said in capsys.readouterr().out
    assert read_provenance(tmp_path / "mean")["rules"]["dvae"] == {
        "taken": "checkpoint_2",
        "differing": ["checkpoint_1"],
    }
    taken = torch.load(tmp_path / "mean" / "dvae.pth", weights_only=True)["codebook.embed"]
    assert torch.equal(taken, small_state(2)["model"]["dvae.codebook.embed"])


def test_nothing_is_said_of_dvaes_that_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = small_state(1), small_state(2)
    name = "dvae.codebook.embed"
    second["model"][name] = first["model"][name].T.contiguous().T  # the same elements, in another order in the file
    pair = [write_small(tmp_path / f"{key}.pth", state) for key, state in (("a", first), ("b", second))]
    assert main(["average", *map(str, pair), "--for-training", "--output", str(tmp_path / "mean")]) == 0
    assert "is taken" not in capsys.readouterr().out


def test_dvaes_are_compared_by_their_checksums_and_not_read(pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FileStorage) -> None:
        pytest.fail(f"{self.label} was read")

    monkeypatch.setattr(FileStorage, "reader", refuse)
    with planned_average(pair, for_training=True) as plan:
        assert differing_dvaes(plan) == {"taken": "checkpoint_2", "differing": ["checkpoint_1"]}


@pytest.mark.parametrize("number", [np.int64, torch.tensor, np.int16])
def test_the_newest_is_known_also_where_steps_are_numbers_of_numpy_or_torch(tmp_path: Path, number: Any) -> None:
    late, early = ({**small_state(step), "step": number(step)} for step in (20, 3))
    paths = [write_small(tmp_path / "late.pth", late), write_small(tmp_path / "early.pth", early)]
    with planned_average(paths) as plan:
        assert [model.source.name for model in plan.models] == ["early", "late"]


def test_what_the_inputs_do_not_have_for_training_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(export_checkpoint(path).path) for path in checkpoints(run)[:2]]
    assert main(["average", *folders, "--for-training", "--output", str(run / "mean")]) == 0
    assert "dvae.pth not found in the inputs: use those that the inputs were trained with" in capsys.readouterr().out


def test_training_goes_on_in_full_precision_only(run: Path) -> None:
    with pytest.raises(ConfigError, match="dtype float16: expected float32 for training"):
        average_checkpoints(checkpoints(run), run / "mean", dtype="float16", for_training=True)
    assert not (run / "mean").exists()


def test_one_path_in_place_of_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a list of 2 or more paths, found one path, 'a\.pth'"):
        average_checkpoints("a.pth", tmp_path / "out")
