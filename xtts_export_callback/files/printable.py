"""Make strings from files, and file names, safe for a terminal and a log.

A file name may hold a line feed, and a string in a checkpoint an escape sequence. Printed unchanged, they forge lines,
retitle windows and hide the text before them.
"""

from __future__ import annotations

import re

# Control characters (C0, C1), marks and overrides of the writing direction, line separators, lone surrogates.
_UNFIT = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"


def printable(text: object) -> str:
    r"""Return one line in which characters that control a terminal are shown as escapes.

    Example:
        >>> printable("run\x1b[2J")
        'run\\x1b[2J'
    """
    line = str(text)
    if line.isprintable():  # nearly always; Python then has no pattern to compile as it starts
        return line
    return re.sub(_UNFIT, lambda found: repr(found[0])[1:-1], line)
