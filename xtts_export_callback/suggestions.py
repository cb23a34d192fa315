"""Suggests the name that was meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean X?)"`` for the name in ``known`` nearest to ``name``, or nothing."""
    import difflib  # only an error needs it

    bare = {each.lstrip("-"): each for each in known}  # the dashes of two options do not make them alike
    close = difflib.get_close_matches(name.lstrip("-"), list(bare), n=1)
    return f" (did you mean {bare[close[0]]}?)" if close else ""
