"""``best_model.pth``, the Trainer's second copy of its best model: never half there, and never written into."""

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
    """How ``best_model.pth`` is made."""

    def __init__(self, trainer: Any, options: ExportConfig, *, copy_later: Callable[[Path, Path], None]) -> None:
        """Take what replaces the link ``best_model.pth`` (second argument) by a copy of the file linked to (first)."""
        self._trainer = trainer
        self._options = options
        self._copy_later = copy_later

    def make(self, source: Path, target: Path) -> None:
        """Point ``best_model.pth`` at the best model with a link, which is there at once and costs nothing.

        The Trainer never writes into it while we are there. It stays a link only if asked for, and only where the
        Trainer removes it before the next copy even without us: with ``save_all_best`` it writes into what is there.
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
            with contextlib.suppress(OSError):  # renaming one name of a file to another of the same file leaves both
                link.unlink(missing_ok=True)
        if is_link and not self._stays_link:
            self._copy_later(source, target)

    def renew(self, best: Path | None) -> None:
        """Make up for a ``best_model.pth`` that a kill has prevented.

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
