"""Saves and exports when SIGTERM asks the training to end, and passes the signal on afterwards.

Python calls a handler between two instructions of the main thread, wherever that is. In the middle of a step some
weights are new and others old, and in the middle of a save a second one would begin, so there the signal waits for
their end. Everywhere else, as in the evaluation, the weights are those of the last step, and it acts at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from xtts_export_callback.run.log import training_logger
from xtts_export_callback.training.log import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXPORT_SECONDS = 15.0
"""Longest wait for the exports after the save: with the step and the save before it, within the half minute that most
clusters leave between SIGTERM and SIGKILL."""

logger = training_logger()


class SaveOnTerminate:
    """Handles SIGTERM for one training, in the process and the thread that trains."""

    def __init__(self, save: Callable[[], None]) -> None:
        """Take ``save``, which saves and exports in at most the time that is stated."""
        self._save = save
        self._previous: Any = None
        self._of_children: Any = None
        self._process: int | None = None
        self._in_step = False
        self._held = 0
        self._is_due = False
        self._is_refused = False

    def listen(self) -> None:
        """Handle SIGTERM from now on, if this is the main thread: Python lets no other one handle signals."""
        if self._process is not None or self._is_refused:
            return
        if threading.current_thread() is not threading.main_thread():
            self._is_refused = True
            logger.warning(" ! EXPORT : save_on_terminate is without effect: training does not run in the main thread")
            return
        self._previous = signal.signal(signal.SIGTERM, self._on_signal)
        self._process = os.getpid()

    def step_starts(self) -> None:
        """Wait with the signal until `step_ends`."""
        self._in_step = True

    def step_ends(self) -> None:
        """Act on a signal that came during the step."""
        self._in_step = False
        self._act_if_due()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait with the signal until the end of the block.

        Yields:
            Nothing.
        """
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self._act_if_due()

    def training_ends(self) -> None:
        """Act on a signal that is due, also after an exception, and leave the next one to whoever had it before us."""
        self._in_step = False
        self._act_if_due()
        if self._process == os.getpid() and signal.getsignal(signal.SIGTERM) == self._on_signal:
            signal.signal(signal.SIGTERM, self._before_us)
        self._process = None

    @property
    def _before_us(self) -> Any:
        return signal.SIG_DFL if self._previous is None else self._previous

    def _on_signal(self, number: int, frame: Any) -> None:
        if os.getpid() != self._process:  # forked by the training, such as a worker of its data loader
            self._pass_on(number, frame)
            return
        if not self._is_due:
            self._is_due = True
            self._ignore_dead_workers()
        self._act_if_due()

    def _act_if_due(self) -> None:
        if not self._is_due or self._in_step or self._held:
            return
        self._held += 1
        try:
            guarded("not saved on SIGTERM", self._save)
        finally:
            self._held -= 1
            self._is_due = False
            if self._of_children is not None:
                signal.signal(signal.SIGCHLD, self._of_children)
                self._of_children = None
        self._pass_on(signal.SIGTERM, None)

    def _ignore_dead_workers(self) -> None:
        """Keep torch from raising an error, perhaps within a step, because the data loader's workers got the signal."""
        if hasattr(signal, "SIGCHLD") and callable(signal.getsignal(signal.SIGCHLD)):
            self._of_children = signal.signal(signal.SIGCHLD, lambda *_: None)

    def _pass_on(self, number: int, frame: Any) -> None:
        """Let the signal do what it would have done without us; the training goes on if that is nothing."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if callable(self._before_us):
            self._before_us(number, frame)
        elif self._before_us == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
            signal.signal(signal.SIGTERM, self._on_signal)  # the first process of a container outlives its default
