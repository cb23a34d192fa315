"""Load an inference folder as a model that is ready to speak."""

from __future__ import annotations

import pickle
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.reader import MODEL_NAMES, open_checkpoint
from xtts_export_callback.errors import CheckpointError, ConfigError
from xtts_export_callback.extras import require
from xtts_export_callback.files.paths import expanded
from xtts_export_callback.files.remote import RemotePath
from xtts_export_callback.tensors.quantize import read_float32
from xtts_export_callback.xtts.matrices import is_layer_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from TTS.tts.models.xtts import Xtts

    from xtts_export_callback.checkpoint.reader import Checkpoint
    from xtts_export_callback.tensors.tensor import Tensor

COMPUTE = ("float32", "float16", "int8")
"""What a model can compute with."""

_RANDOM_VALUES = {
    *("normal_", "uniform_", "erfinv_", "trunc_normal_", "orthogonal_"),
    *("kaiming_normal_", "kaiming_uniform_", "xavier_normal_", "xavier_uniform_"),
}
"""Functions of torch and ``torch.nn.init`` that fill a new weight."""


def load_xtts(directory: str | Path, device: str | torch.device = "cpu", compute: str | None = None) -> Xtts:
    """Load an inference folder with weights of any type and a file of any format.

    The file must hold exactly the tensors of the model. Weights in float32 are mapped from the file, so that nothing
    may overwrite it in place while the model is in use. No code from the file is run and no file is changed. (Coqui's
    own loader rewrites a ``model.pth`` of the official release in place.)

    With ``compute`` float16 or int8 the matrices of the GPT's layers are held in that type, which takes half or a
    quarter of their memory and, on a CPU, of the time to speak: see `inference_folder.compute`. Such a model speaks; it
    cannot be trained, saved or moved to another device. Everything else computes in float32. Where this torch or this
    processor lacks the operators, a warning says so and the model computes in float32.

    Args:
        directory: Folder with ``config.json``, ``vocab.json`` and ``model.pth`` or ``model.safetensors``, and
            ``speakers_xtts.pth`` when the voices of the release are wanted.
        device: The device to run the model on, such as ``"cuda"``.
        compute: ``"float32"``, ``"float16"`` or ``"int8"``; by default what the folder holds its layers in. Layers in
            bfloat16 are computed in float32. On a GPU, float16 and int8 both compute in float16.

    Returns:
        The model in evaluation mode, ready for ``synthesize`` and ``inference``.

    Raises:
        CheckpointError: If a file is missing or cannot be read, its tensors do not match the model, or a weight is too
            large for float16.
        ConfigError: For an unknown ``compute``.

    Example:
        >>> model = load_xtts("RUN/inference/average_last_5")  # doctest: +SKIP
        >>> wav = model.synthesize("Hello.", speaker_wav="speaker.wav", language="en")["wav"]  # doctest: +SKIP
    """
    folder = expanded(directory)
    weights = _find_weights(folder)
    if compute not in {None, *COMPUTE}:
        msg = f"compute {compute!r:.80}: expected one of {', '.join(COMPUTE)}"
        raise ConfigError(msg)
    require("train", "load_xtts")

    import torch
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    config = XttsConfig()
    try:
        config.load_json(folder / "config.json")
    except (OSError, TypeError, ValueError) as error:
        msg = f"{folder / 'config.json'}: is not the config of an XTTS model ({error})"
        raise CheckpointError(msg) from error
    with without_random_values(), open_checkpoint(weights) as checkpoint:
        model = Xtts(config)
        chosen = _usable(compute or _type_of_layers(checkpoint), torch.device(device))
        # Xtts.load_checkpoint does the rest: vocabulary, speakers, strict loading, preparation for inference.
        with _mapping_the_file(model, checkpoint, chosen, torch.device(device)):
            try:
                model.load_checkpoint(config, checkpoint_dir=folder, checkpoint_path=weights, eval=True, strict=True)
            except CheckpointError:
                raise
            except Exception as error:  # torch for tensors that do not fit, tokenizers for an invalid vocabulary
                # When the tensors do not fit, Xtts tries again with an older layout; the first error names the cause.
                cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
                msg = f"{folder}: its files cannot be loaded as a model: {' '.join(str(cause).split())[:300]}"
                raise CheckpointError(msg) from error
    return model.to(device)


