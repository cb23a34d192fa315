"""Paths as people and files write them."""

from __future__ import annotations

import os
from pathlib import Path


def can_be_path(text: str) -> bool:
    """Whether a text can name a file at all: no null character, and nothing that names of files cannot hold."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with ``~`` expanded; that of a user who is not there stays as it is, and is not found."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
