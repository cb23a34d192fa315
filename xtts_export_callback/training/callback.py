"""The Trainer callback: makes saves whole, exports each to an inference folder, and averages them at the end.

The Trainer has no event for a save, but its methods `save_checkpoint` and `save_best_model` are public in every
version, so we wrap them on the instance. Exports live in a subfolder of the run, under names that neither the
Trainer's retention (`trainer.io.keep_n_checkpoints`) nor its resume (`trainer.io.get_last_checkpoint`) looks at.

The training thread saves, as it would without us, and queues the export; a thread (`background`) waits for the helper
process (`worker`) that writes it. A hard link keeps the source when the Trainer's retention removes it meanwhile.
"""

from __future__ import annotations

import time
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError, XttsExportError
from xtts_export_callback.files.atomic import remove_leftovers
from xtts_export_callback.files.paths import as_path
from xtts_export_callback.files.remote import is_url
from xtts_export_callback.run.checkpoints import Saved, is_run
from xtts_export_callback.run.log import training_logger
from xtts_export_callback.run.retention import use_of
from xtts_export_callback.training.dashboard import Dashboard
from xtts_export_callback.training.exporter import Exporter
from xtts_export_callback.training.forecast import log_forecast
from xtts_export_callback.training.hooks import (
    is_main_process,
    looks_like_pattern,
    place_of,
    protect_from_removal,
    saves_into,
    wrap_saves,
)
from xtts_export_callback.training.log import guarded, log_failure
from xtts_export_callback.training.packing import AUTO
from xtts_export_callback.training.preflight import check_sound
from xtts_export_callback.training.presence import note
from xtts_export_callback.training.restore import (
    as_losses,
    newest_best,
    refuse_inference_model,
    restore_from_weights,
    resume_from_whole,
)
from xtts_export_callback.training.retention import ExportRetention
from xtts_export_callback.training.running_mean import RunningMean
from xtts_export_callback.training.saving import TrainerSaves
from xtts_export_callback.training.terminate import EXPORT_SECONDS, SaveOnTerminate
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xtts_export_callback.training.config import ExportConfig

    Event = Callable[[Any], None]

# A child of the Trainer's logger, so that our lines go to the console and trainer_0_log.txt like its own.
logger = training_logger()


def export_callbacks(config: Any, existing: Mapping[str, Event] | None = None) -> dict[str, Event]:
    """Make the callbacks for the Trainer: the one line that a training script needs.

    Args:
        config: A config with the field ``export``, such as `XttsExportTrainerConfig`.
        existing: Callbacks of the script, which are kept and run after ours.

    Returns:
        The callbacks for ``Trainer(callbacks=...)``. Where the export is off, they say so in one line and do nothing.

    Raises:
        ConfigError: When the config has no field ``export``, or an option of it has a value that it cannot take.

    Example:
        >>> trainer = Trainer(args, config, model=model, callbacks=export_callbacks(config))
    """
    return ExportCallback(config).as_callbacks(existing)


_NO_LOCAL_FOLDER = (
    "exports need a folder of this disk, and the Trainer saves elsewhere; training goes on as without this callback. "
    "Export from there afterwards (xtts-export export URL/checkpoint_N.pth), or set output_path to a path or file://"
)
_NO_BUCKET = (
    "this version of the Trainer takes the URL in output_path for a folder of this disk: checkpoints and exports lie "
    "there, not behind the URL"
)
_HOW_TO_TURN_ON = "to turn it on: ExportConfig(enabled=True), or --coqpit.export.enabled true"
# The Trainer names a run by the minute.
_SHARED = "holds checkpoints of an earlier training, with which averages would mix; start again under another run_name"
_LOOKS_LIKE_PATTERN = (
    "the Trainer reads *, ? and [ in this path as a pattern and will not find the run again. Rename the folder before "
    "you resume the run, and choose an output_path and a run_name without these characters"
)


def _never_ends_training(event: Callable[[ExportCallback, Any], None]) -> Callable[[ExportCallback, Any], None]:
    @wraps(event)
    def call(self: ExportCallback, trainer: Any) -> None:
        guarded(f"{event.__name__} was not finished", partial(event, self, trainer))

    return call


class ExportCallback:
    """Exports what a Trainer saves, on rank 0.

    Errors are logged and never end training; only a wrong configuration is refused, at start-up.

    Example:
        >>> trainer = Trainer(args, config, model=model, callbacks=ExportCallback(config).as_callbacks())
    """

    def __init__(self, config: Any) -> None:
        """Take the options from ``config.export``, or ``config`` itself when it is an `ExportConfig`.

        Raises:
            ConfigError: When there is no such field, or an option has a value that it cannot take.
        """
        self._options: ExportConfig = getattr(config, "export", config)
        if not hasattr(self._options, "average_last"):
            msg = (
                f"{type(config).__name__} has no field export, so there is nothing to turn on; use "
                "XttsExportTrainerConfig(export=ExportConfig(enabled=True), ...) in its place"
            )
            raise ConfigError(msg)
        self._options.check_values()
        note("made")
        self._run = Path()
        self._has_started = False
        self._best_loss: Any = None
        self._dashboard: Dashboard
        self._exporter: Exporter
        self._saves: TrainerSaves
        self._mean: RunningMean | None = None
        self._terminate: SaveOnTerminate
        self._last_step = -1

    def as_callbacks(self, existing: Mapping[str, Event] | None = None) -> dict[str, Event]:
        """Return the callbacks for ``Trainer(callbacks=...)``.

        Args:
            existing: Callbacks to keep. On an event that both use, ours runs first.

        Returns:
            One callable for each event.
        """
        merged = dict(existing or {})
        ours: dict[str, Event] = {
            "on_init_start": self.on_init_start,
            "on_init_end": self.on_init_end,
            "on_epoch_start": self.on_epoch_start,
            "on_train_step_start": self.on_train_step_start,
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
                a whole checkpoint to resume from.
        """
        options: Any = getattr(trainer.config, "export", self._options)
        options.check_values()
        self._options = options
        self._has_started = False
        trainer.export_callback = self  # found there by `attach`
        note("started")
        if not options.enabled:
            if is_main_process():
                logger.info(" > EXPORT : off, nothing is exported; %s", _HOW_TO_TURN_ON)
            return
        try:
            self._begin(trainer)
        except XttsExportError:
            raise
        except Exception as error:
            log_failure("training goes on without exports", error)

    def _begin(self, trainer: Any) -> None:
        self._run = place_of(trainer.output_path)
        if not saves_into(self._run):
            if is_main_process():
                logger.warning(" ! EXPORT : %s: %s", as_path(str(trainer.output_path)), _NO_LOCAL_FOLDER)
            return
        if is_main_process() and is_url(str(trainer.config.output_path)) and self._run == Path(trainer.output_path):
            logger.warning(" ! EXPORT : %s: %s", self._run, _NO_BUCKET)
        if trainer.args.continue_path:
            self._best_loss = resume_from_whole(trainer, self._run)
        elif is_main_process() and is_run(self._run):
            logger.warning(" ! EXPORT : %s: %s", self._run, _SHARED)
        refuse_inference_model(trainer.args.restore_path)
        if is_main_process() and looks_like_pattern(self._run):
            logger.warning(" ! EXPORT : %s: %s", self._run, _LOOKS_LIKE_PATTERN)
        self._dashboard = Dashboard(trainer)
        retention = ExportRetention(
            self._run,
            self._options,
            keeps_all_best=trainer.config.save_all_best,
            resumed_from=Path(trainer.args.restore_path).stem if trainer.args.continue_path else "",
        )
        self._exporter = Exporter(self._run, self._options, self._dashboard, retention)
        self._saves = TrainerSaves(trainer, self._options, copy_later=self._exporter.copy_later)
        if is_main_process() and self._options.running_mean != "off":
            self._mean = RunningMean(self._run, self._options)
        self._terminate = SaveOnTerminate(partial(self._save_and_export, trainer))
        protect_from_removal(self._run, self._exporter, self._saves, self._terminate)
        if is_main_process():
            wrap_saves(trainer, partial(self._save, trainer))
        self._has_started = True

    @_never_ends_training
    def on_init_end(self, trainer: Any) -> None:
        """Show the options, clean up after a killed run, and export what it left unexported."""
        if not self._has_started:
            return
        if trainer.args.continue_path:
            guarded("the learning rate was not restored", lambda: restore_from_weights(trainer))
        if not self._is_active:
            return
        if self._mean is not None:
            guarded("there is no running mean", partial(self._mean.start, trainer))
        if self._options.voice == AUTO:
            clips = guarded(
                "training clips were not found", lambda: [each["audio_file"] for each in trainer.train_samples]
            )
            self._exporter.clips = clips or []
        guarded("recordings cannot be read here, so that training may hang", check_sound)
        guarded("the disk space was not forecast", lambda: log_forecast(trainer, self._options))
        guarded("the dashboard got no card", lambda: self._dashboard.show_options(self._options))
        if trainer.args.continue_path:
            for folder in (self._run, self._exporter.folder):
                guarded("clean-up of leftovers", partial(remove_leftovers, folder))
            guarded("best_model.pth was not checked", lambda: self._saves.shortcut.renew(newest_best(self._run)))
            guarded("missing exports were not looked for", self._exporter.export_missing)

    @_never_ends_training
    def on_epoch_start(self, trainer: Any) -> None:
        """Restore the best loss: a run resumed from before its best model must not replace that by a worse one."""
        if self._best_loss is not None:
            trainer.best_loss, self._best_loss = self._best_loss, None
        if self._has_started:
            trainer.best_loss = as_losses(trainer.best_loss, is_evaluated=trainer.config.run_eval)
            if self._options.save_on_terminate:
                self._terminate.listen()

    def on_train_step_start(self, trainer: Any) -> None:  # noqa: ARG002 - what an event is called with
        """Let SIGTERM wait for the end of the step."""
        if self._has_started:
            self._terminate.step_starts()

    def on_train_step_end(self, trainer: Any) -> None:  # noqa: ARG002 - what an event is called with
        """Pass the background's numbers to the dashboard, and act on a SIGTERM that came during the step."""
        guarded("on_train_step_end was not finished", self._tell_dashboard)
        if self._has_started:
            self._terminate.step_ends()  # may end the training, as the signal's sender expects

    def _tell_dashboard(self) -> None:
        if self._is_active:
            self._dashboard.hand_over()

    def on_epoch_end(self, trainer: Any) -> None:
        """Evaluate the running mean; finish after the last epoch, which is the last event of a normal run."""
        if not self._has_started:
            return
        with self._terminate.held():  # the mean is evaluated in the place of the weights
            is_last = guarded("on_epoch_end was not finished", partial(self._end_epoch, trainer))
        if is_last:
            self._terminate.training_ends()

    def _end_epoch(self, trainer: Any) -> bool:
        is_last = bool(trainer.epochs_done + 1 >= trainer.config.epochs)
        if self._is_active and self._mean is not None and self._options.evaluate_running_mean:
            guarded("the running mean was not evaluated", partial(self._evaluate_mean, trainer, self._mean))
        if self._is_active and is_last:
            self._finish(trainer)
        return is_last

    @_never_ends_training
    def on_keyboard_interrupt(self, trainer: Any) -> None:
        """Finish after the save that Ctrl-C causes, before the Trainer ends the process: most fine-tunes end like this.

        A second Ctrl-C ends the wait.
        """
        if not self._is_active:
            return
        try:
            self._finish(trainer)
        except KeyboardInterrupt:
            self._exporter.give_up()

    def _evaluate_mean(self, trainer: Any, mean: RunningMean) -> None:
        loss = mean.evaluate(trainer)
        if loss is None:
            return
        own = trainer.keep_avg_eval["avg_loss"]
        logger.info(" > EXPORT : evaluation loss of the running mean: %.4f (of the model: %.4f)", loss, own)
        self._dashboard.note_loss(trainer.total_steps_done, loss)

    # The Trainer's saves

    @property
    def _is_active(self) -> bool:
        return self._has_started and is_main_process()

    def _save(self, trainer: Any, kind: str, save: Callable[..., None], *args: Any, **options: Any) -> None:
        """Let the Trainer save, and queue the export of what it saved (`trainer.io.save_checkpoint`)."""
        step = trainer.total_steps_done
        saved = Saved(step, kind, self._run / f"{kind}_{step}.pth")
        with self._terminate.held():
            guarded(f"did not wait for exports before {saved.name}", self._exporter.before_save)
            if self._mean is not None:
                self._mean.save(kind, step)
            is_new = self._saves.perform(
                partial(save, *args, **options), saved, make_room=self._exporter.retention.make_room
            )
            if is_new and (kind == "checkpoint" or self._options.export_best):
                self._exporter.export(saved, overhead=self._saves.overhead)
            if is_new and kind == "checkpoint":
                self._last_step = step

    # The end

    def _save_and_export(self, trainer: Any) -> None:
        """Save and export on SIGTERM. The average is left to whoever resumes the run: there may be little time.

        The dashboard is left alone: it may have been interrupted itself.
        """
        if not self._is_active:
            return
        logger.info(" > EXPORT : SIGTERM: the model is saved, and exported within %g s of that", EXPORT_SECONDS)
        if self._last_step != trainer.total_steps_done - 1:  # otherwise the step that has just ended was saved already
            trainer.save_checkpoint()
        until = time.monotonic() + EXPORT_SECONDS
        self._exporter.finish_exports(until=until)
        self._saves.wait(until=until)

    def _finish(self, trainer: Any) -> None:
        """Finish all exports and log a summary; Ctrl-C ends the wait."""
        try:
            guarded("exports were not finished", partial(self._exporter.finish, trainer))
            guarded("saves may not be whole on the disk", self._saves.wait)
        except KeyboardInterrupt:
            self._exporter.give_up()  # the Trainer calls `on_keyboard_interrupt` now, which would wait again
            raise
        guarded("the summary was not written", lambda: self._summarize(trainer))
        guarded("the helper process was not ended", self._exporter.end)

    def _summarize(self, trainer: Any) -> None:
        self._dashboard.hand_over()
        if not self._saves.full_bytes:
            return
        use = use_of(self._run, self._exporter.folder, self._saves.full_bytes)
        self._dashboard.note_disk(trainer.total_steps_done, use.checkpoints + use.exports, use.stock)
        self._dashboard.hand_over()
        logger.info(
            " > EXPORT : the run takes %s: checkpoints %s (stock recipe: %s), exports %s",
            human_size(use.checkpoints + use.exports),
            human_size(use.checkpoints),
            human_size(use.stock),
            human_size(use.exports),
        )


def _in_turn(first: Event, second: Event) -> Event:
    def both(trainer: Any) -> None:
        first(trainer)
        second(trainer)

    return both
