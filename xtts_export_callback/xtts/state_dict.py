"""Select the inference weights of a checkpoint, and name them without the Trainer's prefixes.

Facts from ``TTS.tts.layers.xtts.trainer.gpt_trainer.GPTTrainer`` (the modules that only training needs) and
``TTS.tts.models.xtts.Xtts.get_compatible_checkpoint_state_dict`` (what loading strips and drops).
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from xtts_export_callback.checkpoint.document import no_plain_tensor
from xtts_export_callback.errors import CheckpointError

if TYPE_CHECKING:
    from xtts_export_callback.checkpoint.reader import Checkpoint
    from xtts_export_callback.tensors.tensor import Tensor

TRAINER_PREFIX = "xtts."
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and accelerate; torch.compile

_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
"""Names of ``torch.nn.utils.weight_norm`` to those of ``parametrizations.weight_norm``, which does the same on load."""

OLDER_NAMES = tuple(f".{name}" for name in _WEIGHT_NORM)
"""Endings of older names of weights, which `bare_name` replaces."""

DROPPED = {
    "dvae": "the DVAE: turns speech into training targets, unused at inference",
    "torch_mel_spectrogram_style_encoder": "a mel filter bank for training; inference computes its own",
    "torch_mel_spectrogram_dvae": "a mel filter bank for training; inference computes its own",
    "gpt.gpt_inference": "leftover of a test run in training: a second set of names for the GPT",
    "gpt.gpt.wte": "leftover of a test run in training: a second name for the mel embedding",
}
"""First name components that inference does not load, with the reason."""

_LEFTOVER = re.compile(r"(optim\w*|\w*scheduler|scaler|criterion|\w*disc(riminator)?s?|m[psr]s?d)(?=\.|$)")
"""First name components of training tools: optimizers, losses, discriminators. They hold no inference weights."""

_REFUSED = (
    (
        r"(lora|dora|ia3|hada|lokr|oft|vera)_\w+|base_layer|modules_to_save|base_model",
        "part of an adapter (LoRA), and the model alone has another voice; merge the adapter into the model first",
    ),
    (
        r"(\w*_)?(ema|swa|shadow\w*|averaged_model|n_averaged)(_\w*)?",
        "part of a second set of weights (EMA), which has another voice; save a checkpoint of the set you want",
    ),
    (
        r"_fsdp_wrapped_module|_forward_module|_flat_param|ds_\w+|deepspeed\w*",
        "a part of a model that DeepSpeed or FSDP has split; gather it first (zero_to_fp32.py)",
    ),
)
"""Components of names that no XTTS has: its other tensors are then not the whole voice, for the reason given."""

NAMES = 4096
"""Names to remember: those of two training checkpoints, which every command asks for several times."""

_MODULES = ("gpt", "hifigan_decoder", "mel_stats")
"""First name components of ``TTS.tts.models.xtts.Xtts``."""

TEXT_EMBEDDING = "gpt.text_embedding.weight"
_REQUIRED = (TEXT_EMBEDDING, "gpt.mel_embedding.weight", "hifigan_decoder.waveform_decoder.conv_pre.weight")


class InferenceModel(NamedTuple):
    """The inference weights of a checkpoint.

    Attributes:
        tensors: The weights by the names that ``Xtts.load_state_dict(strict=True)`` expects, in file order.
        dropped: Number of tensors and bytes left out, by name from `dropped_component`.
        prefix: The prefix stripped from the names; empty for a file without one.
    """

    tensors: dict[str, Tensor]
    dropped: dict[str, tuple[int, int]]
    prefix: str


@lru_cache(NAMES)
def bare_name(name: str) -> str:
    """Return a tensor's name without wrappers and the Trainer's prefix, as in today's modules.

    Example:
        >>> bare_name("module.xtts.gpt._orig_mod.text_head.bias")
        'gpt.text_head.bias'
    """
    name = name[len(prefix_of(name)) :].replace("_orig_mod.", "")
    module, _, last = name.rpartition(".")
    if last in _WEIGHT_NORM:
        name = f"{module}.{_WEIGHT_NORM[last]}"
    return sys.intern(name)  # many open checkpoints have the same names


def prefix_of(name: str) -> str:
    """Return the wrappers and the Trainer's prefix that a tensor's name starts with."""
    rest = name
    while rest.startswith(_WRAPPERS):
        rest = rest.partition(".")[2]
    return name[: len(name) - len(rest.removeprefix(TRAINER_PREFIX))]


def dropped_component(name: str) -> str | None:
    """Return the name in `DROPPED`, or the leftover of a training, that a bare name belongs to; None if it is kept."""
    for component in DROPPED:
        if name == component or name.startswith(f"{component}."):
            return component
    leftover = _LEFTOVER.match(name)
    return leftover[1] if leftover else None


def is_inference_weight(name: str) -> bool:
    """Whether inference needs the tensor of that name in a file; it never needs the extra state of a module."""
    bare = bare_name(name)
    component, _, _ = bare.partition(".")
    return component in _MODULES and dropped_component(bare) is None and not bare.endswith("._extra_state")


def unreadable_weights(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the inference weights that are not plain tensors, each with a few words about what it is."""
    return {name: found for name, found in checkpoint.others.items() if is_inference_weight(name)}


