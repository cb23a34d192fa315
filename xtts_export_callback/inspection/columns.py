"""Fits the columns of a table to the width of a terminal: the first always stays."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

GAP = 2
"""Spaces between two columns."""

_LEAST = 24  # a name is shortened to this many characters before a column goes
_MARK = "\u2026"


def fitting(
    titles: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, dispensable: Sequence[str]
) -> tuple[list[int], int]:
    """Choose the columns that fit.

    Args:
        titles: Headings of the columns.
        rows: The cells.
        width: Characters of the terminal.
        dispensable: Headings of columns that may go, the first to go first.

    Returns:
        Indices of the columns that stay, and the characters that the first one has.
    """
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    least = max(min(widths[0], _LEAST), len(titles[0]))
    stay = list(range(len(titles)))
    for title in [*dispensable, None]:
        rest = sum(widths[index] + GAP for index in stay[1:])
        if title is None or least + rest <= width:
            break
        stay.remove(titles.index(title))
    return stay, max(min(widths[0], width - rest), least)


def shortened(name: str, width: int) -> str:
    """Cut the middle out of a name that is too long: both ends tell names of tensors and runs apart.

    An indentation stays, as far as it leaves half of the width to the name.
    """
    if len(name) <= width:
        return name
    indent = min(len(name) - len(name.lstrip(" ")), width // 2)
    room, name = width - indent, name.lstrip(" ")
    if len(name) > room:
        right = (room - 1) * 2 // 3
        name = f"{name[: room - 1 - right]}{_MARK}{name[len(name) - right :]}"
    return " " * indent + name


def filled(sentence: str, width: int) -> list[str]:
    """Break a sentence into lines; a number and its % stay together."""
    lines = textwrap.wrap(sentence.replace(" %", "\u00a0%"), max(width, 1), break_on_hyphens=False)
    return [line.replace("\u00a0%", " %") for line in lines]
