"""The components of XTTS v2 that a tensor can belong to, and what each of them is for.

Module names from ``TTS.tts.models.xtts.Xtts`` and ``TTS.tts.layers.xtts.trainer.gpt_trainer.GPTTrainer``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from xtts_export_callback.xtts.state_dict import NAMES, dropped_component


class Component(NamedTuple):
    """A part of a file.

    Attributes:
        key: Its name in JSON.
        title: Its name in tables.
        purpose: What it is for.
        speaks: Whether inference needs it.
    """

    key: str
    title: str
    purpose: str
    speaks: bool


COMPONENTS = (
    Component("gpt", "GPT", "turns text and a voice into audio codes; the part that fine-tuning trains", True),
    Component("hifigan", "HiFi-GAN", "turns the output of the GPT into a waveform", True),
    Component("speaker_encoder", "speaker encoder", "turns reference speech into a voice", True),
    Component("mel_stats", "mel statistics", "scales the mel spectrograms of reference speech", True),
    Component("dvae", "DVAE", "turns speech into training targets", False),
    Component("mel_buffers", "mel buffers", "filter banks for training; inference computes its own", False),
    Component("leftovers", "test leftovers", "second names for parts of the GPT, left by a test run", False),
    Component("other", "other tensors", "not part of XTTS v2", False),
    Component("exp_avg", "first moments", "the optimizer's mean of the gradients; to resume training", False),
    Component("exp_avg_sq", "second moments", "the optimizer's mean of squared gradients; to resume training", False),
    Component("training_state", "training state", "step counters and the like; to resume training", False),
    Component("container", "container", "structure, config, directory and padding of the file", True),
)

BY_KEY = {component.key: component for component in COMPONENTS}

# Longer prefixes stand before the shorter ones that they begin with.
_PREFIXES = (
    ("gpt", "gpt"),
    ("hifigan_decoder.speaker_encoder", "speaker_encoder"),
    ("hifigan_decoder", "hifigan"),
    ("mel_stats", "mel_stats"),
)
_DROPPED = {
    "dvae": "dvae",
    "torch_mel_spectrogram_style_encoder": "mel_buffers",
    "torch_mel_spectrogram_dvae": "mel_buffers",
    "gpt.gpt_inference": "leftovers",
    "gpt.gpt.wte": "leftovers",
}


@lru_cache(NAMES)
def component_of(name: str) -> str:
    """Return the component of a tensor of the model.

    Args:
        name: Its bare name, as `state_dict.bare_name` returns it.

    Returns:
        A key of `BY_KEY`.

    Example:
        >>> component_of("hifigan_decoder.speaker_encoder.fc.bias")
        'speaker_encoder'
    """
    dropped = dropped_component(name)
    if dropped is not None:
        return _DROPPED.get(dropped, "other")
    for prefix, key in _PREFIXES:
        if name == prefix or name.startswith(f"{prefix}."):
            return key
    return "other"
