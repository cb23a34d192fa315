"""The parts of XTTS v2 that a comparison reports on: finer than components, coarser than tensors.

Module names from ``TTS.tts.layers.xtts.gpt.GPT`` and, for the transformer's layers, ``transformers``' ``GPT2Block``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from xtts_export_callback.xtts.components import BY_KEY, component_of

_LAYER = re.compile(r"gpt\.gpt\.h\.(\d+)\.(.+)")
_GPT_PARTS = (
    ("gpt.text_embedding", "text embedding"),
    ("gpt.mel_embedding", "audio embedding"),
    ("gpt.text_pos_embedding", "position embeddings"),
    ("gpt.mel_pos_embedding", "position embeddings"),
    ("gpt.conditioning_encoder", "conditioning encoder"),
    ("gpt.conditioning_perceiver", "perceiver"),
    ("gpt.gpt.ln_f", "final norms"),
    ("gpt.final_norm", "final norms"),
    ("gpt.text_head", "text head"),
    ("gpt.mel_head", "audio head"),
)
KINDS = (
    "ln_1.weight",
    "ln_1.bias",
    "attn.c_attn.weight",
    "attn.c_attn.bias",
    "attn.c_proj.weight",
    "attn.c_proj.bias",
    "ln_2.weight",
    "ln_2.bias",
    "mlp.c_fc.weight",
    "mlp.c_fc.bias",
    "mlp.c_proj.weight",
    "mlp.c_proj.bias",
)
"""Weights of a GPT layer in the order in which data passes through them."""


class Part(NamedTuple):
    """Where a tensor belongs.

    Attributes:
        component: Key of its component.
        title: Part of the component; the layer's number for a layer of the GPT.
        layer: Number of the GPT layer, None outside of them.
        kind: Kind of weight in a GPT layer, empty outside of them.
    """

    component: str
    title: str
    layer: int | None
    kind: str


def part_of(name: str) -> Part:
    """Return the part that a tensor belongs to.

    Args:
        name: Its bare name.

    Example:
        >>> part_of("gpt.gpt.h.7.attn.c_attn.bias")
        Part(component='gpt', title='layer 7', layer=7, kind='attn.c_attn.bias')
    """
    component = component_of(name)
    match = _LAYER.fullmatch(name) if component == "gpt" else None
    if match is not None:
        return Part(component, f"layer {match[1]}", int(match[1]), match[2])
    if component == "gpt":
        for prefix, title in _GPT_PARTS:
            if name.startswith(f"{prefix}."):
                return Part(component, title, None, "")
        return Part(component, "rest of the GPT", None, "")
    return Part(component, BY_KEY[component].title, None, "")
