"""The Trainer callback: an inference folder beside every checkpoint that is saved, and their average at the end.

The Trainer has no event for a save, but its methods `save_checkpoint` and `save_best_model` are public in every
version; they are wrapped on the instance. Exports live in a subfolder of the run, under names that neither the
Trainer's retention (`trainer.io.keep_n_checkpoints`) nor its resume (`trainer.io.get_last_checkpoint`) looks at.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.average import average_checkpoints
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.checkpoint.layout import has_trainer_prefix
from xtts_export_callback.checkpoint.publish import remove_leftovers
from xtts_export_callback.errors import ConfigError, XttsExportError
from xtts_export_callback.export import export_checkpoint
from xtts_export_callback.folder import read_provenance
from xtts_export_callback.runs import (
    Saved,
    find_checkpoints,
    find_exports,
    holds_models,
    last_checkpoints,
    prune_exports,
    remove_export,
)
from xtts_export_callback.sizes import human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xtts_export_callback.config import ExportConfig

    Event = Callable[[Any], None]

# A child of the Trainer's logger: our lines go where its lines go, console and trainer_0_log.txt.
logger = logging.getLogger("trainer.xtts_export")


def export_callbacks(config: Any, existing: Mapping[str, Event] | None = None) -> dict[str, Event]:
    """The callbacks to give the Trainer; the one line that a training script needs.

    Args:
        config: A config with the field ``export``, such as `XttsExportTrainerConfig`.
        existing: Callbacks the script has already; they are kept and run after ours.

    Returns:
        For ``Trainer(callbacks=...)``. Just the existing ones when the export is disabled, also on the command line.

    Raises:
        ConfigError: When an option of the export has a value that it cannot take.

    Example:
        >>> trainer = Trainer(args, config, model=model, callbacks=export_callbacks(config))
    """
    # The Trainer reads its command line and the config of a continued run only after it has its callbacks.
    import sys

    may_be_enabled_later = any(arg.startswith(("--coqpit.export.", "--continue_path")) for arg in sys.argv[1:])
    if not config.export.enabled and not may_be_enabled_later:
        return dict(existing or {})
    return ExportCallback(config).as_callbacks(existing)


class ExportCallback:
    """Exports what a Trainer saves.

    Rank 0 only. Errors are logged and never end training; only a wrong configuration is refused, at start-up.

    Example:
        >>> trainer = Trainer(args, config, model=model, callbacks=ExportCallback(config).as_callbacks())
    """

    def __init__(self, config: Any) -> None:
        """Take the options from ``config.export``, or ``config`` itself when it is an `ExportConfig`.

        Raises:
            ConfigError: When an option has a value that it cannot take.
        """
        self._options: ExportConfig = getattr(config, "export", config)
        self._options.check_values()
        self._run = Path()
        self._resumed_from = ""

    def as_callbacks(self, existing: Mapping[str, Event] | None = None) -> dict[str, Event]:
        """Callbacks for ``Trainer(callbacks=...)``.

        Args:
            existing: Callbacks to keep: where both listen to an event, ours runs first, then the existing one.

        Returns:
            One callable for each event.
        """
        merged = dict(existing or {})
        ours: dict[str, Event] = {
            "on_init_start": self.on_init_start,
            "on_init_end": self.on_init_end,
            "on_epoch_end": self.on_epoch_end,
            "on_keyboard_interrupt": self.on_keyboard_interrupt,
        }
        for event, callback in ours.items():
            merged[event] = _in_turn(callback, merged[event]) if event in merged else callback
        return merged

    # Events

    def on_init_start(self, trainer: Any) -> None:
        """Check the configuration and hook the saves, before anything is restored or trained.

        Raises:
            ConfigError: For an option that cannot be used, or a ``restore_path`` that restores nothing.
        """
        self._options = getattr(trainer.config, "export", self._options)
        self._options.check_values()
        if not self._options.enabled:
            return
        self._run = Path(trainer.output_path)
        _refuse_inference_export(trainer.args.restore_path)
        _keep_runs_with_exports(self._run, self._folder)
        if _is_main_process():
            self._hook_saves(trainer)

    def on_init_end(self, trainer: Any) -> None:
        """Clean up after a killed run and export what it left unexported."""
        if not self._is_active or not trainer.args.continue_path:
            return
        self._resumed_from = Path(trainer.args.restore_path).stem
        self._guard("clean-up of leftovers", lambda: remove_leftovers(self._folder))
        self._export_missing()

    def on_epoch_end(self, trainer: Any) -> None:
        """After the last epoch: the last event of a normal run."""
        if self._is_active and trainer.epochs_done + 1 >= trainer.config.epochs:
            self._finish(trainer)

    def on_keyboard_interrupt(self, trainer: Any) -> None:
        """After the save that Ctrl-C causes, before the Trainer ends the process: most fine-tunes end like this."""
        if self._is_active:
            self._export_missing()
            self._finish(trainer)

    # Work

    @property
    def _is_active(self) -> bool:
        return self._options.enabled and _is_main_process()

    @property
    def _folder(self) -> Path:
        return self._run / self._options.folder

    def _hook_saves(self, trainer: Any) -> None:
        save_checkpoint, save_best_model = trainer.save_checkpoint, trainer.save_best_model

        def save_checkpoint_and_export() -> None:
            save_checkpoint()
            self._export(self._saved("checkpoint", trainer))
            self._guard("retention", self._prune)

        def save_best_model_and_export() -> None:
            best = self._saved("best_model", trainer)
            before = _signature(best.path)
            save_best_model()
            if self._options.export_best and _signature(best.path) != before:
                self._export(best)
                self._guard("retention", lambda: self._prune_best(best, keep_all=trainer.config.save_all_best))

        trainer.save_checkpoint = save_checkpoint_and_export
        trainer.save_best_model = save_best_model_and_export

    def _saved(self, kind: str, trainer: Any) -> Saved:
        """Where the Trainer saves at this step (`trainer.io.save_checkpoint`, `save_best_model`)."""
        step = trainer.total_steps_done
        return Saved(step, kind, self._run / f"{kind}_{step}.pth")

    def _export(self, saved: Saved) -> None:
        def export() -> None:
            started = time.perf_counter()
            target = self._folder / saved.name
            # Only what is ours is ever replaced: a run that was continued saves some steps a second time.
            is_ours = read_provenance(target) is not None
            written = export_checkpoint(saved.path, target, dtype=self._options.dtype, force=is_ours)
            seconds = time.perf_counter() - started
            logger.info(" > EXPORT : %s (%s in %.1f s)", target, human_size(written.nbytes), seconds)

        self._guard(f"{saved.name} was not exported", export)

    def _export_missing(self) -> None:
        saved_files = find_checkpoints(self._run)
        wanted = [saved for saved in saved_files if saved.kind == "checkpoint"][-self._keep or None :]
        if self._options.export_best:
            wanted += [saved for saved in saved_files if saved.kind == "best_model"]
        for saved in wanted:
            if self._guard(f"{saved.name} was not exported", lambda saved=saved: self._is_missing(saved)):
                self._export(saved)

    def _is_missing(self, saved: Saved) -> bool:
        found = read_provenance(self._folder / saved.name)
        if found is None:
            return True
        with open_checkpoint(saved.path) as checkpoint:
            return bool(found["sources"][0].get("fingerprint") != checkpoint.fingerprint())

    def _finish(self, trainer: Any) -> None:
        if self._options.average_last:
            self._guard("the average was not written", self._average)
        self._guard("retention", lambda: self._prune(self._options.keep_last))

    def _average(self) -> None:
        available = sum(1 for saved in find_exports(self._folder) if saved.kind == "checkpoint")
        count = min(self._options.average_last, available)
        if count < 2:  # noqa: PLR2004
            logger.info(" > No average: %i of %i exports are there", available, self._options.average_last)
            return
        started = time.perf_counter()
        sources = last_checkpoints(self._run, count, folder=self._options.folder)
        target = self._folder / f"average_last_{count}"
        is_ours = read_provenance(target) is not None
        paths = [saved.path for saved in sources]
        written = average_checkpoints(paths, target, dtype=self._options.dtype, force=is_ours)
        seconds = time.perf_counter() - started
        steps = ", ".join(str(saved.step) for saved in sources)
        size = human_size(written.nbytes)
        logger.info(" > AVERAGE : %s of steps %s (%s in %.1f s)", target, steps, size, seconds)

    @property
    def _keep(self) -> int:
        """Exports kept while training: the average at the end still needs its inputs."""
        return max(self._options.keep_last, self._options.average_last) if self._options.keep_last else 0

    def _prune(self, keep: int | None = None) -> None:
        best = {f"checkpoint_{saved.step}" for saved in find_checkpoints(self._run) if saved.kind == "best_model"}
        protected = {*best, self._resumed_from}
        for name in prune_exports(self._folder, self._keep if keep is None else keep, protected=protected):
            logger.info(" > Export %s removed: keep_last is %i", name, self._options.keep_last)

    def _prune_best(self, newest: Saved, *, keep_all: bool) -> None:
        """Keep the exports of best models that the Trainer keeps, and its newest in any case."""
        if keep_all or read_provenance(self._folder / newest.name) is None:
            return
        kept = {saved.name for saved in find_checkpoints(self._run)} | {newest.name, self._resumed_from}
        for saved in find_exports(self._folder):
            if saved.kind == "best_model" and saved.name not in kept:
                remove_export(saved.path)

    def _guard(self, failure: str, action: Callable[[], Any]) -> Any:
        """Run ``action``; whatever goes wrong becomes one line in the log and training goes on."""
        try:
            return action()
        except XttsExportError as error:
            logger.error(" ! EXPORT : %s: %s", failure, error)
        except Exception as error:  # noqa: BLE001 - no error of ours may end a training run
            logger.error(" ! EXPORT : %s: %s: %s", failure, type(error).__name__, error)
        return None


def _in_turn(first: Event, second: Event) -> Event:
    def both(trainer: Any) -> None:
        first(trainer)
        second(trainer)

    return both


def _is_main_process() -> bool:
    from trainer.utils.distributed import get_rank

    return bool(get_rank() == 0)


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _refuse_inference_export(restore_path: str | None) -> None:
    if not restore_path:
        return
    try:
        with open_checkpoint(restore_path) as checkpoint:
            restorable = has_trainer_prefix(checkpoint)
    except XttsExportError:
        return  # unreadable here, remote or damaged: the Trainer will say so in its own words
    if not restorable:
        msg = (
            f"{restore_path}: an inference model: its names lack the prefix 'xtts.', so the Trainer would restore 0 "
            f"layers and train from scratch; to fine-tune from it set model_args.xtts_checkpoint to this path and leave "
            "restore_path and continue_path empty"
        )
        raise ConfigError(msg)


_FOLDERS: dict[Path, Path] = {}


def _keep_runs_with_exports(run: Path, folder: Path) -> None:
    """Stop the Trainer from deleting a run that holds nothing but exports.

    On Ctrl-C and on every exception `trainer.generic_utils.remove_experiment_folder` deletes a run without ``*.pth``
    at its root, on every rank. A marker file there would change what resume finds, so the function is wrapped.
    """
    import trainer.trainer as module

    _FOLDERS[run.resolve()] = folder
    remove = module.remove_experiment_folder
    if getattr(remove, "keeps_exports", False):
        return

    def remove_unless_exported(experiment_path: Any) -> None:
        exports = _FOLDERS.get(Path(experiment_path).resolve())
        if exports is not None and holds_models(exports):
            logger.info(" ! Run is kept in %s: it holds exports", experiment_path)
            return
        remove(experiment_path)

    remove_unless_exported.keeps_exports = True  # type: ignore[attr-defined]
    module.remove_experiment_folder = remove_unless_exported
