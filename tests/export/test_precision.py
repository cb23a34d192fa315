"""Types by part, int8 and pruning: what `xtts-export export` stores, restores and says."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.command_line import complaint
from tests.models.small_xtts import small_state, write_small
from xtts_export_callback import (
    average_checkpoints,
    compare_checkpoints,
    export_checkpoint,
    inspect_checkpoint,
    merge_checkpoints,
    verify_checkpoint,
)
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.cli.main import main
from xtts_export_callback.errors import CheckpointError, ConfigError
from xtts_export_callback.export.precision import parse_precision, types_of
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.xtts.matrices import is_layer_matrix
from xtts_export_callback.xtts.state_dict import inference_model

MATRIX = "gpt.gpt.h.0.attn.c_attn.weight"
NORM = "gpt.gpt.h.0.ln_1.weight"
DECODER = "hifigan_decoder.waveform_decoder."
VOCODER = "hifigan_decoder.waveform_decoder.conv_pre.bias"
HEAD = "gpt.mel_head.weight"
PERCEIVER = "gpt.conditioning_perceiver.layers.0.0.to_q.weight"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_small(tmp_path / "run" / "checkpoint_1000.pth")


@pytest.fixture
def int8(checkpoint: Path) -> Path:
    return export_checkpoint(checkpoint, checkpoint.parent / "int8", dtype="int8").path


def stored_types(folder: Path) -> dict[str, str]:
    with open_checkpoint(folder) as opened:
        return {name: tensor.dtype.name for name, tensor in opened.stored.items()}


def stored(folder: Path) -> dict[str, Any]:
    """What lies in the file, bit for bit."""
    with open_checkpoint(folder) as opened:
        found = opened.stored.items()
        return {name: (tensor.dtype.name, tensor.shape, tensor.read().tobytes()) for name, tensor in found}


def weights(folder: Path) -> dict[str, Any]:
    with open_checkpoint(folder) as opened:
        return {name: tensor.read() for name, tensor in opened.tensors.items()}


# Rules


def chosen(checkpoint: Path, dtype: str | None, **precision: str) -> dict[str, str]:
    with open_checkpoint(checkpoint) as opened:
        rules = {pattern.replace("__", "."): its for pattern, its in precision.items()}
        return types_of(inference_model(opened).tensors, dtype, rules)


def test_a_rule_changes_what_it_matches_and_nothing_else(checkpoint: Path) -> None:
    types = chosen(checkpoint, "float16", decoder="float32")
    assert {types[name] for name in types if name.startswith(DECODER)} == {"float32"}
    assert {types[name] for name in types if not name.startswith(DECODER)} == {"float16"}


def test_the_first_rule_that_matches_counts(checkpoint: Path) -> None:
    types = chosen(checkpoint, "float32", **{MATRIX: "bfloat16", "gpt": "float16"})
    assert (types[MATRIX], types[NORM], types[VOCODER]) == ("bfloat16", "float16", "float32")


def test_without_a_type_what_no_rule_matches_keeps_its_own(checkpoint: Path) -> None:
    types = chosen(checkpoint, None, perceiver="float16")
    assert (types[PERCEIVER], types[MATRIX]) == ("float16", "float32")


def test_int8_takes_the_large_matrices_and_a_rule_takes_every_matrix(checkpoint: Path) -> None:
    by_default, by_rule = chosen(checkpoint, "int8"), chosen(checkpoint, "float32", gpt="int8")
    assert [by_default[name] for name in (MATRIX, PERCEIVER, HEAD, NORM)] == ["int8", "int8", "float16", "float16"]
    assert [by_rule[name] for name in (MATRIX, PERCEIVER, HEAD, NORM)] == ["int8", "int8", "int8", "float16"]
    assert by_rule[VOCODER] == "float32"


def test_integers_have_no_type_to_choose(checkpoint: Path) -> None:
    assert not [name for name in chosen(checkpoint, "int8") if name.endswith("num_batches_tracked")]


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ({"gpt": "float8"}, "precision gpt: 'float8': expected one of float32, float16, bfloat16, int8"),
        ({"gtp": "float16"}, "precision 'gtp': matches no tensor"),
        ({"gpt": "float16", MATRIX: "int8"}, f"precision '{MATRIX}': earlier patterns match all that it matches"),
    ],
)
def test_a_rule_without_effect_is_refused_in_one_line(
    checkpoint: Path, precision: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        export_checkpoint(checkpoint, precision=precision)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (checkpoint.parent / "inference").exists()


def test_rules_of_the_command_line_keep_their_order() -> None:
    assert list(parse_precision(["decoder=float32", "gpt.gpt.h.*.attn.**=int8"]).items()) == [
        ("decoder", "float32"),
        ("gpt.gpt.h.*.attn.**", "int8"),
    ]


@pytest.mark.parametrize("rules", [["gpt"], ["=int8"], ["gpt="], ["gpt=int4"], ["gpt=int8", "gpt=float16"], [""]])
def test_what_is_no_rule_is_refused(rules: list[str]) -> None:
    with pytest.raises(ConfigError, match="expected PATTERN=TYPE, each pattern once"):
        parse_precision(rules)


def test_the_command_line_takes_rules_one_by_one(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = checkpoint.parent / "out"
    command = ["export", str(checkpoint), "--output", str(out), "--dtype", "float16"]
    assert main([*command, "--precision", "decoder=float32", "--precision", "perceiver=int8"]) == 0
    types = stored_types(out)
    assert (types[VOCODER], types[PERCEIVER], types[MATRIX]) == ("float32", "int8", "float16")
    provenance = read_provenance(out)
    assert provenance is not None
    assert provenance["dtype"] == "float16"
    assert provenance["precision"] == {"decoder": "float32", "perceiver": "int8"}
    capsys.readouterr()
    assert "expected PATTERN=TYPE" in complaint(capsys, *command, "--precision", "decoder:float32")


def test_other_rules_are_another_export(checkpoint: Path) -> None:
    first = export_checkpoint(checkpoint, dtype="float16", precision={"decoder": "float32"})
    assert first.written
    assert not export_checkpoint(checkpoint, dtype="float16", precision={"decoder": "float32"}).written
    with pytest.raises(Exception, match="is not this export"):
        export_checkpoint(checkpoint, dtype="float16")


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"dtype": "int8"}, {"precision": {"gpt": "float16"}}])
def test_a_value_too_large_for_float16_is_named(tmp_path: Path, options: dict[str, Any]) -> None:
    state = small_state()
    state["model"][f"xtts.{NORM}"][3] = 70000.0
    checkpoint = write_small(tmp_path / "run" / "checkpoint_1000.pth", state)
    with pytest.raises(CheckpointError, match=NORM.replace(".", r"\.")) as caught:
        export_checkpoint(checkpoint, tmp_path / "out", **options)
    assert "float16" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_rule_lets_such_a_value_pass(tmp_path: Path) -> None:
    state = small_state()
    state["model"][f"xtts.{NORM}"][3] = 70000.0
    checkpoint = write_small(tmp_path / "run" / "checkpoint_1000.pth", state)
    export_checkpoint(checkpoint, tmp_path / "out", dtype="float16", precision={NORM: "float32"})
    assert weights(tmp_path / "out")[NORM][3] == 70000.0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_int8_refuses_what_is_not_finite_by_name(tmp_path: Path, value: float) -> None:
    state = small_state()
    state["model"][f"xtts.{MATRIX}"][1, 2] = value
    checkpoint = write_small(tmp_path / "run" / "checkpoint_1000.pth", state)
    with pytest.raises(CheckpointError, match=f"checkpoint_1000.pth: .*{MATRIX}: holds NaN or infinity"):
        export_checkpoint(checkpoint, tmp_path / "out", dtype="int8")
    assert not (tmp_path / "out").exists()


# There and back


def tied_checkpoint(path: Path) -> Path:
    state = small_state()
    state["model"]["xtts.gpt.text_head.weight"] = state["model"]["xtts.gpt.text_embedding.weight"]
    return write_small(path, state)


def ties(folder: Path) -> list[list[str]]:
    found: dict[int, list[str]] = {}
    with open_checkpoint(folder) as opened:
        for name, tensor in opened.stored.items():
            found.setdefault(id(tensor.storage), []).append(name)
    return sorted(sorted(names) for names in found.values() if len(names) > 1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_pth_to_safetensors_to_pth_is_bit_identical_ties_included(tmp_path: Path, dtype: str) -> None:
    checkpoint = tied_checkpoint(tmp_path / "run" / "checkpoint_1000.pth")
    first = export_checkpoint(checkpoint, tmp_path / "first", dtype=dtype).path
    between = export_checkpoint(first, tmp_path / "between", format="safetensors").path
    last = export_checkpoint(between, tmp_path / "last").path
    assert stored(first) == stored(between) == stored(last)
    assert ties(first) == ties(last)
    assert any({"gpt.text_head.weight", "gpt.text_embedding.weight"} <= set(names) for names in ties(last))


def test_equal_tensors_are_stored_once(tmp_path: Path) -> None:
    state = small_state()
    for layer in range(2):
        state["model"][f"xtts.gpt.gpt.h.{layer}.mlp.c_fc.weight"] = torch.ones(8, 32)
    folder = export_checkpoint(write_small(tmp_path / "run" / "checkpoint_1000.pth", state), tmp_path / "out").path
    assert ["gpt.gpt.h.0.mlp.c_fc.weight", "gpt.gpt.h.1.mlp.c_fc.weight"] in ties(folder)
    loaded = torch.load(folder / "model.pth", weights_only=True)["model"]
    assert torch.equal(loaded["gpt.gpt.h.1.mlp.c_fc.weight"], torch.ones(8, 32))


@pytest.mark.parametrize("file_format", ["pth", "safetensors"])
def test_float32_of_an_int8_folder_is_a_plain_folder_of_its_dequantized_weights(
    checkpoint: Path, tmp_path: Path, file_format: str
) -> None:
    int8 = export_checkpoint(checkpoint, tmp_path / "int8", dtype="int8", format=file_format).path
    assert main(["export", str(int8), "--dtype", "float32", "--output", str(tmp_path / "plain"), "-q"]) == 0
    restored = torch.load(tmp_path / "plain" / "model.pth", weights_only=True)["model"]
    with open_checkpoint(int8) as opened:
        parts = {name: tensor.read() for name, tensor in opened.stored.items()}
    assert restored.keys() == parts.keys() - {f"{name}_scale" for name in parts}
    for name, tensor in restored.items():
        expected = parts[name]
        if expected.dtype == np.int8:
            expected = expected.astype(np.float32) * parts[f"{name}_scale"]
        elif expected.dtype == np.float16:
            expected = expected.astype(np.float32)
        assert np.array_equal(tensor.numpy(), expected), name


@pytest.mark.parametrize("dtype", ["int8", None])
@pytest.mark.parametrize("file_format", ["pth", "safetensors"])
def test_an_int8_folder_exported_again_has_the_same_bits(
    int8: Path, tmp_path: Path, dtype: str | None, file_format: str
) -> None:
    again = export_checkpoint(int8, tmp_path / "again", dtype=dtype, format=file_format)
    assert stored(again.path) == stored(int8)
    assert again.provenance["dtype"] == "int8"


def test_int8_from_a_restored_folder_has_the_same_integers(int8: Path, tmp_path: Path) -> None:
    plain = export_checkpoint(int8, tmp_path / "plain", dtype="float32").path
    again = stored(export_checkpoint(plain, tmp_path / "again", dtype="int8").path)
    assert again[MATRIX] == stored(int8)[MATRIX]


# Every command reads it


def test_inspect_says_what_it_is_and_what_to_do_with_it(int8: Path) -> None:
    report = inspect_checkpoint(int8)
    assert "int8" in report.dtypes
    assert report.advice.startswith("speak with it through load_xtts; export it with --dtype float32")


def test_verify_finds_nothing_wrong(int8: Path) -> None:
    assert verify_checkpoint(int8).faults == ()


def test_verify_finds_a_flipped_byte_by_its_tensor(int8: Path) -> None:
    with open_checkpoint(int8) as opened:
        offset = opened.stored[MATRIX].storage.offset  # type: ignore[attr-defined]
    with (int8 / "model.pth").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    assert any(MATRIX in fault.message for fault in verify_checkpoint(int8).faults)


def test_compare_shows_the_error_of_each_layer(checkpoint: Path, int8: Path) -> None:
    text = json.dumps(compare_checkpoints(checkpoint, int8).to_dict())
    assert "NaN" not in text
    with open_checkpoint(checkpoint) as a, open_checkpoint(int8) as b:
        difference = a.tensors[f"xtts.{MATRIX}"].read() - b.tensors[MATRIX].read()
    assert 0 < np.abs(difference).max() < 0.02


def test_the_average_of_int8_folders_is_that_of_their_weights_in_float32(tmp_path: Path) -> None:
    folders = []
    for step in (1000, 2000):
        checkpoint = write_small(tmp_path / "run" / f"checkpoint_{step}.pth")
        folders.append(export_checkpoint(checkpoint, tmp_path / f"int8_{step}", dtype="int8").path)
    average = average_checkpoints(folders, tmp_path / "mean")
    assert average.provenance["dtype"] == "float32"
    a, b, mean = (weights(folder) for folder in (*folders, average.path))
    assert set(stored_types(average.path).values()) == {"float32", "int64"}
    expected = ((a[MATRIX].astype(np.float64) + b[MATRIX]) / 2).astype(np.float32)
    assert np.array_equal(mean[MATRIX], expected)


@pytest.mark.parametrize("file_format", ["pth", "safetensors"])
def test_the_integers_of_an_average_in_int8_are_those_of_its_export(tmp_path: Path, file_format: str) -> None:
    checkpoints = [write_small(tmp_path / "run" / f"checkpoint_{step}.pth") for step in (1000, 2000)]
    plain = average_checkpoints(checkpoints, tmp_path / "plain").path
    exported = export_checkpoint(plain, tmp_path / "exported", dtype="int8").path
    at_once = average_checkpoints(checkpoints, tmp_path / "at_once", dtype="int8", format=file_format).path
    integers = {name: found for name, found in stored(exported).items() if found[0] == "int8"}
    assert MATRIX in integers
    assert {name: found for name, found in stored(at_once).items() if found[0] == "int8"} == integers
    assert verify_checkpoint(at_once).faults == ()


def test_a_merge_reads_int8_beside_float32(checkpoint: Path, int8: Path, tmp_path: Path) -> None:
    recipe = {"models": [{"path": str(checkpoint), "name": "a"}, {"path": str(int8), "name": "b"}], "weights": [1, 0]}
    merged = merge_checkpoints(recipe, tmp_path / "merged").path
    assert np.array_equal(weights(merged)[MATRIX], weights(checkpoint)[f"xtts.{MATRIX}"])


def test_a_recipe_names_types_by_part(tmp_path: Path) -> None:
    for step in (1000, 2000):
        write_small(tmp_path / f"checkpoint_{step}.pth")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "models: [checkpoint_1000.pth, checkpoint_2000.pth]\n"
        "dtype: int8\n"
        "precision: {decoder: float32, perceiver: bfloat16}\n",
        encoding="utf-8",
    )
    merged = merge_checkpoints(recipe, tmp_path / "merged")
    types = stored_types(merged.path)
    assert [types[name] for name in (MATRIX, VOCODER, PERCEIVER, HEAD)] == ["int8", "float32", "bfloat16", "float16"]
    assert merged.provenance["precision"] == {"decoder": "float32", "perceiver": "bfloat16"}
    assert main(["merge", str(recipe), "--dry-run", "-q"]) == 0


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"precision": {"gpt": "float16"}}])
def test_a_merge_for_training_is_refused_in_less_than_float32(tmp_path: Path, options: dict[str, Any]) -> None:
    checkpoints = [write_small(tmp_path / "run" / f"checkpoint_{step}.pth") for step in (1000, 2000)]
    with pytest.raises(ConfigError, match="expected float32 for training"):
        average_checkpoints(checkpoints, tmp_path / "mean", for_training=True, **options)


# Pruning


def test_sparsity_makes_the_smallest_weights_of_each_layer_matrix_zero_and_says_what_it_buys(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = checkpoint.parent / "out"
    assert main(["export", str(checkpoint), "--output", str(out), "--sparsity", "0.5"]) == 0
    printed = capsys.readouterr().out
    before = {name.removeprefix("xtts."): tensor for name, tensor in weights(checkpoint).items()}
    after = weights(out)
    changed = [name for name, tensor in after.items() if not np.array_equal(tensor, before[name])]
    assert changed == [name for name in after if is_layer_matrix(name)]
    for name in changed:
        kept = after[name] != 0
        assert kept.sum() == kept.size - kept.size // 2, name
        assert np.array_equal(after[name][kept], before[name][kept]), name
    change = sum(float(np.square(after[name] - before[name]).sum()) for name in changed)
    whole = sum(float(np.square(before[name]).sum()) for name in changed)
    assert f"zeros changed the GPT's matrices by {(change / whole) ** 0.5:.2%}" in printed
    assert "the file is as large as before and speaks no faster" in printed
    assert read_provenance(out)["sparsity"] == 0.5  # type: ignore[index]


def test_the_note_states_the_size_of_a_compressed_file(checkpoint: Path) -> None:
    result = export_checkpoint(checkpoint, checkpoint.parent / "out", sparsity=0.9)
    compressed = len(gzip.compress((result.path / "model.pth").read_bytes(), 1))
    (note,) = [note for note in result.notes if "compressed it takes" in note]
    stated = float(note.partition("it takes ")[2].split()[0])
    unit = {"kB": 1e3, "MB": 1e6}[note.partition("it takes ")[2].split()[1]]
    assert stated * unit == pytest.approx(compressed, rel=0.1)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_zeros_stay_zeros_in_other_types(checkpoint: Path, dtype: str) -> None:
    folder = export_checkpoint(checkpoint, checkpoint.parent / "out", sparsity=0.5, dtype=dtype).path
    matrix = weights(folder)[MATRIX]
    assert (matrix == 0).sum() >= matrix.size // 2


@pytest.mark.parametrize("sparsity", ["1", "-0.1", "nan", "half"])
def test_another_share_is_refused_in_one_line(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], sparsity: str
) -> None:
    try:
        code: Any = main(["export", str(checkpoint), f"--sparsity={sparsity}"])
    except SystemExit as end:
        code = end.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "sparsity" in line
