"""The Trainer callback: whole saves, an inference folder beside each of them, and their average at the end.

The Trainer has no event for a save, but its methods `save_checkpoint` and `save_best_model` are public in every
version; they are wrapped on the instance. Exports live in a subfolder of the run, under names that neither the
Trainer's retention (`trainer.io.keep_n_checkpoints`) nor its resume (`trainer.io.get_last_checkpoint`) looks at.

The training thread saves, as it would without us, and queues the export; a thread (`background`) waits for the helper
process (`worker`) that writes it. A hard link keeps the source there when the Trainer's retention removes it meanwhile.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback import disk
from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.checkpoint.layout import has_trainer_prefix
from xtts_export_callback.checkpoint.publish import remove_leftovers
from xtts_export_callback.dashboard import Dashboard
from xtts_export_callback.errors import ConfigError, XttsExportError
from xtts_export_callback.exporter import Exporter, guarded
from xtts_export_callback.printable import training_logger
from xtts_export_callback.resume import choose_checkpoint, loss_of, restore_from_weights
from xtts_export_callback.runs import SHORTCUT, Saved, find_checkpoints, holds_models
from xtts_export_callback.saving import WHAT_TO_DO, SaveError, TrainerSaves
from xtts_export_callback.sizes import human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xtts_export_callback.config import ExportConfig

    Event = Callable[[Any], None]

# A child of the Trainer's logger: our lines go where its lines go, console and trainer_0_log.txt.
logger = training_logger()


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
        self._best_loss: Any = None
        self._dashboard: Dashboard
        self._exporter: Exporter
        self._saves: TrainerSaves

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
            "on_epoch_start": self.on_epoch_start,
            "on_train_step_end": self.on_train_step_end,
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
            ConfigError: For an option that cannot be used, a ``restore_path`` that restores nothing, or a run without
                a whole checkpoint to continue from.
        """
        options: Any = getattr(trainer.config, "export", self._options)
        options.check_values()
        self._options = options
        if not options.enabled:
            return
        self._run = Path(trainer.output_path)
        if trainer.args.continue_path:
            self._choose_checkpoint(trainer)
        _refuse_inference_export(trainer.args.restore_path)
        self._dashboard = Dashboard(trainer)
        self._exporter = Exporter(self._run, self._options, self._dashboard)
        self._exporter.keeps_all_best = trainer.config.save_all_best
        self._saves = TrainerSaves(trainer, self._options, copy_later=self._exporter.copy_later)
        _protect_from_removal(self._run, self._exporter, self._saves)
        if _is_main_process():
            self._hook_saves(trainer)

    def on_init_end(self, trainer: Any) -> None:
        """Show the options; clean up after a killed run and export what it left unexported."""
        if not self._options.enabled:
            return
        if trainer.args.continue_path:
            self._exporter.resumed_from = Path(trainer.args.restore_path).stem
            guarded("the learning rate was not restored", lambda: restore_from_weights(trainer))
        if not self._is_active:
            return
        guarded("the dashboard got no card", lambda: self._dashboard.show_options(self._options))
        if trainer.args.continue_path:
            for folder in (self._run, self._exporter.folder):
                guarded("clean-up of leftovers", partial(remove_leftovers, folder))
            guarded("best_model.pth was not checked", lambda: self._saves.renew_shortcut(self._best()))
            guarded("missing exports were not looked for", self._exporter.export_missing)

    def on_epoch_start(self, trainer: Any) -> None:
        """A run that went back before its best model must still not replace it by a worse one."""
        if self._best_loss is not None:
            trainer.best_loss, self._best_loss = self._best_loss, None
        best = trainer.best_loss
        if self._options.enabled and isinstance(best, dict) and best.get("train_loss") is None:
            # Saved on Ctrl-C before the first loss. `trainer.io.save_best_model` would compare with None, and end.
            trainer.best_loss = {**best, "train_loss": math.inf}

    def on_train_step_end(self, trainer: Any) -> None:  # noqa: ARG002 - what an event is called with
        """Hand the dashboard what the background has noted."""
        if self._is_active:
            guarded("the dashboard was not told", self._dashboard.hand_over)

    def on_epoch_end(self, trainer: Any) -> None:
        """After the last epoch: the last event of a normal run."""
        if self._is_active and trainer.epochs_done + 1 >= trainer.config.epochs:
            self._finish(trainer)

    def on_keyboard_interrupt(self, trainer: Any) -> None:
        """After the save that Ctrl-C causes, before the Trainer ends the process: most fine-tunes end like this.

        A second Ctrl-C ends the wait.
        """
        if not self._is_active:
            return
        try:
            self._finish(trainer)
        except KeyboardInterrupt:
            self._exporter.give_up()

    # The Trainer's saves

    @property
    def _is_active(self) -> bool:
        return self._options.enabled and _is_main_process()

    def _hook_saves(self, trainer: Any) -> None:
        save_checkpoint, save_best_model = trainer.save_checkpoint, trainer.save_best_model

        def save_checkpoint_and_export() -> None:
            saved = self._saved("checkpoint", trainer)
            if self._save(save_checkpoint, saved):
                self._exporter.export(saved, overhead=self._saves.overhead)

        def save_best_model_and_export() -> None:
            best = self._saved("best_model", trainer)
            if self._save(save_best_model, best) and self._options.export_best:
                self._exporter.export(best, overhead=self._saves.overhead)

        trainer.save_checkpoint = save_checkpoint_and_export
        trainer.save_best_model = save_best_model_and_export

    def _saved(self, kind: str, trainer: Any) -> Saved:
        """Where the Trainer saves at this step (`trainer.io.save_checkpoint`, `save_best_model`)."""
        step = trainer.total_steps_done
        return Saved(step, kind, self._run / f"{kind}_{step}.pth")

    def _save(self, save: Callable[[], None], saved: Saved) -> bool:
        """Let the Trainer save; whether there is a new file. What goes wrong on the disk does not end training."""
        self._exporter.before_save()
        before = _signature(saved.path)
        try:
            try:
                with self._saves.whole():
                    save()
            except SaveError as error:
                if not (error.is_full and self._exporter.make_room(error.needed)):
                    raise
                with self._saves.whole():
                    save()
        except SaveError as error:
            logger.error(" ! EXPORT : %s; training goes on. %s", error, WHAT_TO_DO)
        except OSError as error:
            logger.error(" ! EXPORT : %s: the Trainer's save failed: %s", saved.name, error)
        return _signature(saved.path) not in (None, before)

    # The end

    def _finish(self, trainer: Any) -> None:
        """Have everything done and say how it went."""
        self._exporter.finish()
        self._saves.wait()
        guarded("the summary was not written", lambda: self._summarize(trainer))
        self._exporter.end()

    def _summarize(self, trainer: Any) -> None:
        """What the run takes on the disk beside what the stock recipe would have taken for the same checkpoints."""
        self._dashboard.hand_over()
        saved = find_checkpoints(self._run)
        files = [*(file.path for file in saved), *self._run.glob(SHORTCUT)]
        own = sum({(s.st_dev, s.st_ino): s.st_size for s in (file.stat() for file in files)}.values())
        exports = disk.exports_bytes(self._exporter.folder)
        full = self._saves.full_bytes
        stock = sum(full.get(file.kind) or max(full.values(), default=0) for file in saved)
        if any(file.kind == "best_model" for file in saved):
            stock += full.get("best_model", 0)
        if not full:
            return
        self._dashboard.note_disk(trainer.total_steps_done, own + exports, stock)
        self._dashboard.hand_over()
        logger.info(
            " > EXPORT : the run takes %s: checkpoints %s (stock recipe: %s), exports %s",
            human_size(own + exports),
            human_size(own),
            human_size(stock),
            human_size(exports),
        )

    # Continuing

    def _choose_checkpoint(self, trainer: Any) -> None:
        if _is_main_process():  # what was held for a save that never reached the disk comes back
            guarded("clean-up of leftovers", partial(remove_leftovers, self._run))
        stock = Path(trainer.args.restore_path)
        chosen = choose_checkpoint(self._run, stock, may_rename=_is_main_process())
        if chosen == stock:
            return
        trainer.args.restore_path = str(chosen)
        best = self._best()
        if not Path(trainer.args.best_path).exists():
            trainer.args.best_path = str(best or chosen)
        if best is not None and chosen.name.startswith("checkpoint"):
            self._best_loss = guarded(f"the loss of {best.name} is not known", partial(loss_of, best))

    def _best(self) -> Path | None:
        """The newest best model of the run."""
        found = [saved.path for saved in find_checkpoints(self._run) if saved.kind == "best_model"]
        return found[-1] if found else None


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
            f"layers and train from scratch; to fine-tune from it set model_args.xtts_checkpoint to this path and "
            "leave restore_path and continue_path empty"
        )
        raise ConfigError(msg)


_RUNS: dict[Path, tuple[Exporter, TrainerSaves]] = {}


def _protect_from_removal(run: Path, exporter: Exporter, saves: TrainerSaves) -> None:
    """Stop the Trainer from deleting a run that holds nothing but exports, and have those finished first.

    On Ctrl-C and on every exception `trainer.generic_utils.remove_experiment_folder` deletes a run without ``*.pth``
    at its root, on every rank. A marker file there would change what resume finds, so the function is wrapped. It is
    also the only thing that the Trainer calls when training ends with an exception.
    """
    import trainer.trainer as module

    _RUNS[run.resolve()] = exporter, saves
    remove = module.remove_experiment_folder
    if getattr(remove, "keeps_exports", False):
        return

    def remove_unless_exported(experiment_path: Any) -> None:
        exporter, saves = _RUNS.pop(Path(experiment_path).resolve(), (None, None))
        if exporter is not None and saves is not None:
            exporter.end()
            saves.wait()
            if holds_models(exporter.folder):
                logger.info(" ! Run is kept in %s: it holds exports", experiment_path)
                return
        remove(experiment_path)

    remove_unless_exported.keeps_exports = True  # type: ignore[attr-defined]
    module.remove_experiment_folder = remove_unless_exported
