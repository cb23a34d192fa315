"""File systems of their own, each in a file: to fill one up, and to have those that share blocks. Linux and root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLONING = ("xfs", "btrfs")
"""Kinds that share blocks."""

SMALLEST = {"ext4": 24 << 20, "xfs": 320 << 20, "btrfs": 512 << 20}
"""Bytes with which each kind can be made, and a training of the light model fits."""

_OPTIONS = {"ext4": ["-m", "0"]}


@contextmanager
def mounted(kind: str, base: Path, nbytes: int | None = None) -> Iterator[Path]:
    """Make a file system in a sparse file, and remove both afterwards.

    Args:
        kind: ``ext4``, ``xfs`` or ``btrfs``.
        base: An existing folder for the file and the mount.
        nbytes: Its size; by default as small as it can be.

    Yields:
        Its folder.

    Raises:
        OSError, subprocess.CalledProcessError: Where such a file system cannot be made or mounted.
    """
    image, mount = base / f"{kind}.img", base / kind
    with image.open("wb") as file:
        file.truncate(nbytes or SMALLEST[kind])
    mount.mkdir()
    try:
        subprocess.run([f"mkfs.{kind}", "-q", *_OPTIONS.get(kind, []), image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, mount], check=True, capture_output=True)
        try:
            yield mount
        finally:
            subprocess.run(["umount", "-l", mount], check=False)
    finally:
        image.unlink()
        with contextlib.suppress(OSError):
            mount.rmdir()


def can_mount(kind: str) -> bool:
    """Whether this user and this system may be able to; a container can still refuse."""
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which(f"mkfs.{kind}") is not None


def used_bytes(folder: Path) -> int:
    """Bytes in use on the file system of a folder, after everything has reached it."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    subprocess.run(["sync", "-f", folder], check=True)
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize
