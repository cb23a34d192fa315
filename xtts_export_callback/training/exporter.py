"""Queues the exports of a run and has them written in the background."""

from __future__ import annotations

import contextlib
import math
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.files.atomic import hard_link, temporary_name
from xtts_export_callback.files.paths import signature
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.run.checkpoints import (
    RUNNING_MEAN,
    Saved,
    find_checkpoints,
    find_exports,
    last_checkpoints,
)
from xtts_export_callback.run.log import training_logger
from xtts_export_callback.run.running_mean import path_of, remove_windows_before
from xtts_export_callback.training.background import Background, Work
from xtts_export_callback.training.log import guarded, log_failure
from xtts_export_callback.training.packing import pack
from xtts_export_callback.training.recommending import recommend_model
from xtts_export_callback.training.worker_client import Helper, HelperError, HungError
from xtts_export_callback.units import human_size
from xtts_export_callback.xtts.assets import VOCAB_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from xtts_export_callback.training.config import ExportConfig
    from xtts_export_callback.training.dashboard import Dashboard
    from xtts_export_callback.training.retention import ExportRetention

logger = training_logger()


class Exporter:
    """The exports of one run.

    Methods are for the training thread and return at once, except those that say that they wait. They raise no errors:
    each error becomes one line in the training log.

    Attributes:
        folder: The folder of exports.
        retention: Which of them stay.
        clips: Paths of the training clips, to choose a voice from.
    """

    def __init__(self, run: Path, options: ExportConfig, dashboard: Dashboard, retention: ExportRetention) -> None:
        self.folder = run / options.folder
        self.retention = retention
        self.clips: list[str] = []
        self._run = run
        self._options = options
        self._dashboard = dashboard
        self._helper = Helper()
        self._background: Background | None = None
        self._unprotected = False
        self._to_copy: Path | None = None
        self._gives_up = False
        self._trained_in: str | None = None  # a removed folder holds no files to find
        with contextlib.suppress(OSError):
            self._trained_in = os.getcwd()  # noqa: PTH109 - as the text that the helper gets
        self._is_ending = False
        self._averaged = 0

    # Exports

    def before_save(self) -> None:
        """Wait for exports whose source the Trainer's retention could remove during the save."""
        if self._unprotected:
            self.wait()

    def export(self, saved: Saved, *, overhead: float = 0.0) -> None:
        """Queue the export of a new save, and keep its file until the export is done.

        Args:
            saved: The Trainer's file.
            overhead: Seconds that its save has delayed training beyond the Trainer's own writing.
        """
        started = time.perf_counter()
        if saved.kind == "checkpoint":
            self.retention.latest = saved.name
        if self._gives_up:
            _say_not_exported(saved)
            return

        def queue() -> None:
            source = self._hold(saved.path)
            written_as = signature(source)
            waited = time.perf_counter() - started + overhead
            run = partial(self._run_export, saved, source, waited, written_as)
            skip = partial(self._skip, saved, source)
            try:
                self._submit(Work(saved.name, run, skip, partial(log_failure, f"{saved.name} was not exported")))
            except BaseException:
                _let_go(source, saved)
                raise

        guarded(f"{saved.name} was not exported", queue)

    def _hold(self, path: Path) -> Path:
        """Link a file, so that it outlives the Trainer's retention; returns the file itself if it cannot be linked."""
        self.folder.mkdir(parents=True, exist_ok=True)
        link = temporary_name(self.folder / path.name)
        try:
            hard_link(path, link)
        except FileNotFoundError:
            raise
        except OSError:
            self._unprotected = True
            return path
        return link

    def _run_export(self, saved: Saved, source: Path, waited: float, written_as: tuple[int, ...] | None = None) -> None:
        try:
            self._write_export(saved, source, waited, written_as)
            if saved.kind == "checkpoint":
                guarded("the running mean was not exported", partial(self._export_mean, saved, source))
        finally:
            _let_go(source, saved)
            guarded("optimizer state was not dropped", lambda: self._drop_optimizers(saved))

    def _write_export(self, saved: Saved, source: Path, waited: float, written_as: tuple[int, ...] | None) -> None:
        started = time.perf_counter()
        target = self.folder / saved.name
        guarded("retention", self.retention.before_export)
        done = self._perform("export", **self._job(saved, source, target), written_as=written_as)
        seconds = time.perf_counter() - started
        if done["written"]:
            size = human_size(done["nbytes"])
            logger.info(" > EXPORT : %s (%s in %.1f s, training waited %.3f s)", target, size, seconds, waited)
            self._dashboard.note(saved.step, seconds, done["nbytes"], waited)
        for note in done["notes"]:
            logger.warning(" ! EXPORT : %s: %s", target, note)
        guarded("retention", partial(self.retention.after_export, saved))

    def _export_mean(self, saved: Saved, source: Path) -> None:
        """Export the running mean of a checkpoint, if any, and remove the sums of checkpoints that are gone."""
        window = path_of(self._run, saved.step)
        if self._options.running_mean == "off" or not window.exists():
            return
        started = time.perf_counter()
        target = self.folder / f"{RUNNING_MEAN}_{saved.step}"
        done = self._perform("running_mean", **self._job(saved, source, target), window=str(window))
        size, seconds = human_size(done["nbytes"]), time.perf_counter() - started
        logger.info(" > EXPORT : %s, the running %s (%s in %.1f s)", target, self._options.running_mean, size, seconds)
        remove_windows_before(self._run, saved.step, kept=[one.step for one in find_checkpoints(self._run)])
        guarded("retention", partial(self.retention.after_export, saved))

    def _job(self, saved: Saved, source: Path, target: Path) -> dict[str, Any]:
        return {
            "source": str(source),
            "known_as": str(saved.path),
            "target": str(target),
            "stored": self._options.stored,
            "trained_in": self._trained_in,
        }

    def _drop_optimizers(self, saved: Saved) -> None:
        keep = self._options.keep_optimizer_for
        if saved.kind != "checkpoint" or not keep or self._options.checkpoint_state == "weights":
            return
        done = self._perform("drop_optimizer", run=str(self._run), keep=keep)
        if done["names"]:
            freed = human_size(done["freed"])
            logger.info(" > EXPORT : optimizer state dropped from %s (%s freed)", ", ".join(done["names"]), freed)

    def _skip(self, saved: Saved, source: Path) -> None:
        _let_go(source, saved)
        if self._gives_up:
            _say_not_exported(saved)
            return
        logger.warning(" ! EXPORT : %s is postponed: saves come faster than the disk writes exports", saved.name)
        self._make_up(saved)

    def _make_up(self, saved: Saved) -> None:
        """Export a missed save when no other work is queued."""

        def run() -> None:
            if not saved.path.exists():
                logger.warning(" ! EXPORT : %s was not exported: its file was removed meanwhile", saved.name)
            elif self._is_missing(saved) and self.retention.has_room_for_older():
                self._run_export(saved, self._hold(saved.path), 0.0)

        failure = partial(log_failure, f"{saved.name} was not exported")
        self._when_idle(Work(saved.name, run, partial(_say_not_exported, saved), failure))

    def export_missing(self) -> None:
        """Queue exports that are missing after a kill, on a slow disk or after an error."""
        saved_files = find_checkpoints(self._run)
        wanted = [saved for saved in saved_files if saved.kind == "checkpoint"][-self.retention.keep or None :]
        if self._options.export_best:
            wanted += [saved for saved in saved_files if saved.kind == "best_model"]
        for saved in wanted:
            if guarded(f"{saved.name} was not exported", partial(self._is_missing, saved)):
                self._make_up(saved)

    def _is_missing(self, saved: Saved) -> bool:
        found = read_provenance(self.folder / saved.name)
        if found is None or self._lacks_mean(saved):
            return True
        with open_checkpoint(saved.path) as checkpoint:
            return not checkpoint.has_fingerprint(found["sources"][0].get("fingerprint"))

    def _lacks_mean(self, saved: Saved) -> bool:
        wanted = self._options.running_mean != "off" and saved.kind == "checkpoint"
        is_there = read_provenance(self.folder / f"{RUNNING_MEAN}_{saved.step}") is not None
        return wanted and not is_there and path_of(self._run, saved.step).exists()

    def _perform(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Have the helper do a job. If it hangs at the end of the training, no further job is tried."""
        try:
            return self._helper.perform(task, **arguments)
        except HungError:
            if self._is_ending:
                self.give_up()
            raise

    # The second copy of the best model

    def copy_later(self, source: Path, target: Path) -> None:
        """Replace a link to a file by a copy, in the background."""
        self._to_copy = source

        def run() -> None:
            if source != self._to_copy or not source.exists():
                return  # a better model was saved meanwhile
            try:
                self._perform("copy", source=str(source), target=str(target))
            except HelperError:
                if source.exists():  # otherwise a better model was saved during the copy
                    raise

        def skipped() -> None:
            logger.info(" > EXPORT : %s stays a link to %s for now", target.name, source.name)

        failure = f"{target.name} was not copied"
        guarded(failure, lambda: self._when_idle(Work(target.name, run, skipped, partial(log_failure, failure))))

    # The end

    def finish_exports(self, *, until: float = math.inf) -> None:
        """Finish all exports and wait for them; when `time.monotonic` reaches ``until``, give up what is left."""
        self._is_ending = True
        self.wait(until)
        if not self._gives_up:
            guarded("missing exports were not looked for", self.export_missing)  # retries what failed
            self.wait(until)
        if time.monotonic() >= until:
            self.give_up()

    def finish(self, trainer: Any = None) -> None:
        """Finish all exports, the average and what follows from them, and wait for it."""
        self.finish_exports()
        if self._gives_up:
            return
        averaged = self._options.average_last and guarded("the average was not written", self._average)
        if self._options.layout:
            known: dict[str, Any] = {"averaged": self._averaged, "trained_in": self._trained_in, "clips": self.clips}
            pack_run = partial(pack, self._run, self._options, **known)
            guarded("exports were not packed", pack_run)
        if self._options.recommend:  # before older exports go
            choose = partial(recommend_model, trainer, self._options, self._trained_in)
            guarded("no model is recommended", choose)
        if not self._options.average_last or averaged:
            guarded("retention", self.retention.after_average)

    def _average(self) -> bool:
        """Write the average. Returns whether its inputs are no longer needed."""
        available = sum(1 for saved in find_exports(self.folder) if saved.kind == "checkpoint")
        count = min(self._options.average_last, available)
        if count < 2:
            logger.info(" > EXPORT : no average: only %i of %i exports exist", available, self._options.average_last)
            return True
        started = time.perf_counter()
        sources = last_checkpoints(self._run, count, folder=self._options.folder)
        vocab = find_exports(self.folder)[-1].path / VOCAB_FILE
        target = self.folder / f"average_last_{count}"
        is_written = False

        def run() -> None:
            nonlocal is_written
            paths = [str(saved.path) for saved in sources]
            written = self._perform(
                "average", sources=paths, target=str(target), stored=self._options.stored, vocab=str(vocab)
            )
            seconds = time.perf_counter() - started
            steps = ", ".join(str(saved.step) for saved in sources)
            size = human_size(written["nbytes"])
            logger.info(" > EXPORT : %s, the mean of steps %s (%s in %.1f s)", target, steps, size, seconds)
            is_written = True
            self._averaged = count

        failure = "the average was not written"
        self._submit(Work(target.name, run, lambda: None, partial(log_failure, failure)))
        self.wait()
        return is_written

    def end(self) -> None:
        """Finish what is queued and end the helper; a later save starts both again."""
        self._is_ending = True
        self.wait()
        if self._background is not None:
            self._background.close()
            self._background = None
        self._helper.close()
        self._is_ending = False

    def give_up(self) -> None:
        """Stop the current work and drop what waits."""
        if self._background is not None:
            self._background.give_up()

    def _stop(self) -> None:
        self._gives_up = True  # also when the process exits early
        self._helper.stop()

    def _started(self) -> Background:
        if self._background is None:
            self._background = Background(stop=self._stop)
        return self._background

    def _submit(self, work: Work) -> None:
        self._started().submit(work)

    def _when_idle(self, work: Work) -> None:
        self._started().when_idle(work)

    def wait(self, until: float = math.inf) -> None:
        """Wait until everything queued is done, or `time.monotonic` reaches ``until``."""
        if self._background is not None:
            self._background.wait(until)
        self._unprotected = False


def _say_not_exported(saved: Saved) -> None:
    logger.warning(" ! EXPORT : %s was not exported; resume the run to export it", saved.name)


def _let_go(source: Path, saved: Saved) -> None:
    if source != saved.path:
        with contextlib.suppress(OSError):
            source.unlink()