@contextmanager
def without_random_values() -> Iterator[None]:
    """Leave out the random values that torch gives to new weights: they take seconds, and are replaced anyway.

    Weights that are never written take no memory either: the system provides a page when it is first touched.
    """
    from torch.overrides import TorchFunctionMode

    class LeaveOut(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if getattr(function, "__name__", "") in _RANDOM_VALUES:
                return args[0] if args else (kwargs or {})["tensor"]
            return function(*args, **(kwargs or {}))

    with LeaveOut():
        yield


def _type_of_layers(checkpoint: Checkpoint) -> str:
    """What a file holds the matrices of the layers in, as a type to compute with."""
    types = {tensor.dtype.name for name, tensor in checkpoint.stored.items() if is_layer_matrix(name)}
    return next((name for name in COMPUTE if types == {name}), "float32")


def _usable(compute: str, device: torch.device) -> str:
    """Return what to compute with: float32, with a warning, where the operators for a smaller type are missing."""
    if compute == "float32" or device.type != "cpu":
        return compute
    from xtts_export_callback.inference_folder.compute import missing_operators

    reason = missing_operators(compute)
    if reason:
        warnings.warn(f"load_xtts computes in float32, as {compute} does not work here: {reason}", stacklevel=3)
        return "float32"
    return compute


@contextmanager
def _mapping_the_file(model: Xtts, checkpoint: Checkpoint, compute: str, device: torch.device) -> Iterator[None]:
    """Have ``load_checkpoint`` take the tensors of the file as they are mapped, without a second copy.

    The model exists already: a second construction, as ``load_checkpoint`` does it, would be thrown away. Layers that
    are exchanged are so before the others are read, so that one matrix at a time is in memory twice.
    """
    load_state_dict = model.load_state_dict

    def read(path: Path) -> dict[str, Any]:
        if compute == "float32" and not checkpoint.is_quantized:
            return _read_state_dict(path)
        from xtts_export_callback.inference_folder.compute import exchange, give_back

        taken: set[str] = set()
        if compute != "float32":
            taken = exchange(model, checkpoint.tensors, compute, device, str(path.parent))
        give_back()
        return {name: _as_module(tensor) for name, tensor in checkpoint.tensors.items() if name not in taken}

    def assign(state: dict[str, Any], strict: bool = True) -> Any:
        return load_state_dict(state, strict=strict, assign=True)

    own = {
        "init_models": lambda: None,
        "get_compatible_checkpoint_state_dict": read,
        "load_state_dict": assign,
    }
    for name, function in own.items():
        setattr(model, name, function)
    try:
        yield
    finally:
        for name in own:
            delattr(model, name)


def _find_weights(folder: Path) -> Path:
    """Return the file with the weights, of a folder that has all files of a model."""
    if isinstance(folder, RemotePath):
        msg = f"{folder}: expected a folder of this disk, whose file can be mapped; export it to one first"
        raise CheckpointError(msg)
    if not folder.is_dir():
        what = "is a file, expected the folder it lies in" if folder.exists() else "the folder does not exist"
        msg = f"{folder}: {what}"
        raise CheckpointError(msg)
    found = [folder / name for name in MODEL_NAMES if (folder / name).is_file()]
    missing = [] if found else [" or ".join(MODEL_NAMES)]
    missing += [name for name in ("config.json", "vocab.json") if not (folder / name).is_file()]
    if missing:
        msg = f"{folder}: is not an inference folder, it has no {', no '.join(missing)}"
        raise CheckpointError(msg)
    return found[0]


def _read_state_dict(path: Path) -> dict[str, Any]:
    """Read the tensors of an inference model; where possible, map them from the file instead of loading them."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return _as_computed(load_file(path))
        # torch 2.1 maps a file only when its path is a string.
        state: dict[str, Any] = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)["model"]
    except pickle.UnpicklingError as error:
        msg = (
            f"{path}: holds more than tensors and plain values; make an inference folder of it with xtts-export export"
        )
        raise CheckpointError(msg) from error
    except (EOFError, KeyError, OSError, RuntimeError, SafetensorError, TypeError) as error:
        msg = f"{path}: cannot be read as an inference model ({' '.join(str(error).split())[:300]})"
        raise CheckpointError(msg) from error
    return _as_computed(state)


def _as_module(tensor: Tensor) -> torch.Tensor:
    """Read one tensor into memory of its own, in the type that modules hold it in."""
    import numpy as np
    import torch

    values = read_float32(tensor) if tensor.dtype.is_float else tensor.read()
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))  # copied only where it is not writable yet


def _as_computed(state: dict[str, Any]) -> dict[str, Any]:
    """The tensors as modules hold them: float32, contiguous, and no two in the same memory."""
    import torch

    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        plain = tensor.float() if tensor.is_floating_point() else tensor
        if plain.numel() and plain.data_ptr() in seen:
            plain = plain.clone(memory_format=torch.contiguous_format)
        seen.add(plain.data_ptr())
        result[name] = plain.contiguous()
    return result
