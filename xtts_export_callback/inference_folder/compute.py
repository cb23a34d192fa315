"""Exchange the matrices of an ``Xtts`` for ones that are smaller in memory and faster on a CPU.

On a CPU, one step of the GPT reads every weight of its layers once, so that its time is that of reading memory: half
the bytes take half the time. The operators are torch's own (FBGEMM's), those of
``torch.ao.nn.quantized.dynamic.Linear``. That module itself is not used: it quantizes activations to 7 bits, needs a
float32 weight, and is deprecated; torchao has no kernel for this that works without ``torch.compile``, and needs
torch 2.4 or newer. For a step, the matrices of 30 layers take one core of an AMD EPYC with AVX-512 73 ms in float32,
27 ms with the operators for float16 (``nn.functional.linear`` on float16 tensors, which older versions of torch lack:
31 ms; on bfloat16 tensors: 54 ms), and 15 ms in int8.

- ``float16``: weights in float16, activations and sums in float32. The relative error of a layer is 0.0002.
- ``int8``: weights in int8 with a scale for each output, activations quantized as they come, to 8 bits for each call,
  sums in int32. The relative error of a layer is 0.011 for normally distributed values; 0.0105 come from the weights.

The matrices of the GPT's layers, and those of the conditioning encoder and the perceiver, which turn a recording into a
voice, are exchanged, and so is the head for text, which speaking does not use; attention, norms, embeddings, the head
for audio and the vocoder compute in float32. On other devices than a CPU the matrices are held, and
multiplied, in float16.
"""

from __future__ import annotations

import ctypes
import threading
import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.files.threads import thread_pool
from xtts_export_callback.tensors.quantize import quantize, read_float32
from xtts_export_callback.xtts.matrices import is_layer_matrix, output_dimension

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xtts_export_callback.tensors.tensor import Tensor

_LARGEST_HALF = 65504.0
_TEXT_HEAD = "gpt.text_head."
_SPECTROGRAM = 80  # channels of the conditioning encoder's input, whose range is too wide for 8 bits


# Layers are made in several threads, which have one list of filters for warnings.
_FILTERS = threading.Lock()


