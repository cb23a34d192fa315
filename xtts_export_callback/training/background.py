"""Work that does not hold up training: a bounded queue, a thread that waits, and a helper process that works.

The training thread only queues. The helper (`worker`) is a process of its own so that neither its memory nor its
crash is the training's.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import XttsExportError
from xtts_export_callback.files.printable import training_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

logger = training_logger()

_PARENT = str(Path(__file__).parents[2])  # often the folder of all installed packages
# `-m` would put the working directory before the standard library, and PYTHONPATH our folder: files there that happen
# to be called like a module of it, such as backports for old Pythons, would be run in its place.
_START = (
    "import sys; sys.path[:] = [*filter(None, sys.path), sys.argv[1]]; "
    "from xtts_export_callback.training.worker import main; main()"
)
_AS_WE_RUN = [flag for flag, is_set in (("-E", sys.flags.ignore_environment), ("-s", sys.flags.no_user_site)) if is_set]
COMMAND = (sys.executable, *_AS_WE_RUN, "-c", _START, _PARENT)
"""What starts the helper."""

GIVEN_UP_AFTER = 60.0
"""Seconds without progress after which the helper is given up, as on a network mount that is gone."""

MAKE_UP = "continue the run to make up for it"
STOPPED = f"exports were stopped; {MAKE_UP}"

QUEUED = 2
"""Work that may wait; more would hold too many old checkpoints on the disk."""

_PATIENCE = 10.0  # seconds for the helper to clean up when it is told to stop
_LAST = 1.0  # seconds for the system to end what was killed; it cannot while a system call hangs
_TICK = 0.2  # seconds; waiting without a limit cannot be interrupted on Windows


class HelperError(XttsExportError):
    """A job failed, or the helper did."""


class HungError(HelperError):
    """The helper was given up: it still ran, but showed no progress."""


class Helper:
    """The helper process, started with the first job and again when it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: SimpleQueue[bytes | None] = SimpleQueue()
        self._errors: IO[bytes] | None = None
        self._jobs = 0
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def perform(self, task: str, **arguments: Any) -> dict[str, Any]:
        """Have a job done and wait for it.

        Args:
            task: A name in `worker.TASKS`.
            **arguments: For the task, plain values.

        Returns:
            What the task gave.

        Raises:
            HungError: When nothing was read or written for `GIVEN_UP_AFTER` seconds. The next job gets a new helper.
            HelperError: When the job failed, the helper cannot be started, or it died at this job twice.
        """
        self._jobs += 1
        line = json.dumps({"job": self._jobs, "task": task, **arguments}).encode() + b"\n"
        answer = self._exchange(line)
        if answer is None and not self._stopping:
            logger.warning(" ! EXPORT : %s; it is started again", self._obituary())
            answer = self._exchange(line)
        if answer is None:
            raise HelperError(self._obituary())
        if not answer["ok"]:
            raise HelperError(answer["error"])
        return answer

    def close(self) -> None:
        """End the helper; it starts again with the next job."""
        process, self._process = self._process, None
        if process is not None:
            # Closing its input is not enough: a process forked by the training, such as a data loader's, holds it too.
            process.terminate()
            if sys.platform != "win32":
                process.send_signal(signal.SIGCONT)  # one that is stopped would not hear of it
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LAST)
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # there is nobody left to read what was to be flushed
                process.stdin.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def stop(self) -> None:
        """End the helper for good, whatever it does; what it had half written is removed."""
        self._stopping = True
        self.close()

    def _exchange(self, line: bytes) -> dict[str, Any] | None:
        """Send a job and return the answer, or None when the helper died."""
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
        except (OSError, ValueError):  # a closed pipe, or one closed by `stop`
            return None
        idle = 0.0
        while idle < GIVEN_UP_AFTER and not self._stopping:
            since = time.monotonic()
            try:
                received = self._answers.get(timeout=_TICK)
            except Empty:
                received = b"" if process.poll() is None else None  # a process forked meanwhile may hold the pipe
            idle += min(time.monotonic() - since, _TICK)  # no more: we may have been stopped ourselves
            if received is None:
                return None
            message = _message(received, self._jobs)
            if "ok" in message:
                return message
            if message:
                idle = 0.0
        if self._stopping:
            return None
        self.close()
        msg = f"the helper process showed no progress for {GIVEN_UP_AFTER:g} s and was given up; {MAKE_UP}"
        raise HungError(msg)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        if self._stopping:
            msg = STOPPED
            raise HelperError(msg)
        self.close()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._answers = SimpleQueue()
        try:
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, "PYTHONPATH": _python_path()},
                start_new_session=True,  # Ctrl-C in the terminal is for the training
            )
            arguments = self._process.stdout, self._answers
            threading.Thread(target=_pass_on, args=arguments, name="xtts-export-answers", daemon=True).start()
        except (OSError, RuntimeError) as error:  # the latter where the number of threads is limited
            self.close()
            msg = f"the helper process cannot be started ({error}); export later with: xtts-export export RUN"
            raise HelperError(msg) from error
        return self._process

    def _obituary(self) -> str:
        if self._stopping:
            return STOPPED
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):  # its pipe is closed, but it hangs
            code = None if self._process is None else self._process.wait(_PATIENCE)
        last = ""
        if self._errors is not None:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            last = f": {lines[-1]}" if lines else ""
        return f"the helper process ended with exit code {code}{last}"


