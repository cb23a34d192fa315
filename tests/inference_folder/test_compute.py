"""Layers in float16 and int8, each against the float32 layer that it stands for."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.tensors.test_quantize import tensor_of
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.inference_folder import compute
from xtts_export_callback.inference_folder.compute import (
    Float16Linear,
    HalfLinear,
    Int8Linear,
    Pointwise,
    exchange,
    exchangeable,
    missing_operators,
)
from xtts_export_callback.tensors.quantize import dequantize, quantize
from xtts_export_callback.tensors.tensor import Tensor

INPUTS, OUTPUTS = 256, 96
MATRIX = "gpt.gpt.h.0.mlp.c_fc.weight"
CPU, GPU = torch.device("cpu"), torch.device("cuda")  # a layer for a GPU can be made without one

needs_float16 = pytest.mark.skipif(bool(missing_operators("float16")), reason="no float16 operators")
needs_int8 = pytest.mark.skipif(bool(missing_operators("int8")), reason="no int8 operators")


def multiplies_half() -> bool:
    """Whether this torch multiplies float16 on a CPU."""
    try:
        nn.functional.linear(torch.ones(1, 2).half(), torch.ones(2, 2).half())
    except RuntimeError:
        return False
    return True


def linear(*, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(INPUTS, OUTPUTS, bias=bias)


def layer_of(kind: str, reference: nn.Linear) -> nn.Module:
    weight = reference.weight.detach()
    bias = None if reference.bias is None else reference.bias.detach()
    if kind == "half":
        return HalfLinear(weight, bias)
    if kind == "float16":
        return Float16Linear(weight, bias)
    integers, scale = quantize("w", tensor_of(weight.numpy()), 0)
    return Int8Linear(torch.tensor(integers.read()), torch.tensor(scale.read()).reshape(-1), bias)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


KINDS = [
    pytest.param("float16", 0.0005, marks=needs_float16),
    pytest.param("int8", 0.02, marks=needs_int8),
    pytest.param("half", 0.001, marks=pytest.mark.skipif(not multiplies_half(), reason="no float16 on this CPU")),
]


@pytest.mark.parametrize(("kind", "bound"), KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(INPUTS,), (1, 1, INPUTS), (2, 7, INPUTS)], ids=str)
def test_a_layer_computes_what_the_float32_one_does_within_its_bound(
    kind: str, bound: float, bias: bool, shape: tuple[int, ...]
) -> None:
    reference = linear(bias=bias)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    if len(shape) == 1:
        inputs = inputs.reshape(1, -1)
    with torch.inference_mode():
        found, expected = layer_of(kind, reference)(inputs), reference(inputs)
    assert (found.dtype, found.shape) == (torch.float32, expected.shape)
    assert relative_error(found, expected) < bound


@pytest.mark.parametrize(("kind", "bound"), KINDS)
def test_inputs_that_are_not_contiguous_are_taken(kind: str, bound: float) -> None:
    reference = linear()
    inputs = torch.randn(3, INPUTS, 5, generator=torch.Generator().manual_seed(1)).transpose(1, 2)
    with torch.inference_mode():
        assert relative_error(layer_of(kind, reference)(inputs), reference(inputs)) < bound


@pytest.mark.parametrize(("kind", "bound"), KINDS)
def test_a_convolution_with_one_tap_is_a_linear_layer_over_channels(kind: str, bound: float) -> None:
    reference = linear()
    convolution = nn.Conv1d(INPUTS, OUTPUTS, 1)
    inputs = torch.randn(2, INPUTS, 9, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        convolution.weight.copy_(reference.weight[:, :, None])
        convolution.bias.copy_(reference.bias)  # type: ignore[union-attr]
        assert relative_error(Pointwise(layer_of(kind, reference))(inputs), convolution(inputs)) < bound


@needs_float16
def test_float16_rounds_the_weights_alone() -> None:
    reference = linear()
    with torch.inference_mode():
        reference.weight.copy_(reference.weight.half().float())
        inputs = torch.randn(4, INPUTS)
        assert relative_error(layer_of("float16", reference)(inputs), reference(inputs)) < 1e-6


@needs_int8
@pytest.mark.parametrize("halve_range", [False, True])
def test_int8_beside_its_dequantized_weights_errs_by_the_rounding_of_the_activations(halve_range: bool) -> None:
    reference = linear()
    layer = layer_of("int8", reference)
    layer.halve_range = layer.halve_range or halve_range
    with torch.inference_mode():
        integers, scale = quantize("w", tensor_of(reference.weight.numpy()), 0)
        reference.weight.copy_(torch.tensor(dequantize(integers, scale).read()))
        inputs = torch.randn(4, INPUTS, generator=torch.Generator().manual_seed(1))
        assert relative_error(layer(inputs), reference(inputs)) < (0.03 if layer.halve_range else 0.015)


@needs_int8
def test_sums_of_the_largest_products_do_not_overflow() -> None:
    layer = Int8Linear(torch.full((16, 64), 127, dtype=torch.int8), torch.ones(16), None)
    found = layer(torch.linspace(0.9, 1.0, 64).reshape(1, 64))
    assert torch.allclose(found, torch.tensor(127 * 0.95 * 64), rtol=0.02)


@pytest.mark.parametrize("kind", ["float16", "int8"])
def test_where_torch_has_no_such_operators_it_is_said_why(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "quantized", SimpleNamespace())
    reason = missing_operators(kind)
    assert reason
    assert "\n" not in reason


# Exchanging the layers of a model


class Conv1D(nn.Module):
    """As in ``transformers.pytorch_utils``: inputs x outputs."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weight + self.bias


