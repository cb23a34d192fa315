"""The Trainer's own files, whole or not at all, and without what was not asked for.

`trainer.io` writes in place: a kill in the middle leaves a truncated file under its final name, which the next resume
picks. While a save runs, the functions it writes with are therefore exchanged: for one that writes under a hidden name
and renames, and for a shortcut ``best_model.pth`` that is never half there and never written into.

Waiting for the disk would hold up training for as long as the save itself. So a file has its name at once and is synced
in the background, and until that is done a hard link keeps the one before, which the Trainer's retention may remove.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.checkpoint.files import sync_directory
from xtts_export_callback.checkpoint.publish import temporary_name
from xtts_export_callback.disk import free_bytes
from xtts_export_callback.errors import XttsExportError
from xtts_export_callback.printable import training_logger
from xtts_export_callback.runs import SHORTCUT, find_checkpoints
from xtts_export_callback.schedule import RESUME_KEY, position_of
from xtts_export_callback.sizes import human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xtts_export_callback.config import ExportConfig

    Save = Callable[..., None]

logger = training_logger()

_TICK = 0.2  # seconds; waiting without a limit cannot be interrupted on Windows


class SaveError(XttsExportError):
    """A save of the Trainer's failed and left nothing behind.

    Attributes:
        needed: Bytes that the file would have taken.
        is_full: Whether it failed for lack of space.
    """

    def __init__(self, message: str, *, needed: int, is_full: bool) -> None:
        super().__init__(message)
        self.needed = needed
        self.is_full = is_full


class TrainerSaves:
    """How the saves of one Trainer are written.

    Attributes:
        full_bytes: Largest size by kind (``"checkpoint"``, ``"best_model"``) that the stock recipe would have saved.
        overhead: Seconds that the last save took beyond the Trainer's own writing.
    """

    def __init__(self, trainer: Any, options: ExportConfig, *, copy_later: Callable[[Path, Path], None]) -> None:
        """Take what replaces the link ``best_model.pth`` (second argument) by a copy of the file linked to (first)."""
        self._trainer = trainer
        self._options = options
        self._copy_later = copy_later
        self.full_bytes: dict[str, int] = {}
        self.overhead = 0.0
        self._durable: dict[str, tuple[int, Path]] = {}
        self._syncing: list[tuple[str, threading.Thread]] = []
        self._saved = 0

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within the block the Trainer's saves appear whole or not at all.

        Yields:
            Nothing. The functions of the Trainer are its own again afterwards.

        Raises:
            SaveError: When a file could not be written.
        """
        import fsspec
        from trainer import io

        run = Path(self._trainer.output_path)
        file_system = fsspec.get_mapper(str(run)).fs
        original_save, original_copy = io.save_fsspec, file_system.copy
        dashboard = self._trainer.dashboard_logger
        # Up to trainer 0.3 it is the dashboard logger that writes the file.
        dashboard_save = getattr(dashboard, "save_model", None)

        def copy(path1: Any, path2: Any, *args: Any, **kwargs: Any) -> None:
            if Path(path2).name != SHORTCUT or Path(path2).parent.resolve() != run.resolve():
                original_copy(path1, path2, *args, **kwargs)
            else:
                self._make_shortcut(Path(path1), Path(path2))

        try:
            io.save_fsspec = lambda state, path, **kwargs: self._save(original_save, state, path, kwargs)
            file_system.copy = copy
            if dashboard_save is not None:
                dashboard.save_model = lambda state, path: self._save(dashboard_save, state, path, {})
            yield
        finally:
            io.save_fsspec = original_save
            vars(file_system).pop("copy", None)
            vars(dashboard).pop("save_model", None)

    def _save(self, write: Save, state: Any, path: Any, options: dict[str, Any]) -> None:
        path = Path(path)
        kind = path.stem.rpartition("_")[0]
        started = time.perf_counter()
        full = state_bytes(state)
        if getattr(self._options, f"{kind}_state", "full") == "weights":
            state = weights_only(state, self._trainer)
        needed = state_bytes(state)
        with contextlib.suppress(OSError):  # an estimate that fails, as on some network mounts, stops no save
            self._warn_of_lack(path, needed)
        temporary = temporary_name(path)
        writing = 0.0
        held, is_held = self._hold(kind)
        handled = sys.exc_info()[1]  # such as the Ctrl-C that a last save is made for
        try:
            before = time.perf_counter()
            write(state, temporary, **options)
            writing = time.perf_counter() - before
            size = temporary.stat().st_size
            if not is_held:
                sync_file(temporary)
            temporary.replace(path)
            self._sync_later(kind, path, held)
        except BaseException as error:
            if held is not None:
                held.unlink(missing_ok=True)
            causes = _causes(error, handled)
            interrupt = next((cause for cause in causes if not isinstance(cause, Exception)), None)
            if interrupt is not None:  # torch's writer complains of its half-written file in place of it
                raise interrupt from None
            cause = _write_error(causes) if isinstance(error, (OSError, RuntimeError)) else None
            if cause is None:
                raise
            is_full = cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            msg = f"{path.name} was not saved: {cause.strerror or cause}"
            raise SaveError(msg, needed=needed, is_full=is_full) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.full_bytes[kind] = max(self.full_bytes.get(kind, 0), full - needed + size)
        self.overhead = time.perf_counter() - started - writing

    def _hold(self, kind: str) -> tuple[Path | None, bool]:
        """Keep the last file of a kind that is safely on the disk, whatever the Trainer's retention removes.

        Returns:
            Its other name, and whether there is no need to wait for the disk: False on a file system without links.
        """
        _, durable = self._durable.get(kind, (0, None))
        if durable is None or not durable.exists():
            self.wait(kind)  # nothing older is left, and the last one is still on its way to the disk
            durable = self._newest(kind)
        if durable is None:
            return None, True
        held = temporary_name(durable, "old")
        try:
            os.link(durable, held)
        except OSError:
            return None, False
        return held, True

    def _newest(self, kind: str) -> Path | None:
        """The last file of a kind that is on the disk, as what an earlier process has saved is taken to be."""
        _, durable = self._durable.get(kind, (0, None))
        if durable is not None and durable.exists():
            return durable
        found = [saved.path for saved in find_checkpoints(Path(self._trainer.output_path)) if saved.kind == kind]
        return found[-1] if found else None

    def _sync_later(self, kind: str, path: Path, held: Path | None) -> None:
        """Have a file written to the disk in the background, and only then let go of the one before.

        A process that is killed takes nothing along that it has written; it is the machine that may fail meanwhile.
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
                return  # what is held comes back when the run is continued (`remove_leftovers`)
            self._durable[kind] = max(self._durable.get(kind, (0, path)), (number, path))
            if held is not None:
                with contextlib.suppress(OSError):
                    held.unlink()

        thread = threading.Thread(target=run, name="xtts-export-sync", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads are allowed: then training waits
            run()
            return
        self._syncing = [*(each for each in self._syncing if each[1].is_alive()), (kind, thread)]

    def wait(self, kind: str | None = None) -> None:
        """Wait until what was saved, of one kind or of all, is on the disk."""
        for thread in [thread for name, thread in self._syncing if kind in (None, name)]:
            while thread.is_alive():
                thread.join(_TICK)

    def renew_shortcut(self, best: Path | None) -> None:
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
            self._make_shortcut(best, shortcut)
            return
        with open_checkpoint(best) as expected, open_checkpoint(shortcut) as found:
            is_same = found.fingerprint() == expected.fingerprint()
        if not is_same or self._stays_link:
            self._make_shortcut(best, shortcut)

    @property
    def _stays_link(self) -> bool:
        return self._options.link_best_model and not self._trainer.config.save_all_best

    def _make_shortcut(self, source: Path, target: Path) -> None:
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
            " ! EXPORT : %s needs %s, %s are free: %s. %s",
            path.name,
            human_size(needed),
            human_size(free),
            when,
            WHAT_TO_DO,
        )


WHAT_TO_DO = (
    "Free space there, or continue the run with a smaller save_n_checkpoints, export.checkpoint_state weights "
    "(a third of the size), export.link_best_model true or export.max_disk_gb"
)


def weights_only(state: dict[str, Any], trainer: Any) -> dict[str, Any]:
    """What the Trainer saves, without optimizer, scheduler and scaler, in a form that it restores without an error.

    Args:
        state: What `trainer.io.save_model` gathers.
        trainer: For the position in the schedule, a few numbers that are kept.

    Returns:
        The same keys, and `schedule.RESUME_KEY`. An empty list of optimizer states restores nothing, quietly; trainer
        0.4 would fail with None.
    """
    nothing: Any = {} if isinstance(trainer.optimizer, dict) else []
    position = position_of(trainer.optimizer, trainer.scheduler)
    return {**state, "optimizer": nothing, "scheduler": [], "scaler": None, RESUME_KEY: position}


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a state, each storage once: what the file will take, but for some kilobytes."""
    import torch

    sizes: dict[int, int] = {}
    stack = [state]
    while stack:
        value = stack.pop()
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, (list, tuple)):
            stack.extend(value)
    return sum(sizes.values())


def sync_file(path: Path) -> None:
    """Return once the bytes of a file are on the disk.

    Raises:
        OSError: As the system reports it.
    """
    fd = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _causes(error: BaseException, handled: BaseException | None) -> list[BaseException]:
    """An error and those that it came from, up to one that was being handled before."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause is not handled and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found


def _write_error(causes: list[BaseException]) -> OSError | None:
    """The error of the system behind one of torch's writer, which may hide it; None when it is about something else."""
    found = next((cause for cause in causes if isinstance(cause, OSError)), None)
    if found is None and any(words in str(causes[0]) for words in ("PytorchStreamWriter", "inline_container")):
        return OSError(errno.EIO, "writing failed")
    return found
