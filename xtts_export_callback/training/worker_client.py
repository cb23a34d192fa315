"""Runs jobs in the helper process for the training, and starts a new process when one has died.

The helper (`worker`) is a process of its own so that neither its memory nor its crash affects the training.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import XttsExportError
from xtts_export_callback.run.log import training_logger

if TYPE_CHECKING:
    from typing import IO

logger = training_logger()

_PARENT = str(Path(__file__).parents[2])  # often the folder of all installed packages
# `-m` would put the working directory before the standard library, and PYTHONPATH our folder: files there with the
# name of a standard module, such as backports for old Pythons, would run in its place.
_START = (
    "import sys; sys.path[:] = [*filter(None, sys.path), sys.argv[1]]; "
    "from xtts_export_callback.training.worker import main; main()"
)
_AS_WE_RUN = [flag for flag, is_set in (("-E", sys.flags.ignore_environment), ("-s", sys.flags.no_user_site)) if is_set]
COMMAND = (sys.executable, *_AS_WE_RUN, "-c", _START, _PARENT)
"""The command that starts the helper."""

GIVEN_UP_AFTER = 60.0
"""Seconds without progress after which the helper is abandoned, as on a network mount that is gone."""

MAKE_UP = "resume the run to export it"
STOPPED = f"exports were stopped; {MAKE_UP}"

_PATIENCE = 10.0  # seconds that the helper may take to clean up
_LAST = 1.0  # seconds for the system to end a killed process; it cannot while a system call hangs
_TICK = 0.2  # seconds; on Windows a wait without a limit cannot be interrupted


class HelperError(XttsExportError):
    """A job or the helper itself failed."""


class HungError(HelperError):
    """The helper was abandoned: it still ran, but showed no progress."""


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
        """Send a job and wait for its answer.

        Args:
            task: A name in `worker.TASKS`.
            **arguments: Arguments of the task, plain values.

        Returns:
            The result of the task.

        Raises:
            HungError: When nothing was read or written for `GIVEN_UP_AFTER` seconds. The next job gets a new helper.
            HelperError: When the job failed, the helper cannot be started, or it died at this job twice.
        """
        self._jobs += 1
        line = json.dumps({"job": self._jobs, "task": task, **arguments}).encode() + b"\n"
        answer = self._exchange(line)
        if answer is None and not self._stopping:
            logger.warning(" ! EXPORT : %s; it is restarted", self._obituary())
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
            # Closing its input is not enough: a process forked by the training, such as a data loader, holds it too.
            process.terminate()
            if sys.platform != "win32":
                process.send_signal(signal.SIGCONT)  # a stopped process would not receive SIGTERM
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LAST)
            assert process.stdin is not None
            with contextlib.suppress(OSError):  # no process is left to read what is flushed
                process.stdin.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def stop(self) -> None:
        """End the helper for good, whatever it does; half-written files are removed."""
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
            idle += min(time.monotonic() - since, _TICK)  # not more: this process may have been stopped itself
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
    """The user's ``PYTHONPATH`` without the folders that must not precede the standard library: see `_START`."""
    unwanted = {os.path.realpath(""), os.path.realpath(_PARENT)}
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(path for path in paths if os.path.realpath(path) not in unwanted)


def _pass_on(pipe: IO[bytes], answers: SimpleQueue[bytes | None]) -> None:
    """Pass on the lines of a pipe, and None at its end: only a queue has a wait with a limit on every system."""
    with pipe:
        for line in pipe:
            answers.put(line)
    answers.put(None)


def _message(line: bytes, job: int) -> dict[str, Any]:
    """The helper's message on a job; empty for other lines, such as those that `sitecustomize` prints."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) and message.get("job") == job else {}
