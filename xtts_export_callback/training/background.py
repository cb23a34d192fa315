"""Runs work in the background without delaying training: a bounded queue and one thread."""

from __future__ import annotations

import atexit
import contextlib
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUED = 2
"""Jobs that may wait; more would keep too many old checkpoints on the disk."""

_PATIENCE = 10.0  # seconds for the current work to stop when it is told to
_TICK = 0.2  # seconds; on Windows a wait without a limit cannot be interrupted


@dataclass(frozen=True)
class Work:
    """A job for the background.

    Attributes:
        name: Its name in the log.
        run: Does the job. May raise anything.
        skipped: Called instead of ``run`` when newer work displaces it from the queue or all work is abandoned.
        failed: Called with what ``run`` raised.
    """

    name: str
    run: Callable[[], None]
    skipped: Callable[[], None]
    failed: Callable[[Exception], None]


class Background:
    """One thread that does queued work in order, and postponed work whenever the queue is empty."""

    def __init__(self, *, stop: Callable[[], None]) -> None:
        """Take ``stop``, which ends the current work early when all work is abandoned."""
        self._stop = stop
        self._changed = threading.Condition()
        self._queue: deque[Work] = deque()
        self._later: deque[Work] = deque()
        self._at_work = False
        self._given_up = False
        self._thread: threading.Thread | None = None

    def submit(self, work: Work) -> None:
        """Queue work. If too much waits already, skip the oldest: a slow disk must not delay training.

        Raises:
            RuntimeError: When no thread can be started; then nothing is queued.
        """
        with self._changed:
            self._start()
            self._queue.append(work)
            skipped = self._queue.popleft() if len(self._queue) > QUEUED else None
            self._changed.notify_all()
        if skipped is not None:
            skipped.skipped()

    def when_idle(self, work: Work) -> None:
        """Do work once nothing is queued; errors as `submit`."""
        with self._changed:
            self._start()
            self._later.append(work)
            self._changed.notify_all()

    def wait(self, until: float = math.inf) -> None:
        """Return when all work is done, no thread is left to do it, or `time.monotonic` reaches ``until``."""
        with self._changed:
            while self._is_alive and not self._given_up and (self._queue or self._later or self._at_work):
                if time.monotonic() >= until:
                    return
                self._changed.wait(_TICK)

    def give_up(self) -> int:
        """Skip waiting work and stop the current one. Returns how many jobs were not finished."""
        with self._changed:
            self._given_up = True
            waiting = [*self._queue, *self._later]
            unfinished = len(waiting) + self._at_work
            self._queue.clear()
            self._later.clear()
            self._changed.notify_all()
        self._stop()
        for work in waiting:
            work.skipped()
        self.close()
        return unfinished

    def close(self) -> None:
        """End the thread, once it has no work left."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)
        atexit.unregister(self.give_up)

    @property
    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        if self._is_alive:
            return
        # A daemon: the end of the training never waits for an export that hangs.
        thread = threading.Thread(target=self._work, name="xtts-export", daemon=True)
        thread.start()
        if self._thread is None:
            atexit.register(self.give_up)
        self._thread = thread

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._queue or self._later or self._given_up):
                    self._changed.wait()
                if self._given_up:
                    return
                work = self._queue.popleft() if self._queue else self._later.pop()
                self._at_work = True
            try:
                work.run()
            except Exception as error:
                with contextlib.suppress(Exception):  # a failing report must not end all other work
                    work.failed(error)
            finally:
                with self._changed:
                    self._at_work = False
                    self._changed.notify_all()
