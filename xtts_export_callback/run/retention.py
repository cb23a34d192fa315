"""Choose the exports of a run to remove, remove them, and measure the disk space of the run."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

from xtts_export_callback.files.atomic import temporary_name
from xtts_export_callback.files.disk import DiskSpace
from xtts_export_callback.inference_folder.ownership import folder_bytes, not_ours
from xtts_export_callback.run.checkpoints import SHORTCUT, find_checkpoints, find_exports, find_running_means
from xtts_export_callback.run.log import training_logger

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

GB = 1e9
_SHARES_NEARLY_ALL = 10  # times more bytes than its removal would free
_kept: set[Path] = set()  # folders that the log has named already


def prune_exports(folder: Path, keep_last: int, *, protected: Collection[str] = ()) -> list[str]:
    """Remove the oldest exports of ``checkpoint_*``, and of ``running_mean_*``, by step number.

    Args:
        folder: The folder of exports.
        keep_last: How many to keep; 0 keeps all.
        protected: Names that always stay.

    Returns:
        Names of the removed exports. Folders with files that are not ours stay.
    """
    if keep_last < 1:
        return []
    exports = [saved for saved in find_exports(folder) if saved.kind == "checkpoint"]
    old = exports[:-keep_last] + find_running_means(folder)[:-keep_last]
    return [saved.name for saved in old if saved.name not in protected and remove_export(saved.path)]


def remove_export(path: Path) -> bool:
    """Remove an export. It loses its name first, so that it is never visible in part.

    Returns:
        False where the folder holds files that are not ours. It then stays, and the log says so once.
    """
    names = {entry.name for entry in path.iterdir()}
    foreign = not_ours(path)
    if not foreign:
        hidden = temporary_name(path)
        path.rename(hidden)
        foreign = sorted({entry.name for entry in hidden.iterdir()} - names)  # added at the last moment
        if not foreign:
            shutil.rmtree(hidden, ignore_errors=True)
            return True
        hidden.rename(path)
    if path not in _kept:
        _kept.add(path)
        what = ", ".join(foreign[:3])
        line = " ! EXPORT : %s is not removed: it contains files that we did not write, or that changed since (%s)"
        training_logger().warning(line, path, what)
    return False


def exports_bytes(folder: Path) -> int:
    """Return the bytes that the exports of a run take beyond the rest of it.

    Args:
        folder: The folder of exports, inside the run folder. Its visible entries count; hidden ones are being written
            or removed. What an export shares with its checkpoint counts once the checkpoint is gone.
    """
    if not folder.is_dir():
        return 0
    exports = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return DiskSpace().freed_by(folder.parent, *exports)


class DiskUse(NamedTuple):
    """Bytes that a run takes.

    Attributes:
        checkpoints: The Trainer's own files.
        exports: What the visible entries in the folder of exports take beyond them.
        stock: What the stock recipe would take for the same checkpoints.
    """

    checkpoints: int
    exports: int
    stock: int


def use_of(run: Path, exports: Path, full_bytes: Mapping[str, int]) -> DiskUse:
    """Measure what a run takes on the disk.

    Args:
        run: The run folder.
        exports: Its folder of exports.
        full_bytes: Size by kind of what the stock recipe would have saved.
    """
    saved = find_checkpoints(run)
    own = DiskSpace().of(*(path.resolve() for path in (*(file.path for file in saved), *run.glob(SHORTCUT))))
    stock = sum(full_bytes.get(file.kind) or max(full_bytes.values(), default=0) for file in saved)
    if any(file.kind == "best_model" for file in saved):
        stock += full_bytes.get("best_model", 0)
    return DiskUse(own, exports_bytes(exports), stock)


def prune_to(folder: Path, limit: float, *, protected: Collection[str] = ()) -> list[str]:
    """Remove exports, the oldest by step first, until a folder takes no more than a limit.

    Exports of checkpoints go before those of best models, and the newest of each kind goes last. One export always
    stays, and so do those that share nearly all blocks with their checkpoint: removing them would free nothing.

    Args:
        folder: The folder of exports.
        limit: Bytes.
        protected: Names that stay.

    Returns:
        Names of the removed exports. Folders with files that are not ours stay.
    """
    removed: list[str] = []
    space = DiskSpace()
    total = exports_bytes(folder)
    for name in removable(folder, protected=protected):
        if total <= limit:
            break
        nbytes = space.freed_by(folder.parent, folder / name)
        if nbytes * _SHARES_NEARLY_ALL > folder_bytes(folder / name) and remove_export(folder / name):
            total -= nbytes
            removed.append(name)
    return removed


def removable(folder: Path, *, protected: Collection[str] = ()) -> list[str]:
    """Return the exports that may be removed, in the order of `prune_to`: all but one."""
    exports = find_exports(folder)
    checkpoints = [saved for saved in exports if saved.kind == "checkpoint"]
    best = [saved for saved in exports if saved.kind == "best_model"]
    means = find_running_means(folder)
    order = [*checkpoints[:-1], *means[:-1], *best[:-1], *sorted([*checkpoints[-1:], *means[-1:], *best[-1:]])]
    return [saved.name for saved in order[:-1] if saved.name not in protected]
