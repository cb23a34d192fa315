"""Files with weights in int8: what they hold, who refuses them, and what is said when they are damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.models.small_xtts import write_small
from xtts_export_callback import export_checkpoint
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import CheckpointError

MATRIX = "gpt.gpt.h.0.attn.c_attn.weight"
SCALE = f"{MATRIX}_scale"
FORMATS = ["pth", "safetensors"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_small(tmp_path / "run" / "checkpoint_1000.pth")


def exported(checkpoint: Path, file_format: str = "pth") -> Path:
    """The file with the int8 weights."""
    folder = export_checkpoint(checkpoint, checkpoint.parent / "int8", dtype="int8", format=file_format).path
    return folder / f"model.{file_format}"


def content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors by bare name and the rest, as torch and safetensors read them."""
    if path.suffix == ".pth":
        rest = torch.load(path, weights_only=True)
        return rest.pop("quantized_model"), rest
    with safetensors.safe_open(path, "pt") as file:
        metadata = next(text for key, text in file.metadata().items() if key != "format")
    named = safetensors.torch.load_file(path)
    return {name.removeprefix("quantized_model."): tensor for name, tensor in named.items()}, json.loads(metadata)


@pytest.mark.parametrize("file_format", FORMATS)
def test_other_programs_read_integers_with_their_scales_beside_them(checkpoint: Path, file_format: str) -> None:
    tensors, rest = content(exported(checkpoint, file_format))
    weight = torch.load(checkpoint, weights_only=True)["model"][f"xtts.{MATRIX}"]
    assert tensors[MATRIX].dtype == torch.int8
    assert tensors[MATRIX].shape == weight.shape
    assert tensors[SCALE].dtype == torch.float32
    assert tensors[SCALE].shape == (1, weight.shape[1])  # Conv1D: inputs x outputs
    assert ((tensors[MATRIX] * tensors[SCALE] - weight).abs() <= tensors[SCALE] * 0.5001).all()
    described = rest["quantization_config"]
    assert (described["quant_method"], described["format"]) == ("compressed-tensors", "int-quantized")
    assert MATRIX.removesuffix(".weight") in described["config_groups"]["group_0"]["targets"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_only_matrices_of_the_layers_and_of_the_voice_are_int8_and_the_rest_float16(
    checkpoint: Path, file_format: str
) -> None:
    tensors, _ = content(exported(checkpoint, file_format))
    integers = {name for name, tensor in tensors.items() if tensor.dtype == torch.int8}
    assert all(name.startswith(("gpt.gpt.h.", "gpt.conditioning_")) for name in integers)
    others = {name: tensor for name, tensor in tensors.items() if name.removesuffix("_scale") not in integers}
    assert {tensor.dtype for tensor in others.values()} == {torch.float16, torch.int64}


@pytest.mark.parametrize("file_format", FORMATS)
def test_we_read_integer_times_scale(checkpoint: Path, file_format: str) -> None:
    path = exported(checkpoint, file_format)
    stored, _ = content(path)
    with open_checkpoint(path) as opened:
        assert opened.is_quantized
        assert SCALE not in opened.tensors
        for name, tensor in opened.tensors.items():
            expected = stored[name].numpy()
            if stored[name].dtype == torch.int8:
                expected = expected.astype(np.float32) * stored[f"{name}_scale"].numpy()
            assert np.array_equal(tensor.read(), expected), name


def test_a_plain_loader_finds_no_model_in_a_pth(checkpoint: Path) -> None:
    with pytest.raises(KeyError, match="model"):
        torch.load(exported(checkpoint), weights_only=True)["model"]


def test_a_plain_loader_finds_none_of_the_models_names_in_a_safetensors(checkpoint: Path) -> None:
    named = safetensors.torch.load_file(exported(checkpoint, "safetensors"))
    assert named
    assert all(name.startswith("quantized_model.") for name in named)


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> Path:
    """A quantized file that was changed by another program."""
    tensors, rest = content(path)
    change(tensors, rest)
    if path.suffix == ".pth":
        torch.save({"quantized_model": tensors, **rest}, path)
    else:
        named = {f"quantized_model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(named, path, {"xtts_export": json.dumps(rest)})
    return path


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_file_without_its_description_is_still_read_as_quantized(checkpoint: Path, file_format: str) -> None:
    path = exported(checkpoint, file_format)
    with open_checkpoint(path) as opened:
        expected = opened.tensors[MATRIX].read()
    rewritten(path, lambda tensors, rest: rest.pop("quantization_config"))
    with open_checkpoint(path) as opened:
        assert opened.is_quantized
        assert np.array_equal(opened.tensors[MATRIX].read(), expected)


DAMAGES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "no scales": (lambda tensors: tensors.pop(SCALE), "no scales for int8 weights"),
    "scales of another type": (lambda tensors: tensors.update({SCALE: tensors[SCALE].double()}), "float64 scales"),
    "too few scales": (lambda tensors: tensors.update({SCALE: tensors[SCALE][:, :3]}), r"scales of shape \[1, 3\]"),
    "scales without the dimension of the inputs": (
        lambda tensors: tensors.update({SCALE: tensors[SCALE].reshape(-1)}),
        r"scales of shape \[24\]",
    ),
    "weights that are no integers": (
        lambda tensors: tensors.update({MATRIX: tensors[MATRIX].half()}),
        "for float16 weights",
    ),
}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_scales_that_do_not_fit_are_refused_in_one_line(checkpoint: Path, damage: str, file_format: str) -> None:
    change, message = DAMAGES[damage]
    path = rewritten(exported(checkpoint, file_format), lambda tensors, rest: change(tensors))
    with pytest.raises(CheckpointError, match=message) as caught, open_checkpoint(path):
        pass
    assert str(caught.value).startswith(f"{path}: {MATRIX}: ")
    assert "export the model again" in str(caught.value)
    assert "\n" not in str(caught.value)
