"""Rules, integers, differences between models, and what is said before anything is read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from tests.benchmarks.files import vocabulary, write_run
from tests.models.least import BIAS, CONFIG, EMBEDDING, HEAD, load, recipe, save, save_all, state_dict
from xtts_export_callback import average_checkpoints, merge_checkpoints
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import CheckpointError, ConfigError, IncompatibleError
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.merge.merge import planned, write_merge
from xtts_export_callback.merge.recipe import load_recipe

pytestmark = pytest.mark.usefixtures("least_models")


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return save_all(tmp_path, [state_dict(1), state_dict(2)])


def merged(paths: list[Path], **keys: object) -> dict[str, torch.Tensor]:
    output = paths[0].parents[1] / "merged"
    merge_checkpoints(recipe(paths, **keys), output, force=True)
    return load(output)


def test_the_first_rule_that_matches_counts_and_layer_1_is_not_layer_11(pair: list[Path]) -> None:
    rules = [
        {"match": "gpt.gpt.h.1.**", "take": "a"},
        {"match": ["gpt.gpt.**", "perceiver"], "take": "b"},
        {"match": "gpt", "weights": [1, 3]},
    ]
    result = merged(pair, rules=rules)
    a, b = state_dict(1), state_dict(2)
    assert torch.equal(result["gpt.gpt.h.1.attn.weight"], a["gpt.gpt.h.1.attn.weight"])
    assert torch.equal(result["gpt.gpt.h.11.attn.weight"], b["gpt.gpt.h.11.attn.weight"])
    assert torch.equal(result["gpt.conditioning_perceiver.latents"], b["gpt.conditioning_perceiver.latents"])
    torch.testing.assert_close(result[BIAS], 0.25 * a[BIAS] + 0.75 * b[BIAS])
    name = "hifigan_decoder.speaker_encoder.fc.weight"
    torch.testing.assert_close(result[name], 0.5 * a[name] + 0.5 * b[name])


def test_a_rule_can_change_the_method_of_a_part(pair: list[Path]) -> None:
    result = merged(pair, rules=[{"match": "decoder", "method": "slerp"}])
    a, b = state_dict(1), state_dict(2)
    name = "hifigan_decoder.waveform_decoder.conv_pre.weight"
    assert not torch.allclose(result[name], (a[name] + b[name]) / 2)
    torch.testing.assert_close(result[EMBEDDING], (a[EMBEDDING] + b[EMBEDDING]) / 2)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([{"match": "gpt.gpt.h.2.**", "take": "a"}], r"rules\[0\].match: 'gpt.gpt.h.2.\*\*' matches no tensor"),
        ([{"match": ["gpt", "perciever"], "take": "a"}], "'perciever' matches no tensor; did you mean perceiver?"),
        ([{"match": "gpt", "take": "a"}, {"match": "perceiver", "take": "b"}], r"rules\[1\]: never reached"),
    ],
)
def test_a_rule_for_nothing_is_an_error(pair: list[Path], rules: list[object], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        merged(pair, rules=rules)


def test_a_rule_must_not_tear_tied_tensors_apart(tmp_path: Path) -> None:
    shared = torch.ones(3)
    models = [state_dict(seed, gpt__x=shared * seed) for seed in (1, 2)]
    for model in models:
        model["gpt.y"] = model["gpt.x"]
    paths = save_all(tmp_path, models)
    with pytest.raises(IncompatibleError, match=r"gpt\.y and gpt\.x are one tensor, but fall under different rules"):
        merged(paths, rules=[{"match": "gpt.x", "take": "a"}])


def test_a_weight_of_0_means_0(tmp_path: Path) -> None:
    spoilt = state_dict(3, gpt__x=torch.tensor([float("nan")]))
    good = state_dict(1, gpt__x=torch.tensor([5.0]))
    result = merged(save_all(tmp_path, [good, state_dict(2, gpt__x=torch.tensor([7.0])), spoilt]), weights=[1, 1, 0])
    assert result["gpt.x"].item() == 6.0
    assert result["hifigan_decoder.speaker_encoder.bn1.num_batches_tracked"].item() == 102  # not 103, the last of all


@pytest.mark.parametrize(("policy", "expected"), [("last", 102), ("first", 101)])
def test_integers_that_differ_follow_the_policy_and_are_reported(
    pair: list[Path], tmp_path: Path, policy: str, expected: int
) -> None:
    written = merge_checkpoints(recipe(pair, integers=policy), tmp_path / "merged")
    name = "hifigan_decoder.speaker_encoder.bn1.num_batches_tracked"
    result = load(tmp_path / "merged")[name]
    assert (result.item(), result.dtype) == (expected, torch.int64)
    assert written.provenance["rules"]["integers"] == {"policy": policy, "differing": [name]}


def test_equal_integers_are_not_reported(tmp_path: Path) -> None:
    paths = save_all(tmp_path, [state_dict(1), state_dict(1)])
    assert merge_checkpoints(recipe(paths), tmp_path / "m").provenance["rules"]["integers"]["differing"] == []


@pytest.mark.parametrize("method", ["linear", "slerp", "task_arithmetic", "ties", "interpolate"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_stop_every_method_by_name(tmp_path: Path, method: str, value: float) -> None:
    models = [state_dict(1), state_dict(2, gpt__x=torch.tensor([1.0, value])), state_dict(3)]
    models[0]["gpt.x"] = models[2]["gpt.x"] = torch.tensor([1.0, 2.0])
    *paths, base = save_all(tmp_path, models)
    keys = {} if method in {"linear", "slerp"} else {"base": str(base)}
    with pytest.raises(CheckpointError, match=re.escape(f"{paths[1]}: gpt.x: holds NaN or infinity")):
        merged(paths, method=method, **keys)
    assert not (tmp_path / "merged").exists()


def test_a_taken_tensor_is_checked_for_nan_too(tmp_path: Path) -> None:
    models = [state_dict(1, gpt__x=torch.tensor([float("nan")])), state_dict(2, gpt__x=torch.tensor([1.0]))]
    with pytest.raises(CheckpointError, match=r"gpt\.x: holds NaN"):
        merged(save_all(tmp_path, models), rules=[{"match": "gpt.x", "take": "a"}])


def test_a_result_too_large_for_half_precision_names_the_tensor_and_the_way_out(tmp_path: Path) -> None:
    paths = save_all(tmp_path, [state_dict(seed, gpt__x=torch.tensor([7e4])) for seed in (1, 2)])
    with pytest.raises(CheckpointError, match=r"gpt\.x: 70000 is too large for float16; choose --dtype float32"):
        merged(paths, dtype="float16")


def test_weights_that_overflow_are_not_blamed_on_an_input(tmp_path: Path) -> None:
    paths = save_all(tmp_path, [state_dict(seed, gpt__x=torch.tensor([3e38])) for seed in (1, 2)])
    with pytest.raises(CheckpointError, match=r"gpt\.x: the result is .* too large for float32; check the weights"):
        merged(paths, weights=[1, 1], normalize=False)


def test_all_differences_of_all_models_are_named_at_once(tmp_path: Path) -> None:
    extended = vocabulary(6)
    first = save(tmp_path / "a" / "model.pth", state_dict(1))
    second = save(tmp_path / "b" / "model.pth", state_dict(2, tokens=6), vocab=extended)
    third_model = state_dict(3, gpt__extra=torch.ones(1))
    del third_model["gpt.gpt.h.11.attn.weight"]
    third_model["gpt.conditioning_encoder.init.weight"] = torch.ones(3, 2, 1, dtype=torch.int64)
    third = save(tmp_path / "c" / "model.pth", third_model)
    with pytest.raises(IncompatibleError) as caught:
        merged([first, second, third])
    said = str(caught.value)
    assert said.startswith(f"{first} cannot be merged with {second}: ")
    assert f"{EMBEDDING} is [6, 3], not [4, 3], {HEAD} is [6, 3], not [4, 3], {BIAS} is [6], not [4]" in said
    assert "vocabularies of 6 tokens, an extended or custom vocabulary, and 4 tokens" in said
    assert "--vocab union or --vocab intersect" in said
    assert f"; nor with {third}: it lacks gpt.gpt.h.11.attn.weight; only it has gpt.extra" in said
    assert "gpt.conditioning_encoder.init.weight (int64, not float32)" in said
    assert "another number of GPT layers" in said


@pytest.mark.parametrize(("rows", "release"), [(6153, "v2.0.2"), (6681, "v2.0.3")])
def test_the_releases_are_told_apart_by_their_vocabulary(tmp_path: Path, rows: int, release: str) -> None:
    paths = [
        save(tmp_path / "a" / "model.pth", state_dict(1, tokens=rows)),
        save(tmp_path / "b" / "model.pth", state_dict(1)),
    ]
    with pytest.raises(IncompatibleError, match=f"{rows} tokens, {release}"):
        merged(paths)


def test_different_vocabularies_of_one_size_are_refused(tmp_path: Path) -> None:
    swapped = vocabulary(4)
    tokens = swapped["model"]["vocab"]
    tokens["[SPACE]"], tokens["[START]"] = tokens["[START]"], tokens["[SPACE]"]
    paths = [
        save(tmp_path / "a" / "model.pth", state_dict(1)),
        save(tmp_path / "b" / "model.pth", state_dict(1), vocab=swapped),
    ]
    with pytest.raises(
        IncompatibleError, match=re.escape(f"{paths[0]}: 2 tokens of its vocab.json have a different row")
    ):
        merged(paths)


def test_no_tensor_is_read_for_a_dry_run(
    pair: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = data_offsets(pair)
    reads: list[int] = []
    original = RandomFile.read_into

    def watch(self: RandomFile, buffer: memoryview, offset: int) -> None:
        reads.append(offset)
        original(self, buffer, offset)

    monkeypatch.setattr(RandomFile, "read_into", watch)
    assert main(["merge", *map(str, pair), "--weights", "3", "1", "--dry-run"]) == 0
    assert reads
    assert not starts & set(reads)
    printed = capsys.readouterr().out
    assert "43 tensors from 2 models" in printed
    assert "every tensor: linear: 0.75 x a + 0.25 x b" in printed
    assert "2 integer tensors: where they differ, from the last model" in printed


def data_offsets(paths: list[Path]) -> set[int]:
    from xtts_export_callback.checkpoint import open_checkpoint
    from xtts_export_callback.tensors.tensor import FileStorage

    offsets = set()
    for path in paths:
        with open_checkpoint(path) as opened:
            for tensor in opened.tensors.values():
                assert isinstance(tensor.storage, FileStorage)
                offsets.add(tensor.storage.offset)
    return offsets


@pytest.mark.parametrize("method", ["linear", "slerp", "ties"])
def test_the_plan_foretells_the_bytes_that_are_read_and_written(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    *paths, base = save_all(tmp_path, [state_dict(seed) for seed in range(3)])
    keys = {"base": str(base)} if method == "ties" else {}
    read = 0
    original = RandomFile.read_into

    def watch(self: RandomFile, buffer: memoryview, offset: int) -> None:
        nonlocal read
        read += len(buffer) if self.path in {*paths, base} else 0
        original(self, buffer, offset)

    with planned(load_recipe(recipe(paths, method=method, **keys))) as plan:
        plan.integers.clear()  # read to compare them, and copied by the kernel
        plan.tensors = {name: tensor for name, tensor in plan.tensors.items() if tensor.dtype.is_float}
        expected = plan.bytes_read
        written: list[int] = []
        monkeypatch.setattr(RandomFile, "read_into", watch)
        # Places of records are looked up when they are first read, 30 bytes for each.
        places = 30 * len({id(model.tensors[name].storage) for model in plan.models for name in plan.tensors})
        write_merge(plan, tmp_path / "merged", kind="merge", progress=written.append)
    assert read - places == expected
    assert sum(written) >= plan.nbytes
    assert sum(written) - plan.nbytes < 20_000  # the pickle beside the tensors


def test_the_plan_groups_tensors_by_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_run(tmp_path / "run", files=2, scale="small")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"models: [{{path: '{paths[0].as_posix()}', weight: 3}}, {{path: '{paths[1].as_posix()}', weight: 1}}]\n"
        "rules: [{match: [conditioning_encoder, perceiver], take: checkpoint_2000}, {match: decoder, method: slerp}]\n",
        encoding="utf-8",
    )
    assert main(["merge", str(path), "--dry-run", "--dtype", "float16"]) == 0
    printed = capsys.readouterr().out
    assert "963 tensors from 2 models" in printed
    assert "conditioning_encoder perceiver: those of checkpoint_2000\n  54 tensors" in printed
    assert "gpt.conditioning_encoder" in printed
    assert "decoder: slerp: from checkpoint_1000 to checkpoint_2000 at 0.25\n  241 tensors" in printed
    assert "everything else: linear: 0.75 x checkpoint_1000 + 0.25 x checkpoint_2000\n  668 tensors" in printed
    assert "of float16" in printed
    assert not path.with_suffix("").exists()


def test_provenance_names_inputs_by_content_and_marks_the_loss_as_computed(tmp_path: Path) -> None:
    losses = [{"train_loss": 1.0, "eval_loss": 3.0}, {"train_loss": 2.0, "eval_loss": 5.0}]
    paths = [
        save(tmp_path / name / "model.pth", state_dict(seed), step=seed * 10, epoch=seed, model_loss=loss)
        for seed, (name, loss) in enumerate(zip("ab", losses, strict=True), 1)
    ]
    written = merge_checkpoints(recipe(paths, weights=[3, 1]), tmp_path / "merged")
    document = torch.load(tmp_path / "merged" / "model.pth", weights_only=True)
    assert (document["step"], document["epoch"]) == (20, 2)
    assert document["model_loss"] == {"computed": True, "train_loss": 1.25, "eval_loss": 3.5}
    sources = written.provenance["sources"]
    assert [(source["model"], source["weight"], source["step"]) for source in sources] == [
        ("a", 0.75, 10),
        ("b", 0.25, 20),
    ]
    renamed = paths[0].rename(tmp_path / "a" / "model.pth.moved").rename(tmp_path / "a" / "checkpoint_7.pth")
    again = merge_checkpoints(recipe([renamed, paths[1]], weights=[3, 1]), tmp_path / "again")
    assert [one["fingerprint"] for one in again.provenance["sources"]] == [one["fingerprint"] for one in sources]
    assert str(tmp_path) not in str(document)


def test_models_of_every_kind_merge(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = state_dict(1)
    bare = save(tmp_path / "bare" / "model.pth", model)
    trainer = save(
        tmp_path / "trainer" / "checkpoint_1.pth", {f"module.xtts.{name}": one for name, one in model.items()}
    )
    half = tmp_path / "half" / "model.safetensors"
    save(tmp_path / "half" / "model.pth", model).unlink()
    save_file({name: one.to(torch.bfloat16) if one.is_floating_point() else one for name, one in model.items()}, half)
    (tmp_path / "half" / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    legacy = tmp_path / "legacy" / "old.pth"
    save(legacy, model)
    torch.save({"model": model, "config": {"a": 1}}, legacy, _use_new_zipfile_serialization=False)
    folder = average_checkpoints([bare, trainer], tmp_path / "folder").path
    result = merge_checkpoints(recipe([bare, trainer, half, legacy, folder]), tmp_path / "merged")
    expected = (4 * model[EMBEDDING].double() + model[EMBEDDING].bfloat16().double()) / 5
    assert torch.equal(load(tmp_path / "merged")[EMBEDDING], expected.float())
    assert result.provenance["rules"]["half_precision"] == {"half": "bfloat16"}
