"""`xtts-export compare`: distances as plain torch computes them in float64, and words that say what happened."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.files import TRAINER_CONFIG, layout, vocabulary, write_run
from xtts_export_callback import compare_checkpoints, export_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.comparison.distance import Difference
from xtts_export_callback.comparison.figure import Scale, drawable
from xtts_export_callback.comparison.metadata import ABSENT
from xtts_export_callback.comparison.plot import plot_comparison, plot_trajectory
from xtts_export_callback.comparison.summary import concentration, percent
from xtts_export_callback.comparison.trajectory import compare_run
from xtts_export_callback.errors import ConfigError, IncompatibleError

ONE = "xtts.gpt.gpt.h.12.mlp.c_fc.weight"
MakeModel = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> MakeModel:
    """A function that saves a model with the real names and small shapes, changed as a test wants it."""

    def save(name: str, change: Callable[[dict[str, torch.Tensor]], None] | None = None, **fields: Any) -> Path:
        generator = torch.Generator().manual_seed(1)
        model = {}
        for key, (dtype, shape) in layout("small").items():
            normal = torch.randn(shape, generator=generator)
            model[key] = normal if dtype == "float32" else torch.full(shape, 7)
        if change is not None:
            change(model)
        config = json.loads(TRAINER_CONFIG.read_text(encoding="utf-8"))
        folder = tmp_path / name
        folder.mkdir()
        (folder / "vocab.json").write_text(json.dumps(fields.pop("vocab", vocabulary(3))), encoding="utf-8")
        torch.save({"model": model, "config": config, "step": 1, **fields}, folder / "checkpoint_1.pth")
        return folder / "checkpoint_1.pth"

    return save


def tune(model: dict[str, torch.Tensor]) -> None:
    """Move the GPT, the layers from 22 on eight times as far, and nothing else."""
    generator = torch.Generator().manual_seed(2)
    for name, tensor in model.items():
        if name.startswith("xtts.gpt."):
            late = name.startswith("xtts.gpt.gpt.h.") and int(name.split(".")[4]) >= 22
            model[name] = tensor + torch.randn(tensor.shape, generator=generator) * tensor * (8e-3 if late else 1e-3)


def break_layers(*layers: int, prefix: str = "xtts.") -> Callable[[dict[str, torch.Tensor]], None]:
    """A change that makes all weights of some layers NaN."""

    def change(model: dict[str, torch.Tensor]) -> None:
        for name, tensor in model.items():
            if any(name.startswith(f"{prefix}gpt.gpt.h.{layer}.") for layer in layers):
                model[name] = torch.full_like(tensor, math.nan)

    return change


def change_one(model: dict[str, torch.Tensor]) -> None:
    model[ONE][1, 2] += 0.5


# Distances


def reference(a: torch.Tensor, b: torch.Tensor) -> dict[str, float]:
    """The definitions, in plain torch."""
    x, y = a.double().flatten(), b.double().flatten()
    difference = y - x
    return {
        "relative_l2": (difference.norm() / x.norm()).item(),
        "cosine": torch.dot(x, y).div(x.norm() * y.norm()).item(),
        "difference_cosine": torch.dot(x, difference).div(x.norm() * difference.norm()).item(),
        "changed_share": (x != y).double().mean().item(),
        "largest_change": difference.abs().max().item(),
    }


def measured(a: torch.Tensor, b: torch.Tensor, folder: Path) -> dict[str, Any]:
    for name, tensor in (("a", a), ("b", b)):
        torch.save({"model": {"gpt.text_head.weight": tensor}}, folder / f"{name}.pth")
    report = compare_checkpoints(folder / "a.pth", folder / "b.pth")
    return report.tensors["gpt.text_head.weight"].to_dict()


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("size", [1, 2, 65_535, 65_536, 65_537, 200_000])
def test_distances_are_those_of_a_float64_reference_across_blocks(tmp_path: Path, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    a = torch.randn(size, generator=generator)
    b = a + torch.randn(size, generator=generator) * 1e-3
    found = measured(a, b, tmp_path)
    for key, value in reference(a, b).items():
        assert found[key] == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("second", DTYPES)
def test_distances_between_dtypes_are_those_of_their_exact_values(
    tmp_path: Path, first: torch.dtype, second: torch.dtype
) -> None:
    a = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(first)
    b = torch.randn(1000, generator=torch.Generator().manual_seed(1)).to(second)
    found = measured(a, b, tmp_path)
    for key, value in reference(a, b).items():
        assert found[key] == pytest.approx(value, rel=1e-9, abs=1e-12)


floats = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30)


@settings(deadline=None, max_examples=50)
@given(values=floats, scale=st.floats(-2, 2))
def test_scaling_a_model_turns_it_nowhere(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], scale: float
) -> None:
    a = torch.tensor(values, dtype=torch.float64)
    b = a * scale
    found = measured(a, b, tmp_path_factory.mktemp("scaled"))
    norm = a.norm().item()
    if 1e-100 < norm < 1e100 and abs(scale) > 1e-3 and abs(scale - 1) > 1e-3:
        assert found["relative_l2"] == pytest.approx(abs(scale - 1), rel=1e-6)
        assert found["cosine"] == pytest.approx(math.copysign(1, scale), rel=1e-6)
        assert found["difference_cosine"] == pytest.approx(math.copysign(1, scale - 1), rel=1e-6)


def test_a_view_is_compared_by_its_elements(tmp_path: Path) -> None:
    a = torch.arange(12.0).reshape(3, 4)
    assert measured(a, a.t().contiguous().t(), tmp_path)["identical"]


def test_nan_and_infinity_are_counted_and_left_out_of_the_sums(tmp_path: Path) -> None:
    a = torch.tensor([1.0, float("nan"), 2.0, float("inf"), float("nan")])
    b = torch.tensor([1.0, float("nan"), 3.0, 5.0, 4.0])
    found = measured(a, b, tmp_path)
    assert (found["nonfinite"], found["changed"]) == (3, 3)
    assert found["relative_l2"] == pytest.approx(1 / math.sqrt(5))


def test_values_that_are_all_nan_have_no_distance(tmp_path: Path) -> None:
    assert math.isnan(measured(torch.ones(3), torch.full((3,), math.nan), tmp_path)["relative_l2"])


def test_a_norm_too_large_for_float64_is_told_from_a_start_at_zero(tmp_path: Path) -> None:
    found = measured(torch.ones(3).double(), torch.full((3,), 1e200, dtype=torch.float64), tmp_path)
    assert percent(found["relative_l2"]) == "not measurable"
    assert percent(math.inf) == "infinitely much (it was zero)"


def test_what_was_zero_moved_infinitely_much(tmp_path: Path) -> None:
    found = measured(torch.zeros(3), torch.ones(3), tmp_path)
    assert found["relative_l2"] == math.inf
    assert found["cosine"] is None


def test_negative_zero_is_another_bit_pattern_but_no_change(tmp_path: Path) -> None:
    found = measured(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]), tmp_path)
    assert (found["identical"], found["changed"]) == (False, 0)


def test_counters_do_not_drown_the_weights_of_their_component(make: MakeModel) -> None:
    def count(model: dict[str, torch.Tensor]) -> None:
        model["xtts.hifigan_decoder.speaker_encoder.bn1.num_batches_tracked"] += 1_000_000

    encoder = compare_checkpoints(make("a"), make("b", count)).components["speaker_encoder"]
    assert (encoder.relative_l2, encoder.changed, encoder.is_identical) == (0.0, 1, False)


def test_a_component_is_measured_over_all_its_elements_together(make: MakeModel) -> None:
    a, b = make("a"), make("b", tune)
    models = [torch.load(path, weights_only=True)["model"] for path in (a, b)]
    names = [name for name in models[0] if name.startswith("xtts.gpt.")]
    joined = [torch.cat([model[name].flatten() for name in names]) for model in models]
    found = compare_checkpoints(a, b).components["gpt"].to_dict()
    for key, value in reference(*joined).items():
        assert found[key] == pytest.approx(value, rel=1e-9, abs=1e-12)


# Words


def test_one_changed_element_is_named_with_its_tensor(make: MakeModel) -> None:
    report = compare_checkpoints(make("a"), make("b", change_one))
    assert list(report.changed_tensors) == ["gpt.gpt.h.12.mlp.c_fc.weight"]
    assert report.sentence.endswith("all of it in 1 element of gpt.gpt.h.12.mlp.c_fc.weight")
    assert report.components["gpt"].largest == pytest.approx(0.5, rel=1e-6)


def test_the_sentence_says_what_moved_how_far_and_where(make: MakeModel) -> None:
    sentence = compare_checkpoints(make("a"), make("b", tune)).sentence
    assert "the HiFi-GAN" in sentence.partition(" are bit-identical")[0]
    assert "the GPT moved by 0." in sentence
    assert "most in layers 22 to 29 (layers by 0." in sentence
    assert re.search(r"least layer \d+, most 2\d\)$", sentence)


def test_layers_are_named_only_where_the_change_is_concentrated() -> None:
    even = {layer: Difference(square_a=1.0, square_difference=1e-4) for layer in range(30)}
    assert concentration(even) is None
    late = {layer: Difference(square_a=1.0, square_difference=1e-2 if layer >= 22 else 1e-6) for layer in range(30)}
    assert concentration(late) == (22, 29)


def test_layers_that_became_nan_are_named(make: MakeModel) -> None:
    sentence = compare_checkpoints(make("a"), make("b", break_layers(5, 6, 9))).sentence
    assert sentence.endswith("the GPT holds 2,616 values that are NaN or infinite in layers 5 to 6, layer 9")


def test_a_distance_does_not_hide_values_that_became_nan(make: MakeModel) -> None:
    def change(model: dict[str, torch.Tensor]) -> None:
        tune(model)
        model[ONE][0, 0] = math.inf

    sentence = compare_checkpoints(make("a"), make("b", change)).sentence
    assert sentence.endswith(", 1 value is NaN or infinite in layer 12")


def test_what_became_nan_stands_first_among_the_changed_tensors(make: MakeModel) -> None:
    def change(model: dict[str, torch.Tensor]) -> None:
        tune(model)
        model[ONE][:] = math.nan

    report = compare_checkpoints(make("a"), make("b", change))
    assert next(iter(report.changed_tensors)) == "gpt.gpt.h.12.mlp.c_fc.weight"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64])
def test_dtypes_that_have_no_distance_are_named(make: MakeModel, dtype: torch.dtype) -> None:
    def recast(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
        def change(model: dict[str, torch.Tensor]) -> None:
            model["xtts.mel_stats"] = torch.full((3,), value).to(dtype)

        return change

    sentence = compare_checkpoints(make("a", recast(1.0)), make("b", recast(2.0))).sentence
    name = str(dtype).removeprefix("torch.")
    expected = f"the mel statistics differ in values of {name}, for which no distance is measured"
    assert sentence.endswith(expected)


def test_counters_that_differ_are_called_integers(make: MakeModel) -> None:
    def change(model: dict[str, torch.Tensor]) -> None:
        model["xtts.hifigan_decoder.speaker_encoder.bn1.num_batches_tracked"] += 1

    sentence = compare_checkpoints(make("a"), make("b", change)).sentence
    assert sentence.endswith("the speaker encoder differs in 1 integer")


def test_a_change_too_large_for_float64_is_called_that(make: MakeModel) -> None:
    def change(model: dict[str, torch.Tensor]) -> None:
        for name in [name for name in model if name.startswith("xtts.gpt.")]:
            model[name] = model[name].double() * 1e200

    sentence = compare_checkpoints(make("a"), make("b", change)).sentence
    assert sentence.endswith("the GPT moved by more than float64 can measure")


def test_a_file_and_itself_do_not_differ(make: MakeModel) -> None:
    path = make("a")
    report = compare_checkpoints(path, path)
    assert not report.differ
    assert report.sentence == "all weights are bit-identical"


def test_a_checkpoint_and_its_export_do_not_differ(tmp_path: Path) -> None:
    (checkpoint,) = write_run(tmp_path / "run", scale="small")
    report = compare_checkpoints(checkpoint, export_checkpoint(checkpoint).path)
    assert not report.differ
    assert report.components_only_a == {"dvae": 56, "mel_buffers": 4}


def test_names_shapes_and_dtypes_that_differ_are_listed(make: MakeModel) -> None:
    def other(model: dict[str, torch.Tensor]) -> None:
        del model["xtts.gpt.final_norm.bias"]
        model["xtts.gpt.extra"] = torch.ones(1)
        model["xtts.gpt.text_head.bias"] = torch.ones(5)
        model["xtts.gpt.mel_head.bias"] = model["xtts.gpt.mel_head.bias"].half()

    report = compare_checkpoints(make("a"), make("b", other))
    assert report.only_a == ("gpt.final_norm.bias",)
    assert report.only_b == ("gpt.extra",)
    assert report.shapes == {"gpt.text_head.bias": ((3,), (5,))}
    assert report.dtypes == {"gpt.mel_head.bias": ("float32", "float16")}


def test_configuration_fields_that_differ_are_listed_and_local_paths_are_not(make: MakeModel) -> None:
    config = json.loads(TRAINER_CONFIG.read_text(encoding="utf-8"))
    config["lr"], config["output_path"] = 1e-4, "/elsewhere"
    config["model_args"]["gpt_loss_text_ce_weight"] = 0.5
    report = compare_checkpoints(make("a"), make("b", config=config))
    assert report.config == {"lr": (5e-6, 1e-4), "model_args.gpt_loss_text_ce_weight": (0.01, 0.5)}
    assert report.differ


def test_local_paths_that_one_config_lacks_are_no_difference(make: MakeModel) -> None:
    config = json.loads(TRAINER_CONFIG.read_text(encoding="utf-8"))
    del config["output_path"], config["logger_uri"], config["model_args"]["dvae_checkpoint"]
    assert not compare_checkpoints(make("a"), make("b", config=config)).differ


@pytest.fixture
def with_and_without(make: MakeModel) -> tuple[Path, Path]:
    """Two models with a field whose value is the string "(absent)" in A and that B lacks."""
    config = json.loads(TRAINER_CONFIG.read_text(encoding="utf-8"))
    return make("a", config={**config, "note": "(absent)"}), make("b", config=config)


def test_a_field_that_one_config_lacks_is_told_from_any_string(with_and_without: tuple[Path, Path]) -> None:
    report = compare_checkpoints(*with_and_without)
    assert report.config == {"note": ("(absent)", ABSENT)}
    assert report.to_dict()["config"] == {"note": {"a": "(absent)"}}


def test_a_field_that_one_config_lacks_is_printed_without_quotes(
    with_and_without: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, with_and_without)]) == 1
    assert "note: '(absent)' in A, (absent) in B" in capsys.readouterr().out


def test_tokens_that_differ_are_listed(make: MakeModel) -> None:
    other = vocabulary(3)
    other["model"]["vocab"] = {"[STOP]": 1, "[UNK]": 0, "neu": 2}
    report = compare_checkpoints(make("a"), make("b", vocab=other))
    assert report.vocabulary == {"only_a": ["[SPACE]"], "only_b": ["neu"], "moved": ["[STOP]", "[UNK]"]}


# A run


def test_the_trajectory_of_a_run_is_that_of_a_float64_reference(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", files=3, scale="small")
    models = [torch.load(path, weights_only=True)["model"] for path in paths]
    names = [name for name in models[0] if name.startswith("xtts.gpt.")]
    a, b, c = (torch.cat([model[name].double().flatten() for name in names]) for model in models)
    trajectory = compare_run(tmp_path / "run").gpt
    norm = a.norm()
    assert trajectory.step == pytest.approx(
        [0, ((b - a).norm() / norm).item(), ((c - b).norm() / norm).item()], rel=1e-9
    )
    assert trajectory.away == pytest.approx(
        [0, ((b - a).norm() / norm).item(), ((c - a).norm() / norm).item()], rel=1e-9
    )
    assert trajectory.turn[2] == pytest.approx(torch.cosine_similarity(b - a, c - b, dim=0).item(), rel=1e-9)


def test_a_run_is_compared_with_the_base_its_config_names(tmp_path: Path, make: MakeModel) -> None:
    base = make("base")
    run = tmp_path / "run"
    write_run(run, files=1, scale="small")
    state = torch.load(run / "checkpoint_1000.pth", weights_only=True)
    state["config"]["model_args"]["xtts_checkpoint"] = str(base)
    torch.save(state, run / "checkpoint_1000.pth")
    report = compare_run(run)
    assert report.stops == ("the base checkpoint_1.pth", "checkpoint_1000")
    assert report.steps == (None, 1000)


@pytest.mark.parametrize("name", ["checkpoint_1.pth", "C:\\base\\checkpoint_1.pth"])
def test_a_base_is_not_looked_for_in_the_working_directory(
    tmp_path: Path, make: MakeModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run = tmp_path / "run"
    paths = write_run(run, files=2, scale="small")
    for path in paths:
        state = torch.load(path, weights_only=True)
        state["config"]["model_args"]["xtts_checkpoint"] = name
        torch.save(state, path)
    base = make("base")
    base.rename(base.with_name(name))
    monkeypatch.chdir(base.parent)
    assert compare_run(run).stops == ("checkpoint_1000", "checkpoint_2000")


def test_an_export_stands_for_a_checkpoint_that_is_gone(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", files=2, scale="small")
    export_checkpoint(paths[0])
    full = compare_run(tmp_path / "run")
    paths[0].unlink()
    assert compare_run(tmp_path / "run") == full


def test_one_checkpoint_is_no_trajectory(tmp_path: Path) -> None:
    write_run(tmp_path / "run", scale="small")
    with pytest.raises(ConfigError, match="expected 2 to 64 models to compare, found 1"):
        compare_run(tmp_path / "run")


def test_a_base_of_other_shapes_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", scale="small")
    torch.save({"model": {"gpt.text_embedding.weight": torch.ones(9, 9)}}, tmp_path / "base.pth")
    with pytest.raises(IncompatibleError, match="differs from"):
        compare_run(tmp_path / "run", tmp_path / "base.pth")


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = torch.load(path, weights_only=True)
    change(state["model"])
    torch.save(state, path)


def break_gpt(model: dict[str, torch.Tensor]) -> None:
    for name in [name for name in model if name.startswith("xtts.gpt.")]:
        model[name] = torch.full_like(model[name], math.nan)


def test_a_run_names_the_checkpoint_and_the_layers_that_hold_nan(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", files=3, scale="small")
    rewrite(paths[1], break_layers(5))
    report = compare_run(tmp_path / "run")
    assert report.sentence.endswith("checkpoint_2000 holds 872 values that are NaN or infinite, in layer 5")
    assert report.to_dict()["nonfinite"] == [0, 872, 0]


def test_a_gpt_that_became_nan_is_given_no_distance(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", files=2, scale="small")
    rewrite(paths[1], break_gpt)
    report = compare_run(tmp_path / "run")
    assert math.isnan(report.gpt.away[1])
    assert "the distance of the GPT is not measurable after 1 step" in report.sentence


def test_a_checkpoint_with_nan_leaves_the_distances_of_the_others_alone(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", files=3, scale="small")
    before = compare_run(tmp_path / "run").gpt.away[2]
    rewrite(paths[1], break_gpt)
    assert compare_run(tmp_path / "run").gpt.away[2] == before


def test_nan_in_every_checkpoint_is_no_movement(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", files=2, scale="small")
    rewrite(paths[0], break_layers(5))
    shutil.copy(paths[0], paths[1])
    assert not compare_run(tmp_path / "run").differ


def test_infinity_that_became_nan_is_a_change_of_a_run_as_it_is_of_two_models(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", files=2, scale="small")
    rewrite(paths[0], break_layers(5))
    shutil.copy(paths[0], paths[1])
    rewrite(paths[0], lambda model: model.update({name: item.nan_to_num(math.inf) for name, item in model.items()}))
    assert compare_run(tmp_path / "run").differ
    assert compare_checkpoints(*paths).differ


def test_the_table_of_a_run_counts_what_is_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_run(tmp_path / "run", files=2, scale="small")
    rewrite(paths[1], break_layers(5))
    assert main(["compare", str(tmp_path / "run")]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("checkpoint_2000")]
    assert line.split()[-1] == "872"


def test_the_sentence_on_a_run_gives_whole_percentages_and_counts_one_step(tmp_path: Path) -> None:
    write_run(tmp_path / "run", files=2, scale="small")
    report = compare_run(tmp_path / "run")
    away = percent(report.gpt.away[1])
    assert report.sentence.endswith(f"the GPT moved by {away}, on a trajectory of {away} in 1 step")


def test_a_run_that_begins_at_zero_moved_infinitely_much(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", files=2, scale="small")
    rewrite(paths[0], lambda model: model.update({name: torch.zeros_like(item) for name, item in model.items()}))
    assert "the GPT moved by infinitely much (it was zero) in 1 step" in compare_run(tmp_path / "run").sentence


# Pictures


def text_of(plot: Callable[..., None], report: Any, folder: Path) -> str:
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.fonttype": "none"}):
        plot(report, folder / "picture.svg")
    return (folder / "picture.svg").read_text(encoding="utf-8")


def test_the_picture_explains_cells_that_are_nan(make: MakeModel, tmp_path: Path) -> None:
    report = compare_checkpoints(make("a"), make("b", break_layers(5)))
    assert "NaN or infinite values" in text_of(plot_comparison, report, tmp_path)


def test_there_is_no_scale_where_nothing_finite_moved(make: MakeModel, tmp_path: Path) -> None:
    report = compare_checkpoints(make("a"), make("b", break_layers(5)))
    assert "moved by" not in text_of(plot_comparison, report, tmp_path)


def test_the_picture_of_a_run_marks_checkpoints_that_hold_nan(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", files=2, scale="small")
    rewrite(paths[1], break_layers(5))
    assert "holds NaN or infinity" in text_of(plot_trajectory, compare_run(tmp_path / "run"), tmp_path)


def test_the_picture_of_a_run_that_begins_at_zero_says_so(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "run", files=2, scale="small")
    rewrite(paths[0], lambda model: model.update({name: torch.zeros_like(item) for name, item in model.items()}))
    assert "all zeros at the start" in text_of(plot_trajectory, compare_run(tmp_path / "run"), tmp_path)


@pytest.mark.parametrize("values", [[1.0, 1.0], [0.02, 0.021], [1e-280], [1e280]])
def test_a_scale_spans_a_decade_around_equal_values(values: list[float]) -> None:
    scale = Scale(values)
    assert scale.low <= min(values) <= max(values) <= scale.high
    assert scale.high / scale.low > 9


@pytest.mark.parametrize("values", [[1e-6, 1.0], [0.5, 2e4], [1.0], [0.3, 3.0], [1e-3, 1e-1]])
def test_a_scale_has_one_to_three_ticks(values: list[float]) -> None:
    assert 1 <= len(Scale(values).ticks()) <= 3


@pytest.mark.parametrize("name", ["a$\\foo$b", "c$1_$2", "\u58f0", "bad\udcff"])
def test_any_name_of_a_file_can_be_drawn(make: MakeModel, tmp_path: Path, name: str) -> None:
    path = make("a")
    try:
        (tmp_path / name).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    odd = shutil.copy(path, tmp_path / name / path.name)
    assert main(["compare", str(odd), str(path), "--plot", str(tmp_path / "picture.png")]) == 0


def test_bytes_that_are_no_text_are_drawn_as_the_character_for_that() -> None:
    assert drawable(os.fsdecode(b"bad\xff.pth") + "\n") == "bad\ufffd.pth\ufffd"


def test_matplotlib_writes_nothing_to_the_terminal(make: MakeModel, tmp_path: Path) -> None:
    path = make("\u58f0")
    command = "import sys; from xtts_export_callback.cli.main import main; main(sys.argv[1:])"
    arguments = ["compare", str(path), str(path), "--plot", str(tmp_path / "picture.png")]
    (tmp_path / "blocked").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        env={**os.environ, "MPLCONFIGDIR": str(tmp_path / "blocked"), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stderr == ""


# The command line


def test_the_command_exits_with_0_without_and_1_with_a_difference(
    make: MakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = str(make("a")), str(make("b", change_one))
    assert main(["compare", a, a]) == 0
    assert capsys.readouterr().out.startswith("All weights are bit-identical.")
    assert main(["compare", a, b]) == 1
    assert "gpt.gpt.h.12.mlp.c_fc.weight" in capsys.readouterr().out


def test_json_is_all_that_is_printed(make: MakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(make("a")), str(make("b", tune)), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["components"]["hifigan"]["identical"]
    assert set(report["layers"]) == {str(layer) for layer in range(30)}


def test_the_way_of_a_run_is_printed_as_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", files=2, scale="small")
    assert main(["compare", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stops"] == ["checkpoint_1000", "checkpoint_2000"]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pictures_are_drawn_of_two_models_and_of_a_run(
    make: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    write_run(tmp_path / "run", files=2, scale="small")
    for arguments in ([str(make("a")), str(make("b", tune))], [str(tmp_path / "run")]):
        picture = tmp_path / f"picture{len(arguments)}{suffix}"
        assert main(["compare", *arguments, "--plot", str(picture)]) == (1 if len(arguments) > 1 else 0)
        assert picture.stat().st_size > 10_000
        assert capsys.readouterr().out.endswith(f"picture: {picture}\n")


def test_the_picture_names_layers_kinds_and_what_did_not_change(make: MakeModel, tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    from matplotlib import pyplot

    with pyplot.rc_context({"svg.fonttype": "none"}):
        assert main(["compare", str(make("a")), str(make("b", tune)), "--plot", str(picture)]) == 1
    text = picture.read_text(encoding="utf-8")
    for label in ("layer of the GPT", "attn.c_attn.weight", "mlp.c_proj.bias", "unchanged", "HiFi-GAN", "moved by"):
        assert label in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["{a}"],
        ["{a}", "nothing.pth"],
        ["nothing", "{a}"],
        ["{a}", "{a}", "--plot", "picture.docx"],
        ["{a}", "{a}", "--plot", "no/such/folder/picture.png"],
    ],
)
def test_wrong_input_is_refused_in_one_line(
    make: MakeModel, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    a = make("a")
    assert main(["compare", *(argument.format(a=a) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
