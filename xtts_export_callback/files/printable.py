"""Text from a file or of a file's name, made fit for a terminal and a log.

A name may hold a line feed, and a string in a checkpoint an escape sequence: printed as they are, they forge lines,
retitle windows and hide what stands before them.
"""

from __future__ import annotations

import re

# Control characters (C0, C1), marks and overrides of the writing direction, separators of lines, halves of a pair.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""One line that shows as escapes what would steer the terminal; everything else stays.

    Example:
        >>> printable("run\x1b[2J")
        'run\\x1b[2J'
    """
    return _UNFIT.sub(lambda found: repr(found[0])[1:-1], str(text))