def model_with(layers: dict[str, nn.Module]) -> nn.Module:
    """Modules by their dotted names."""
    root = nn.Module()
    for name, layer in layers.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]  # type: ignore[assignment]
        module.add_module(last, layer)
    return root


LAYER = MATRIX.removesuffix(".weight")


def conv1d() -> Conv1D:
    reference = linear()
    return Conv1D(reference.weight.detach().t().contiguous(), reference.bias.detach())


def tensors_of(layer: nn.Module, name: str = LAYER) -> dict[str, Tensor]:
    return {f"{name}.{key}": tensor_of(value.numpy()) for key, value in layer.state_dict().items()}


@pytest.mark.parametrize(
    ("how", "bound"), [pytest.param("float16", 5e-4, marks=needs_float16), pytest.param("int8", 0.02, marks=needs_int8)]
)
def test_a_conv1d_is_exchanged_for_a_layer_that_computes_the_same(how: str, bound: float) -> None:
    reference = conv1d()
    model = model_with({LAYER: conv1d()})
    taken = exchange(model, tensors_of(reference), how, CPU, "model.pth")
    assert taken == {MATRIX, f"{LAYER}.bias"}
    inputs = torch.randn(2, INPUTS)
    with torch.inference_mode():
        layer = model.get_submodule(LAYER)
        assert isinstance(layer, Float16Linear if how == "float16" else Int8Linear)
        assert relative_error(layer(inputs), reference(inputs)) < bound


@pytest.mark.parametrize(
    ("how", "bound"), [pytest.param("float16", 5e-4, marks=needs_float16), pytest.param("int8", 0.02, marks=needs_int8)]
)
@pytest.mark.parametrize(
    ("name", "reference", "shape"),
    [
        ("gpt.conditioning_perceiver.layers.0.0.to_q", nn.Linear(INPUTS, OUTPUTS), (2, 7, INPUTS)),
        ("gpt.conditioning_encoder.attn.0.qkv", nn.Conv1d(INPUTS, OUTPUTS, 1), (2, INPUTS, 7)),
    ],
)
def test_layers_of_the_voice_are_exchanged_for_ones_that_compute_the_same(
    name: str, reference: nn.Module, shape: tuple[int, ...], how: str, bound: float
) -> None:
    model = model_with({name: copy.deepcopy(reference)})
    exchange(model, tensors_of(reference, name), how, CPU, "model.pth")
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        layer = model.get_submodule(name)
        assert type(layer) is not type(reference)
        assert relative_error(layer(inputs), reference(inputs)) < bound


