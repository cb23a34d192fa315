"""Sizes as users see them in file listings: decimal units."""

from __future__ import annotations


def human_size(nbytes: int) -> str:
    """Format a number of bytes for people.

    Example:
        >>> human_size(1_857_209_972)
        '1.86 GB'
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.2f} {unit}"
    return f"{nbytes} B"