def _python_path() -> str:
    """``PYTHONPATH`` as the user has set it, less what must not come before the standard library: see `_START`."""
    unwanted = {os.path.realpath(""), os.path.realpath(_PARENT)}
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(path for path in paths if os.path.realpath(path) not in unwanted)


def _pass_on(pipe: IO[bytes], answers: SimpleQueue[bytes | None]) -> None:
    """Hand on the lines of a pipe, and None at its end: only a queue can be waited for with a limit everywhere."""
    with pipe:
        for line in pipe:
            answers.put(line)
    answers.put(None)


def _message(line: bytes, job: int) -> dict[str, Any]:
    """What the helper says of a job; empty for all else, as `sitecustomize` and the like print it."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) and message.get("job") == job else {}


@dataclass(frozen=True)
class Work:
    """Something to do in the background.

    Attributes:
        name: For the log.
        run: Does it. May raise anything.
        skipped: Called in place of ``run`` when newer work has pushed it out of the queue or all work is given up.
        failed: Called with what ``run`` raised.
    """

    name: str
    run: Callable[[], None]
    skipped: Callable[[], None]
    failed: Callable[[Exception], None]


class Background:
    """One thread that does queued work in order, and what was put off whenever nothing else waits."""

    def __init__(self, *, stop: Callable[[], None]) -> None:
        """Take ``stop``, which ends the work at hand early when all work is given up."""
        self._stop = stop
        self._changed = threading.Condition()
        self._queue: deque[Work] = deque()
        self._later: deque[Work] = deque()
        self._at_work = False
        self._given_up = False
        self._thread: threading.Thread | None = None

    def submit(self, work: Work) -> None:
        """Queue work. Where too much waits already the oldest is skipped: a slow disk must not hold up training.

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
        """Have work done when nothing is queued; errors as `submit`."""
        with self._changed:
            self._start()
            self._later.append(work)
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when all work is done, or there is nobody to do it."""
        with self._changed:
            while self._is_alive and not self._given_up and (self._queue or self._later or self._at_work):
                self._changed.wait(_TICK)

    def give_up(self) -> int:
        """Skip what waits and stop what is at work. Returns how many were not finished."""
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
        """End the thread, which has nothing left to do."""
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
                with contextlib.suppress(Exception):  # a report that fails must not end the work of all others
                    work.failed(error)
            finally:
                with self._changed:
                    self._at_work = False
                    self._changed.notify_all()
