"""From an inference folder to a model that speaks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.paths import expanded

if TYPE_CHECKING:
    import torch
    from TTS.tts.models.xtts import Xtts

_WEIGHTS = ("model.pth", "model.safetensors")


def load_xtts(directory: str | Path, device: str | torch.device = "cpu") -> Xtts:
    """Load an inference folder, whatever the type of its weights and the format of its file.

    Every tensor that the model has must be in the file and nothing else. Weights in float16 or bfloat16 are widened to
    float32, the type that ``Xtts`` computes with. No code from the file is run and no file is changed. (Coqui's own
    loader rewrites a ``model.pth`` of the official release in place.)

    Args:
        directory: Folder with ``config.json``, ``vocab.json`` and ``model.pth`` or ``model.safetensors``, and
            ``speakers_xtts.pth`` when the voices of the release are wanted.
        device: Where the model shall run, such as ``"cuda"``.

    Returns:
        The model in evaluation mode, ready for ``synthesize`` and ``inference``.

    Raises:
        CheckpointError: If a file is missing or cannot be read, or its tensors are not those of the model.

    Example:
        >>> model = load_xtts("RUN/inference/average_last_5")  # doctest: +SKIP
        >>> wav = model.synthesize("Hello.", speaker_wav="speaker.wav", language="en")["wav"]  # doctest: +SKIP
    """
    folder = expanded(directory)
    weights = _find_weights(folder)

    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    config = XttsConfig()
    try:
        config.load_json(folder / "config.json")
    except (OSError, TypeError, ValueError) as error:
        msg = f"{folder / 'config.json'}: is not the config of an XTTS model ({error})"
        raise CheckpointError(msg) from error
    model = Xtts(config)
    # Xtts.load_checkpoint does the rest: vocabulary, speakers, strict loading, preparation for inference.
    model.get_compatible_checkpoint_state_dict = _read_state_dict
    try:
        model.load_checkpoint(config, checkpoint_dir=folder, checkpoint_path=weights, eval=True, strict=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch on tensors that do not fit, tokenizers on a vocabulary that is none
        # When the tensors do not fit, Xtts tries again with an older layout; the first error is the one that tells.
        cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
        msg = f"{folder}: its files do not make a model: {' '.join(str(cause).split())[:300]}"
        raise CheckpointError(msg) from error
    del model.get_compatible_checkpoint_state_dict
    return model.to(device)


def _find_weights(folder: Path) -> Path:
    """Return the file with the weights, once it is clear that the folder has all that a model needs."""
    if not folder.is_dir():
        what = "is a file, expected the folder it lies in" if folder.exists() else "there is no such folder"
        msg = f"{folder}: {what}"
        raise CheckpointError(msg)
    found = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    missing = [] if found else [" or ".join(_WEIGHTS)]
    missing += [name for name in ("config.json", "vocab.json") if not (folder / name).is_file()]
    if missing:
        msg = f"{folder}: is not an inference folder, it has no {', no '.join(missing)}"
        raise CheckpointError(msg)
    return found[0]


def _read_state_dict(path: Path) -> dict[str, Any]:
    """Read the tensors of an inference model, mapped from the file and not yet in memory where that is possible."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
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
    return state