class Float16Linear(nn.Module):
    """A linear layer with packed float16 weights, for a CPU."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Pack weights.

        Args:
            weight: float32, outputs x inputs, none beyond the range of float16: packing would cut it off silently.
            bias: float32, one for each output, or None.
        """
        super().__init__()
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Multiply float32 inputs of any leading dimensions."""
        result: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(inputs.contiguous(), self.packed)
        return result


class Int8Linear(nn.Module):
    """A linear layer with packed int8 weights, for a CPU."""

    def __init__(self, weight: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Pack weights.

        Args:
            weight: int8, outputs x inputs.
            scales: float32, one for each output.
            bias: float32, one for each output, or None.
        """
        super().__init__()
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch 2.10 and newer announce the end of quantized tensors
            quantized = torch._make_per_channel_quantized_tensor(
                weight, scales.double(), torch.zeros(len(scales), dtype=torch.int64), 0
            )
        self.packed = torch.ops.quantized.linear_prepack(quantized, bias)
        self.halve_range = _saturates()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Multiply float32 inputs of any leading dimensions."""
        result: torch.Tensor = torch.ops.quantized.linear_dynamic(inputs.contiguous(), self.packed, self.halve_range)
        return result


class HalfLinear(nn.Module):
    """A linear layer that holds its weights, and multiplies, in float16: for a GPU."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Hold weights; arguments as for `Float16Linear`."""
        super().__init__()
        self.weight: torch.Tensor
        self.bias: torch.Tensor | None
        self.register_buffer("weight", weight.half(), persistent=False)
        self.register_buffer("bias", None if bias is None else bias.half(), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Multiply inputs of any leading dimensions; the result has their type."""
        return nn.functional.linear(inputs.half(), self.weight, self.bias).to(inputs.dtype)


class Pointwise(nn.Module):
    """A convolution with one tap, as the linear layer that it is."""

    def __init__(self, linear: nn.Module) -> None:
        """Wrap a linear layer."""
        super().__init__()
        self.linear = linear

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply the layer to each column of batch x channels x time."""
        result: torch.Tensor = self.linear(inputs.transpose(1, 2)).transpose(1, 2)
        return result


def _saturates() -> bool:
    """Whether sums of 8-bit products overflow 16 bits here, as on processors without VNNI, so that inputs get 7 bits.

    ``vpmaddubsw`` adds two products of up to 255 * 127 in 16 bits (FBGEMM, "reduce_range").
    """
    global _SATURATES  # noqa: PLW0603 - a property of the processor
    if _SATURATES is None:
        _SATURATES = False
        probe = Int8Linear(torch.full((16, 64), 127, dtype=torch.int8), torch.ones(16), None)
        probe.halve_range = False
        found = probe(torch.linspace(0.999, 1.0, 64).reshape(1, 64))
        _SATURATES = not bool(torch.allclose(found, torch.tensor(127.0 * 64), rtol=0.01))
    return _SATURATES


_SATURATES: bool | None = None


def missing_operators(compute: str) -> str:
    """Return why this torch cannot compute with packed weights on a CPU; empty when it can."""
    try:
        weight, bias = torch.ones(8, 8), torch.zeros(8)
        layer: nn.Module
        if compute == "int8":
            layer = Int8Linear(weight.to(torch.int8), torch.ones(8), bias)
        else:
            layer = Float16Linear(weight, bias)
        layer(torch.ones(1, 8))
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        return f"{' '.join(str(error).split())[:150]}"
    return ""


def exchangeable(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Find the layers of an ``Xtts`` to exchange.

    Yields:
        The name of a layer's weight, the module that holds the layer, and its name there.
    """
    for name, module in model.named_modules():
        for child, layer in module.named_children():
            weight = f"{name}.{child}.weight" if name else f"{child}.weight"
            is_linear = isinstance(layer, nn.Linear) and weight.startswith(("gpt.conditioning_perceiver.", _TEXT_HEAD))
            is_pointwise = (
                isinstance(layer, nn.Conv1d)
                and weight.startswith("gpt.conditioning_encoder.")
                and layer.kernel_size == (1,)
                and layer.in_channels == layer.weight.shape[1] > _SPECTROGRAM
            )
            if is_linear or is_pointwise or is_layer_matrix(weight):
                yield weight, module, child


def exchange(model: nn.Module, tensors: dict[str, Tensor], compute: str, device: torch.device, origin: str) -> set[str]:
    """Exchange the layers of a model, taking their weights from a file one by one.

    Args:
        model: An ``Xtts`` whose weights are not loaded yet.
        tensors: The weights in the file by name.
        compute: ``"float16"`` or ``"int8"``.
        device: Where the model will run.
        origin: The file, for messages.

    Returns:
        Names of the tensors that the new layers hold, which the model no longer has.

    Raises:
        CheckpointError: When a weight is missing, has another shape, or is too large for float16.
    """
    taken: set[str] = set()
    with thread_pool() as pool:  # reading, turning and packing take seconds, most of it outside the interpreter
        tasks = []
        for weight, parent, child in list(exchangeable(model)):
            names = _names(weight, getattr(parent, child))
            task = pool.submit(_layer, names, getattr(parent, child), tensors, compute, device, origin)
            tasks.append((parent, child, task))
            taken.update(names)
        for parent, child, task in tasks:
            setattr(parent, child, task.result())
            give_back()  # here, as what the threads have freed adds up to half of the model
    _fuse_gelu(model)
    return taken


def _fuse_gelu(model: nn.Module) -> None:
    """Replace the GELU of the layers, which transformers computes in eight operators, by torch's, which is one."""
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def give_back() -> None:
    """Return freed memory to the system, where the C library can: a tenth of a gigabyte after a model was exchanged.

    Each matrix is read, turned and packed. What that takes is freed, but glibc keeps it (``mallopt(3)``,
    M_MMAP_THRESHOLD), and the memory of a process that speaks would be larger for it.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc; on Windows, no library of that name
        return


def _names(weight: str, layer: nn.Module) -> list[str]:
    """Return the name of a layer's weight, and that of its bias if it has one."""
    return [weight] if getattr(layer, "bias", None) is None else [weight, weight.removesuffix("weight") + "bias"]


def _layer(
    names: list[str],
    layer: nn.Module,
    tensors: dict[str, Tensor],
    compute: str,
    device: torch.device,
    origin: str,
) -> nn.Module:
    """Make the layer that takes the place of another, whose weight and bias have these names."""
    for name in names:
        expected = tuple(getattr(layer, name.rpartition(".")[2]).shape)
        found = tensors[name].shape if name in tensors else None
        if found != expected:
            what = "is missing" if found is None else f"is {list(found)}, expected {list(expected)}"
            msg = f"{origin}: its files cannot be loaded as a model: {name} {what}"
            raise CheckpointError(msg)
    bias = _read(tensors[names[1]]).float() if len(names) > 1 else None
    new = _linear(names[0], tensors[names[0]], bias, compute, device, origin)
    return Pointwise(new) if isinstance(layer, nn.Conv1d) else new


def _linear(
    name: str, weight: Tensor, bias: torch.Tensor | None, compute: str, device: torch.device, origin: str
) -> nn.Module:
    def as_linear(values: torch.Tensor) -> torch.Tensor:
        matrix = values.reshape(values.shape[:2])
        return (matrix.t() if output_dimension(name) == 1 else matrix).contiguous()

    if compute == "int8" and device.type == "cpu" and not name.startswith(_TEXT_HEAD):
        integers, scale = quantize(name, weight, output_dimension(name))
        return Int8Linear(as_linear(_read(integers)), _read(scale).reshape(-1), bias)
    values = as_linear(_read(weight)).float()  # turned as it is stored, which for float16 is half the bytes
    lowest, highest = torch.aminmax(values)
    largest = max(-float(lowest), float(highest))
    if largest > _LARGEST_HALF:
        msg = f"{origin}: {name}: {largest:.6g} is too large for float16; load it with compute='float32'"
        raise CheckpointError(msg)
    return Float16Linear(values, bias) if device.type == "cpu" else HalfLinear(values, bias)


def _read(tensor: Tensor) -> torch.Tensor:
    """Read a tensor: int8, float16 and float32 as they are, other types as float32."""
    import numpy as np

    values = tensor.read() if tensor.dtype.name in {"int8", "float16", "float32"} else read_float32(tensor)
    return torch.from_numpy(np.require(values, requirements="W"))
