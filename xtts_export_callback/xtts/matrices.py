"""The matrices of XTTS v2: which of them are large, and along which dimension their outputs lie.

Module types from ``TTS.tts.layers.xtts``: the transformer's layers are ``transformers.pytorch_utils.Conv1D``, whose
weight is inputs x outputs; ``nn.Linear``, ``nn.Conv1d`` and ``nn.Embedding`` have their outputs, or rows, first; the
vocoder's ``ups`` are ``nn.ConvTranspose1d``, inputs x outputs x taps.
"""

from __future__ import annotations

import re

_OUTPUTS_SECOND = re.compile(
    r"gpt\.gpt\.h\.\d+\.(attn|mlp)\.c_\w+\.weight"
    r"|hifigan_decoder\.waveform_decoder\.ups\.\d+\.(weight|parametrizations\.weight\.original1)"
)
_LAYER = re.compile(r"gpt\.gpt\.h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
_VOICE = re.compile(r"gpt\.(conditioning_encoder|conditioning_perceiver)\..+\.weight")


def output_dimension(name: str) -> int:
    """Return the dimension of a weight along which its outputs lie.

    Args:
        name: Its bare name; the weight has two or more dimensions.

    Example:
        >>> output_dimension("gpt.gpt.h.0.attn.c_attn.weight"), output_dimension("gpt.mel_head.weight")
        (1, 0)
    """
    return 1 if _OUTPUTS_SECOND.fullmatch(name) else 0


def is_layer_matrix(name: str) -> bool:
    """Whether a weight is one of the four matrices of a transformer layer: 377 of the 464 million weights."""
    return _LAYER.fullmatch(name) is not None


def is_large_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight is a matrix that ``int8`` means by default: those of the layers and of the voice's encoder."""
    is_matrix = sum(size > 1 for size in shape) > 1
    return is_matrix and (is_layer_matrix(name) or _VOICE.fullmatch(name) is not None)
