"""Removes exports while a run trains, by ``keep_last``, ``max_disk_gb`` and the best models that the Trainer keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.files import disk
from xtts_export_callback.inference_folder.ownership import folder_bytes
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.run import retention
from xtts_export_callback.run.checkpoints import Saved, find_checkpoints, find_exports
from xtts_export_callback.run.log import training_logger

if TYPE_CHECKING:
    from pathlib import Path

    from xtts_export_callback.training.config import ExportConfig

logger = training_logger()


class ExportRetention:
    """Removes exports of one run according to its options.

    Attributes:
        latest: Name of the export of the newest checkpoint, which is never removed.
    """

    def __init__(
        self, run: Path, options: ExportConfig, *, keeps_all_best: bool = True, resumed_from: str = ""
    ) -> None:
        """Take the run and its options.

        Args:
            run: The run folder.
            options: Only ``keep_last``, ``average_last``, ``max_disk_gb`` and ``folder`` are used.
            keeps_all_best: Whether the exports of earlier best models stay: the Trainer's ``save_all_best``.
            resumed_from: Name of the export whose checkpoint the run was resumed from; it is never removed.
        """
        self.latest = ""
        self._run = run
        self._folder = run / options.folder
        self._options = options
        self._keeps_all_best = keeps_all_best
        self._resumed_from = resumed_from

    @property
    def keep(self) -> int:
        """Exports kept while training: the average at the end still needs its inputs."""
        return max(self._options.keep_last, self._options.average_last) if self._options.keep_last else 0

    def before_export(self) -> None:
        """Make room in the budget for an export as large as the largest."""
        self._honour_budget(coming=self._largest())

    def after_export(self, saved: Saved) -> None:
        """Remove the exports that a new one displaces."""
        if saved.kind == "best_model":
            self._prune_best(saved)
        else:
            self._prune(self.keep, written=saved.name)
        self._honour_budget()

    def after_average(self) -> None:
        """Apply ``keep_last`` alone: the average no longer needs its inputs."""
        self._prune(self._options.keep_last)
        self._honour_budget()

    def has_room_for_older(self) -> bool:
        """Whether one more export fits into the budget: an older one must not displace a newer one."""
        if not self._options.max_disk_gb:
            return True
        return retention.exports_bytes(self._folder) + self._largest() <= self._budget

    def make_room(self, needed: int) -> bool:
        """Remove old exports for a save of ``needed`` bytes if ``max_disk_gb`` allows it.

        Returns:
            Whether any was removed.
        """
        if not self._options.max_disk_gb:
            return False
        lacking = needed - disk.free_bytes(self._run)
        left = retention.exports_bytes(self._folder) - lacking
        removed = retention.prune_to(self._folder, left, protected=self._protected)
        for name in removed:
            logger.warning(" ! EXPORT : %s removed to make room for a save", name)
        return bool(removed)

    @property
    def _budget(self) -> float:
        return self._options.max_disk_gb * retention.GB

    @property
    def _protected(self) -> set[str]:
        best = {f"checkpoint_{saved.step}" for saved in find_checkpoints(self._run) if saved.kind == "best_model"}
        return {*best, self._resumed_from, self.latest}

    def _largest(self) -> int:
        return max((folder_bytes(saved.path) for saved in find_exports(self._folder)), default=0)

    def _prune(self, keep: int, *, written: str = "") -> None:
        """Apply ``keep_last``; in a run resumed from an older step, the new export may be the oldest."""
        for name in retention.prune_exports(self._folder, keep, protected={*self._protected, written}):
            logger.info(" > EXPORT : %s removed: keep_last is %i", name, self._options.keep_last)

    def _honour_budget(self, *, coming: int = 0) -> None:
        if not self._options.max_disk_gb:
            return
        for name in retention.prune_to(self._folder, self._budget - coming):
            logger.info(" > EXPORT : %s removed: max_disk_gb is %g", name, self._options.max_disk_gb)

    def _prune_best(self, newest: Saved) -> None:
        """Keep the exports of best models that the Trainer keeps, and its newest in any case."""
        if self._keeps_all_best or read_provenance(self._folder / newest.name) is None:
            return
        kept = {saved.name for saved in find_checkpoints(self._run)} | {newest.name, self._resumed_from}
        for saved in find_exports(self._folder):
            if saved.kind == "best_model" and saved.name not in kept:
                retention.remove_export(saved.path)