def check_readable(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint in which an inference weight is not a plain tensor, because it cannot be read.

    Raises:
        CheckpointError: For the first such weight.
    """
    for name, found in unreadable_weights(checkpoint).items():
        msg = f"{checkpoint.path}: {no_plain_tensor(name, found)}"
        raise CheckpointError(msg)


def inference_model(checkpoint: Checkpoint) -> InferenceModel:
    """Select and rename the inference weights; none is read, but a file behind a URL is told that they will be.

    Args:
        checkpoint: A checkpoint of any kind.

    Returns:
        The selection.

    Raises:
        CheckpointError: When the file is not an XTTS model, two names become one, or a name is in `_REFUSED`.
    """
    check_readable(checkpoint)
    tensors: dict[str, Tensor] = {}
    dropped: dict[str, tuple[int, int]] = {}
    prefix = ""
    for name, tensor in checkpoint.tensors.items():
        bare = bare_name(name)
        component = dropped_component(bare)
        if component is not None:
            count, nbytes = dropped.get(component, (0, 0))
            dropped[component] = (count + 1, nbytes + tensor.nbytes)
            continue
        for part in bare.split("."):
            reason = _reason_against(part)
            if reason is not None:
                msg = f"{checkpoint.path}: {name} is {reason}"
                raise CheckpointError(msg)
        if bare in tensors:
            msg = f"{checkpoint.path}: two tensors are called {bare} without their prefixes; not an XTTS checkpoint"
            raise CheckpointError(msg)
        tensors[bare] = tensor
        prefix = prefix or prefix_of(name)
    for name in _REQUIRED:
        if name not in tensors:
            msg = f"{checkpoint.path}: no tensor {name}, found {len(tensors)} others; not an XTTS v2 checkpoint"
            raise CheckpointError(msg)
    checkpoint.expect(tensors.values())
    return InferenceModel(tensors, dropped, prefix)


@lru_cache(maxsize=1024)  # a thousand names are made of a hundred components
def _reason_against(component: str) -> str | None:
    return next((reason for pattern, reason in _REFUSED if re.fullmatch(pattern, component)), None)


def dvae_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the DVAE in a full checkpoint, by the names of ``dvae.pth``; empty where there is none. Nothing is read.

    `GPTTrainer` freezes the DVAE, so that it is the one of the base model.
    """
    bare = {bare_name(name): tensor for name, tensor in checkpoint.tensors.items()}
    return {name.partition(".")[2]: tensor for name, tensor in bare.items() if name.startswith("dvae.")}


def has_trainer_prefix(checkpoint: Checkpoint) -> bool:
    """Whether names have the prefix of GPTTrainer, without which the Trainer cannot restore from the file."""
    return any(name.startswith(TRAINER_PREFIX) or f".{TRAINER_PREFIX}" in name for name in checkpoint.tensors)
