"""Disk space: what is free, and what files take."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.files.clone import shared_extents

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk where a folder lies or will lie."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


class DiskSpace:
    """Counts what files take on the disk: their sizes, with each file of several names and each shared block once.

    What a file shares is looked up once, so that every report takes a new one.
    """

    def __init__(self) -> None:
        self._shared: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def of(self, *paths: Path, without: Iterable[Path] = ()) -> int:
        """Return the bytes of files and of all files below folders; links that point elsewhere take nothing.

        Args:
            paths: Files and folders.
            without: Files and folders that do not count, nor what is below them.
        """
        sizes: dict[tuple[int, int], int] = {}
        shared: dict[int, list[tuple[int, int]]] = {}
        for path in _files(paths, set(without)):
            with contextlib.suppress(OSError):  # removed in the meantime
                status = path.lstat()
                key = (status.st_dev, status.st_ino or hash(path))
                if stat.S_ISREG(status.st_mode) and key not in sizes:
                    sizes[key] = status.st_size
                    shared.setdefault(status.st_dev, []).extend(self._shared_by(path, key))
        return sum(sizes.values()) - sum(_counted_twice(extents) for extents in shared.values())

    def freed_by(self, folder: Path, *removed: Path) -> int:
        """Return the bytes that removing some of what is in a folder frees: the rest still uses what it shares."""
        return self.of(folder) - self.of(folder, without=removed)

    def _shared_by(self, path: Path, key: tuple[int, int]) -> list[tuple[int, int]]:
        if key not in self._shared:
            fd = os.open(path, os.O_RDONLY)
            try:
                self._shared[key] = shared_extents(fd)
            finally:
                os.close(fd)
        return self._shared[key]


def _files(paths: Iterable[Path], without: set[Path]) -> Iterator[Path]:
    for path in paths:
        if path in without:
            continue
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # removed in the meantime
                yield from _files(list(path.iterdir()), without)
        else:
            yield path


def _counted_twice(extents: list[tuple[int, int]]) -> int:
    """Return by how much the lengths of extents exceed the bytes that they cover."""
    excess = reached = 0
    for start, stop in sorted(extents):
        excess += max(0, min(stop, reached) - start)
        reached = max(reached, stop)
    return excess
