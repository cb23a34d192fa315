"""Paths as people and files write them."""

from __future__ import annotations

import os
from pathlib import Path


def can_be_path(text: str) -> bool:
    """Whether a text can be a path: it has no null character, and the system can encode it."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def expanded(path: str | os.PathLike[str]) -> Path:
    """Expand ``~`` in a path; the home of an unknown user stays as written, and is not found."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def signature(path: Path) -> tuple[int, ...]:
    """Return what differs for another file and for one that was written to since: time of change, size, inode.

    Raises:
        OSError: When there is no such file.
    """
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
