"""Disk space: what is free, and what a folder takes."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk where a folder lies or will lie."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def used_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; a file with several names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed in the meantime
                stat = Path(parent, name).lstat()
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())
