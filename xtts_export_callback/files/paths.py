"""Paths as people and files write them."""

from __future__ import annotations

import os
from pathlib import Path

from xtts_export_callback.files.remote import RemotePath, is_url, remote_path


def can_be_path(text: str) -> bool:
    """Whether a text can be a path: it has no null character, and the system can encode it."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def as_path(path: str | os.PathLike[str]) -> Path:
    """Return a path of this machine, or one behind a URL (`files.remote`).

    Raises:
        ConfigError: When something is neither.
    """
    if isinstance(path, RemotePath):
        return path
    return remote_path(os.fspath(path)) if is_url(path) else Path(path)


def is_there(path: Path) -> bool:
    """Whether something has this name, a link that leads nowhere too."""
    return path.exists() if isinstance(path, RemotePath) else os.path.lexists(path)


def expanded(path: str | os.PathLike[str]) -> Path:
    """Do the same as `as_path` and expand ``~``; the home of an unknown user stays as written, and is not found."""
    try:
        return as_path(path).expanduser()
    except RuntimeError:
        return Path(path)


def signature(path: Path) -> tuple[int, ...]:
    """Return what differs for another file and for one that was written to since: time of change, size, inode.

    Raises:
        OSError: When there is no such file.
    """
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
