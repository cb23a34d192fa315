"""The architecture of an XTTS model, derived from the shapes of its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from xtts_export_callback.xtts.model_config import model_args

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xtts_export_callback.tensors.tensor import Tensor

RELEASES = {6153: "XTTS v2.0.2", 6681: "XTTS v2.0.3"}
"""The release by the number of text tokens in its vocabulary."""

_LAYER = "gpt.gpt.h."
# `GPT.__init__` in TTS.tts.layers.xtts.gpt: what it adds to the limits that the config names.
_MEL_EXTRA, _TEXT_EXTRA = 3, 2


class Architecture(NamedTuple):
    """Sizes of a model. None where the tensors and the config do not tell.

    Attributes:
        layers: Transformer layers of the GPT.
        width: Its channels.
        heads: Its attention heads; only the config holds their number.
        text_tokens: Rows of the text embedding.
        audio_tokens: Rows of the embedding of audio codes.
        max_text_tokens: Longest text, in tokens.
        max_audio_tokens: Longest speech, in audio codes.
        perceiver: Whether voices go through a perceiver, as in XTTS v2.
        parameters: Number of floating-point inference weights.
        release: The release that has this vocabulary, None for an extended or custom one.
    """

    layers: int
    width: int | None
    heads: int | None
    text_tokens: int | None
    audio_tokens: int | None
    max_text_tokens: int | None
    max_audio_tokens: int | None
    perceiver: bool
    parameters: int
    release: str | None

    def to_dict(self) -> dict[str, Any]:
        """The attributes, for JSON."""
        return self._asdict()


def architecture_of(tensors: Mapping[str, Tensor], config: dict[str, Any] | None = None) -> Architecture:
    """Derive the architecture from the shapes.

    Args:
        tensors: The inference model by bare names.
        config: The model's config, for the number of heads, which no shape shows.
    """
    layers = {name[len(_LAYER) :].partition(".")[0] for name in tensors if name.startswith(_LAYER)}
    text_tokens, width = _sizes(tensors, "gpt.text_embedding.weight")
    audio_tokens, _ = _sizes(tensors, "gpt.mel_embedding.weight")
    text_positions, _ = _sizes(tensors, "gpt.text_pos_embedding.emb.weight")
    audio_positions, _ = _sizes(tensors, "gpt.mel_pos_embedding.emb.weight")
    heads = model_args(config).get("gpt_n_heads")
    return Architecture(
        layers=sum(layer.isdigit() for layer in layers),
        width=width,
        heads=heads if isinstance(heads, int) else None,
        text_tokens=text_tokens,
        audio_tokens=audio_tokens,
        max_text_tokens=text_positions - _TEXT_EXTRA if text_positions is not None else None,
        max_audio_tokens=audio_positions - _MEL_EXTRA if audio_positions is not None else None,
        perceiver="gpt.conditioning_perceiver.latents" in tensors,
        parameters=sum(tensor.numel for tensor in tensors.values() if tensor.dtype.is_float),
        release=RELEASES.get(text_tokens) if text_tokens is not None else None,
    )


def _sizes(tensors: Mapping[str, Tensor], name: str) -> tuple[int | None, int | None]:
    tensor = tensors.get(name)
    return (tensor.shape[0], tensor.shape[1]) if tensor is not None and len(tensor.shape) == 2 else (None, None)
