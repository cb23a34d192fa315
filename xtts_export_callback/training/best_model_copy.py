"""Replaces ``best_model.pth``, the Trainer's second copy of its best model, whole and never in place."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.files.atomic import temporary_name
from xtts_export_callback.files.random_access import sync_directory, sync_file
from xtts_export_callback.run.checkpoints import SHORTCUT
from xtts_export_callback.run.log import training_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xtts_export_callback.training.config import ExportConfig

logger = training_logger()


class Shortcut:
    """Makes ``best_model.pth``."""

    def __init__(self, trainer: Any, options: ExportConfig, *, copy_later: Callable[[Path, Path], None]) -> None:
        """Take ``copy_later``, which replaces the link (second argument) by a copy of the linked file (first)."""
        self._trainer = trainer
        self._options = options
        self._copy_later = copy_later

    def make(self, source: Path, target: Path) -> None:
        """Make ``best_model.pth`` a hard link to the best model, which takes no time and no space.

        The Trainer never writes into it while the callback is on. It stays a link only on request, and only where the
        Trainer alone would remove it before the next copy: with ``save_all_best`` it writes into the existing file.
        """
        link = temporary_name(target)
        try:
            try:
                os.link(source, link)
                is_link = True
            except OSError:  # a file system without links
                shutil.copyfile(source, link)
                sync_file(link)
                is_link = False
            link.replace(target)
            sync_directory(target.parent)
        except OSError as error:
            logger.error(" ! EXPORT : %s was not renewed: %s", target, error)
            return
        finally:
            with contextlib.suppress(OSError):  # renaming one link of a file to another leaves both
                link.unlink(missing_ok=True)
        if is_link and not self._stays_link:
            self._copy_later(source, target)

    def renew(self, best: Path | None) -> None:
        """Write the ``best_model.pth`` that a kill has prevented.

        Args:
            best: The newest ``best_model_N.pth``.

        Raises:
            CheckpointError: When it cannot be read.
        """
        if best is None:
            return
        shortcut = best.with_name(SHORTCUT)
        if not shortcut.exists() or shortcut.samefile(best):
            self.make(best, shortcut)
            return
        with open_checkpoint(best) as expected, open_checkpoint(shortcut) as found:
            is_same = found.fingerprint() == expected.fingerprint()
        if not is_same or self._stays_link:
            self.make(best, shortcut)

    @property
    def _stays_link(self) -> bool:
        return self._options.link_best_model and not self._trainer.config.save_all_best
