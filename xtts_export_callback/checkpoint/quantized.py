"""Quantized tensors in a checkpoint: their names, their place, and how they are read.

The names are those of compressed-tensors (https://github.com/vllm-project/compressed-tensors, format
``int-quantized``): an int8 ``weight`` has its scales beside it as ``weight_scale``. Unlike there, a weight keeps the
shape that its module has, and its scales have 1 in place of every dimension but that of the outputs, so that
``weight * weight_scale`` is the weight whatever its orientation.

They do not lie under ``model``, and in a ``.safetensors`` their names have a prefix: a loader that does not know them
would take the integers for weights and speak noise, or, with ``strict=False``, load nothing without a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from xtts_export_callback.tensors.tensor import Tensor

QUANTIZED_MODEL = "quantized_model"
"""The key in place of ``model``; with a dot, the prefix of the names in a ``.safetensors``."""

CONFIG = "quantization_config"
_SCALE = "_scale"


def scale_name(name: str) -> str:
    """Return the name of the scales of a quantized weight."""
    return name + _SCALE


def is_scale(name: str, names: Mapping[str, Any]) -> bool:
    """Whether a name is that of the scales of one of the other names."""
    return name.endswith(_SCALE) and name.removesuffix(_SCALE) in names


def quantization_config(quantized: Iterable[str]) -> dict[str, Any]:
    """Return the description of a model in int8, as compressed-tensors has it.

    Args:
        quantized: Names of the weights in int8.
    """
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    targets = [name.removesuffix(".weight") for name in quantized]
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": {"group_0": {"targets": targets, "weights": weights}},
    }


def dequantized(path: Path, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a quantized model; nothing is read.

    Args:
        path: The file, for messages.
        stored: Its tensors by name.

    Returns:
        The weights by name, the quantized ones as float32.

    Raises:
        CheckpointError: When integers and scales do not belong together.
    """
    from xtts_export_callback.tensors.quantize import dequantize  # few files need it

    result: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if is_scale(name, stored):
            continue
        scale = stored.get(scale_name(name))
        if tensor.dtype.name != "int8" and scale is None:
            result[name] = tensor
            continue
        if tensor.dtype.name != "int8" or scale is None or not _fit(tensor, scale):
            found = "no scales" if scale is None else f"{scale.dtype.name} scales of shape {list(scale.shape)}"
            msg = (
                f"{path}: {name}: {found} for {tensor.dtype.name} weights of shape {list(tensor.shape)}, expected int8 "
                "and one float32 scale for each output; the file is damaged, export the model again"
            )
            raise CheckpointError(msg)
        result[name] = dequantize(tensor, scale)
    return result


def _fit(tensor: Tensor, scale: Tensor) -> bool:
    if scale.dtype.name != "float32" or len(scale.shape) != len(tensor.shape):
        return False
    return all(size in {1, whole} for size, whole in zip(scale.shape, tensor.shape, strict=True))