def test_the_gelu_of_the_layers_is_one_operator_that_computes_the_same() -> None:
    from transformers.activations import ACT2FN

    model = model_with({"gpt.gpt.h.0.mlp.act": ACT2FN["gelu_new"]})
    inputs = torch.linspace(-8, 8, 1001)
    expected = model.get_submodule("gpt.gpt.h.0.mlp.act")(inputs)
    exchange(model, {}, "float16", CPU, "model.pth")
    gelu = model.get_submodule("gpt.gpt.h.0.mlp.act")
    assert isinstance(gelu, nn.GELU)
    assert torch.allclose(gelu(inputs), expected, rtol=1e-5, atol=1e-6)


@needs_int8
def test_the_integers_of_a_file_are_used_as_they_are() -> None:
    reference = conv1d()
    integers, scale = quantize(MATRIX, tensor_of(reference.weight.detach().numpy()), 1)
    tensors = {**tensors_of(reference), MATRIX: dequantize(integers, scale)}
    model = model_with({LAYER: conv1d()})
    exchange(model, tensors, "int8", CPU, "model.pth")
    packed, _ = torch.ops.quantized.linear_unpack(model.get_submodule(LAYER).packed)
    assert np.array_equal(packed.int_repr().numpy(), integers.read().T)
    assert np.allclose(packed.q_per_channel_scales().numpy(), scale.read().reshape(-1))


@pytest.mark.parametrize("how", ["float16", "int8"])
def test_for_a_gpu_layers_are_held_in_float16(how: str) -> None:
    reference = conv1d()
    model = model_with({LAYER: conv1d()})
    exchange(model, tensors_of(reference), how, GPU, "model.pth")
    layer = model.get_submodule(LAYER)
    assert isinstance(layer, HalfLinear)
    assert torch.equal(layer.weight, reference.weight.detach().t().half())
    assert torch.equal(layer.bias, reference.bias.detach().half())
    assert not layer.state_dict()


def test_only_layers_whose_error_is_small_are_exchanged() -> None:
    exchanged = {
        LAYER: conv1d(),
        "gpt.gpt.h.0.attn.c_proj": conv1d(),
        "gpt.conditioning_encoder.attn.0.qkv": nn.Conv1d(128, 8, 1),
        "gpt.conditioning_perceiver.layers.0.0.to_q": nn.Linear(4, 4),
        "gpt.text_head": nn.Linear(4, 4),
    }
    kept = {
        "gpt.gpt.h.0.ln_1": nn.LayerNorm(4),
        "gpt.conditioning_encoder.init": nn.Conv1d(80, 8, 1),
        "gpt.conditioning_encoder.wide": nn.Conv1d(128, 8, 3),
        "gpt.mel_head": nn.Linear(4, 4),
        "gpt.mel_embedding": nn.Embedding(4, 4),
        "hifigan_decoder.waveform_decoder.conv_pre": nn.Conv1d(128, 8, 1),
        "hifigan_decoder.speaker_encoder.fc": nn.Linear(4, 4),
    }
    found = {weight for weight, _, _ in exchangeable(model_with({**exchanged, **kept}))}
    assert found == {f"{name}.weight" for name in exchanged}


FAULTS = {
    "missing": ({MATRIX: None}, rf"{MATRIX} is missing"),
    "another shape": ({MATRIX: np.zeros((OUTPUTS, INPUTS), np.float32)}, rf"{MATRIX} is \[96, 256\], expected \[256"),
    "no bias": ({f"{LAYER}.bias": None}, rf"{LAYER}.bias is missing"),
    "too large": (
        {MATRIX: np.full((INPUTS, OUTPUTS), -70000, np.float32)},
        "weight: 70000 is too large for float16",
    ),
}


@needs_float16
@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_do_not_fit_are_named_in_one_line(fault: str) -> None:
    changes, message = FAULTS[fault]
    tensors = tensors_of(conv1d())
    for name, values in changes.items():
        if values is None:
            del tensors[name]
        else:
            tensors[name] = tensor_of(values)
    with pytest.raises(CheckpointError, match=message) as caught:
        exchange(model_with({LAYER: conv1d()}), tensors, "float16", CPU, "model.pth")
    assert str(caught.value).startswith("model.pth: ")
    assert "\n" not in str(caught.value)


def test_that_processors_differ_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_SATURATES", True)
    if not missing_operators("int8"):
        assert Int8Linear(torch.ones(8, 8, dtype=torch.int8), torch.ones(8), None).halve_range
