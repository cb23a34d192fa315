"""Which tensors a rule matches: patterns over whole dotted names, and short names for the parts of XTTS."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ALIASES = {
    "gpt": "gpt.**",
    "perceiver": "gpt.conditioning_perceiver.**",
    "conditioning_encoder": "gpt.conditioning_encoder.**",
    "text_embedding": "gpt.text_embedding.**",
    "decoder": "hifigan_decoder.waveform_decoder.**",
    "speaker_encoder": "hifigan_decoder.speaker_encoder.**",
}
"""Modules of ``TTS.tts.models.xtts.Xtts``. ``gpt`` includes perceiver, conditioning encoder and text embedding, so a
rule for one of those has to precede one for ``gpt``."""

_DEEP = "**"


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern or alias matches the name of a tensor.

    Patterns are anchored at both ends. ``*``, ``?`` and ``[...]`` stay within one component of the dotted name; ``**``
    stands for one or more whole components.

    Example:
        >>> matches("gpt.gpt.h.1.**", "gpt.gpt.h.1.attn.c_attn.weight")
        True
        >>> matches("gpt.gpt.h.1.**", "gpt.gpt.h.11.attn.c_attn.weight")
        False
    """
    return _match(ALIASES.get(pattern, pattern).split("."), name.split("."))


def _match(pattern: list[str], parts: list[str]) -> bool:
    """Backtrack to the last ``**`` only, so that the time is at most the product of the lengths."""
    at = position = 0
    deep_at, deep_end = -1, 0
    while position < len(parts):
        if at < len(pattern) and pattern[at] == _DEEP:
            deep_at, deep_end = at, position + 1
            at, position = at + 1, position + 1
        elif at < len(pattern) and fnmatchcase(parts[position], pattern[at]):
            at, position = at + 1, position + 1
        elif deep_at >= 0:
            deep_end += 1
            at, position = deep_at + 1, deep_end
        else:
            return False
    return at == len(pattern)


def suggestion(pattern: str, names: Iterable[str]) -> str:
    """Suggest another pattern for one that matches nothing, as the end of a message."""
    names = list(names)
    if any(matches(f"{pattern}.{_DEEP}", name) for name in names):
        return f"; did you mean {pattern}.{_DEEP}?"
    prefixes = {".".join(name.split(".")[:depth]) + f".{_DEEP}" for name in names for depth in range(1, 5)}
    close = get_close_matches(pattern, [*ALIASES, *names, *sorted(prefixes)], n=1)
    return f"; did you mean {close[0]}?" if close else f"; aliases are {', '.join(ALIASES)}"
