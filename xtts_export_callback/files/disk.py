"""What a run takes on the disk, and making room for more."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xtts_export_callback.inference_folder.folder import folder_bytes
from xtts_export_callback.run.checkpoints import SHORTCUT, find_checkpoints, find_exports, remove_export

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

GB = 1e9


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written where a folder lies, or will lie."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def used_bytes(folder: Path) -> int:
    """Bytes of all files in a folder and below; a file with several names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                stat = Path(parent, name).lstat()
                sizes[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(sizes.values())


def exports_bytes(folder: Path) -> int:
    """Bytes of what a folder of exports shows; what is hidden there is on its way in or out."""
    if not folder.is_dir():
        return 0
    return sum(used_bytes(entry) for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


class DiskUse(NamedTuple):
    """Bytes that a run takes.

    Attributes:
        checkpoints: The Trainer's own files.
        exports: What the folder of exports shows.
        stock: What the stock recipe would have taken for the same checkpoints.
    """

    checkpoints: int
    exports: int
    stock: int


def use_of(run: Path, exports: Path, full_bytes: Mapping[str, int]) -> DiskUse:
    """What a run takes on the disk.

    Args:
        run: The run folder.
        exports: Its folder of exports.
        full_bytes: Size by kind of what the stock recipe would have saved.
    """
    saved = find_checkpoints(run)
    files = [*(file.path for file in saved), *run.glob(SHORTCUT)]
    own = sum({(s.st_dev, s.st_ino): s.st_size for s in (file.stat() for file in files)}.values())
    stock = sum(full_bytes.get(file.kind) or max(full_bytes.values(), default=0) for file in saved)
    if any(file.kind == "best_model" for file in saved):
        stock += full_bytes.get("best_model", 0)
    return DiskUse(own, exports_bytes(exports), stock)


def prune_to(folder: Path, limit: float, *, protected: Collection[str] = ()) -> list[str]:
    """Remove exports, the oldest by step first, until a folder takes no more than a limit.

    Exports of checkpoints go before those of best models, and the newest of either last of its kind; one export always
    stays.

    Args:
        folder: The folder of exports.
        limit: Bytes.
        protected: Names that stay.

    Returns:
        Names of the exports that were removed. Only folders that are wholly ours are ever touched.
    """
    removed: list[str] = []
    total = exports_bytes(folder)
    for name in removable(folder, protected=protected):
        if total <= limit:
            break
        nbytes = folder_bytes(folder / name)
        if remove_export(folder / name):
            total -= nbytes
            removed.append(name)
    return removed


def removable(folder: Path, *, protected: Collection[str] = ()) -> list[str]:
    """Exports that may be removed, in the order of `prune_to`: all that are there but one."""
    exports = find_exports(folder)
    checkpoints = [saved for saved in exports if saved.kind == "checkpoint"]
    best = [saved for saved in exports if saved.kind == "best_model"]
    order = [*checkpoints[:-1], *best[:-1], *sorted([*checkpoints[-1:], *best[-1:]])]
    return [saved.name for saved in order[:-1] if saved.name not in protected]
