"""Makes the Trainer's own files appear whole or not at all, and without the state that the options leave out.

`trainer.io` writes in place: a kill in the middle leaves a truncated file under its final name, which the next resume
picks. While a save runs, the functions that it writes with are therefore replaced: by one that writes under a hidden
name and renames, and by one that replaces ``best_model.pth`` whole (`best_model_copy`).

Waiting for the disk would delay training for as long as the save itself. So a file gets its name at once and is synced
in the background; until then a hard link keeps the file before it, which the Trainer's retention may remove.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.files.atomic import hard_link, temporary_name
from xtts_export_callback.files.disk import free_bytes
from xtts_export_callback.files.paths import signature
from xtts_export_callback.files.random_access import sync_directory, sync_file
from xtts_export_callback.run.checkpoints import find_checkpoints
from xtts_export_callback.run.log import training_logger
from xtts_export_callback.training.best_model_copy import Shortcut
from xtts_export_callback.training.hooks import exchanged_writing, place_of
from xtts_export_callback.training.log import guarded
from xtts_export_callback.training.save_errors import WHAT_TO_DO, SaveError, save_error
from xtts_export_callback.training.trainer_state import state_bytes, weights_only
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xtts_export_callback.run.checkpoints import Saved
    from xtts_export_callback.training.config import ExportConfig

    Save = Callable[..., None]

logger = training_logger()

_TICK = 0.2  # seconds; on Windows a wait without a limit cannot be interrupted


class TrainerSaves:
    """Writes the saves of one Trainer.

    Attributes:
        shortcut: Makes ``best_model.pth``.
        full_bytes: Largest file by kind (``"checkpoint"``, ``"best_model"``) that the stock recipe would have saved.
        overhead: Seconds that the last save took beyond the Trainer's own writing.
    """

    def __init__(self, trainer: Any, options: ExportConfig, *, copy_later: Callable[[Path, Path], None]) -> None:
        """Take ``copy_later``, which replaces the link (second argument) by a copy of the linked file (first)."""
        self._trainer = trainer
        self._options = options
        self.shortcut = Shortcut(trainer, options, copy_later=copy_later)
        self.full_bytes: dict[str, int] = {}
        self.overhead = 0.0
        self._durable: dict[str, tuple[int, Path]] = {}
        self._syncing: list[tuple[str, threading.Thread]] = []
        self._saved = 0

    def perform(self, save: Callable[[], None], saved: Saved, *, make_room: Callable[[int], bool]) -> bool:
        """Let the Trainer save. An error of the disk does not end training.

        Args:
            save: The Trainer's own method.
            saved: What it saves.
            make_room: Makes room for a number of bytes and returns whether it did; then the save is tried again.

        Returns:
            Whether there is a new file.
        """
        before = _signature(saved.path)
        try:
            try:
                with self.whole():
                    save()
            except SaveError as error:
                if not (error.is_full and guarded("no room was made for the save", partial(make_room, error.needed))):
                    raise
                with self.whole():
                    save()
        except SaveError as error:
            logger.error(" ! EXPORT : %s; training goes on. %s", error, WHAT_TO_DO)
        except OSError as error:
            logger.error(" ! EXPORT : %s: the Trainer's save failed: %s", saved.name, error)
        except KeyboardInterrupt:
            if saved.kind == "best_model" and _signature(saved.path) in (None, before):
                line = " ! EXPORT : %s was not saved: interrupted; the checkpoint that follows has the same weights"
                logger.warning(line, saved.path.name)  # the Trainer has logged the name of the file already
            raise
        return _signature(saved.path) not in (None, before)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within the block the Trainer's saves appear whole or not at all.

        Yields:
            Nothing. Afterwards the Trainer's own functions are back.

        Raises:
            SaveError: When a file could not be written.
        """
        run = place_of(self._trainer.output_path)

        def save(write: Save, state: Any, path: Any, **options: Any) -> None:
            self._save(write, state, path, options)

        with exchanged_writing(self._trainer, run, save=save, make_shortcut=self.shortcut.make):
            yield

    def _save(self, write: Save, state: Any, path: Any, options: dict[str, Any]) -> None:
        path = place_of(path)
        kind = path.stem.rpartition("_")[0]
        started = time.perf_counter()
        full = guarded(f"the size of {path.name} is not known", partial(state_bytes, state)) or 0
        needed = full
        if getattr(self._options, f"{kind}_state", "full") == "weights":
            less = guarded(f"{path.name} keeps its optimizer state", partial(weights_only, state, self._trainer))
            state = less or state
            needed = guarded(f"the size of {path.name} is not known", partial(state_bytes, state)) or 0
        with contextlib.suppress(Exception):  # a failed estimate, as on some network mounts, must not stop a save
            self._warn_of_lack(path, needed)
        temporary = temporary_name(path)
        held, is_held = guarded(f"{path.name} waits for the disk", partial(self._hold, kind)) or (None, False)
        handled = sys.exc_info()[1]  # such as the Ctrl-C that causes a last save
        try:
            before = time.perf_counter()
            write(state, temporary, **options)
            writing = time.perf_counter() - before
            size = temporary.stat().st_size
            if not is_held:
                sync_file(temporary)
            temporary.replace(path)
            guarded(f"{path.name} may not be whole on the disk", partial(self._sync_later, kind, path, held))
        except BaseException as error:
            with contextlib.suppress(OSError):
                if held is not None:
                    held.unlink()
            instead = save_error(error, handled, name=path.name, needed=needed)
            if instead is error:
                raise
            raise instead from (error if isinstance(instead, SaveError) else None)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.full_bytes[kind] = max(self.full_bytes.get(kind, 0), full - needed + size)
        self.overhead = time.perf_counter() - started - writing

    def _hold(self, kind: str) -> tuple[Path | None, bool]:
        """Keep the last file of a kind that is safely on the disk, whatever the Trainer's retention removes.

        Returns:
            Its second name, and whether the new file may be synced later: False on a file system without links.
        """
        _, durable = self._durable.get(kind, (0, None))
        if durable is None or not durable.exists():
            self.wait(kind)  # no older file is left, and the last one is not synced yet
            durable = self._newest(kind)
        if durable is None:
            return None, True
        held = temporary_name(durable, "old")
        try:
            hard_link(durable, held)
        except OSError:
            return None, False
        return held, True

    def _newest(self, kind: str) -> Path | None:
        """The last file of a kind that is on the disk; files of an earlier process are assumed to be."""
        _, durable = self._durable.get(kind, (0, None))
        if durable is not None and durable.exists():
            return durable
        found = [saved.path for saved in find_checkpoints(place_of(self._trainer.output_path)) if saved.kind == kind]
        return found[-1] if found else None

    def _sync_later(self, kind: str, path: Path, held: Path | None) -> None:
        """Sync a file to the disk in the background, and only then release the one before it.

        What a killed process has written survives it; only a failure of the machine loses it.
        """
        self._saved += 1
        number = self._saved

        def run() -> None:
            try:
                sync_file(path)
                sync_directory(path.parent)
            except FileNotFoundError:
                pass  # removed by retention already
            except OSError as error:
                logger.error(" ! EXPORT : %s may not be whole on the disk: %s", path.name, error)
                return  # the held file comes back when the run is resumed (`remove_leftovers`)
            self._durable[kind] = max(self._durable.get(kind, (0, path)), (number, path))
            if held is not None:
                with contextlib.suppress(OSError):
                    held.unlink()

        thread = threading.Thread(target=run, name="xtts-export-sync", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads are allowed, so training waits
            run()
            return
        self._syncing = [*(each for each in self._syncing if each[1].is_alive()), (kind, thread)]

    def wait(self, kind: str | None = None, *, until: float = math.inf) -> None:
        """Wait until the saves of one kind, or of all kinds, are on the disk, or `time.monotonic` reaches ``until``."""
        for thread in [thread for name, thread in self._syncing if kind in (None, name)]:
            while thread.is_alive() and time.monotonic() < until:
                thread.join(_TICK)

    def _warn_of_lack(self, path: Path, needed: int) -> None:
        free = free_bytes(path.parent)
        older = [saved.path for saved in find_checkpoints(path.parent) if saved.kind == "checkpoint"]
        keep = self._trainer.config.save_n_checkpoints
        leaves = older[0].stat().st_size if path.name.startswith("checkpoint") and keep and len(older) >= keep else 0
        if free < needed:
            when = "this save will not fit"
        elif free - needed + leaves < needed:
            when = "this save fits, the next one will not"
        else:
            return
        logger.warning(
            " ! EXPORT : %s needs %s, %s free: %s. %s",
            path.name,
            human_size(needed),
            human_size(free),
            when,
            WHAT_TO_DO,
        )


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        return signature(path)
    except OSError:
        return None
