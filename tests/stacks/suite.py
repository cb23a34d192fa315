"""One run of pytest in the environment of a stack, with a time limit, and what came of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.stacks.environment import REPOSITORY, Environment

_GRACE = 30.0  # seconds to clean up in, once the time is over


class Outcome(NamedTuple):
    """What the tests of a stack said.

    Attributes:
        passed: How many tests passed.
        failed: How many failed, or could not be set up.
        skipped: How many were skipped.
        seconds: How long all of them took.
        note: Why the numbers are not the whole story, empty when they are.
    """

    passed: int
    failed: int
    skipped: int
    seconds: float
    note: str = ""


def run_tests(environment: Environment, arguments: Sequence[str], *, limit: float) -> Outcome:
    """Run pytest; its output goes where ours goes.

    Args:
        environment: Where the stack and this checkout are installed.
        arguments: For pytest, such as ``-m integration``.
        limit: Seconds until the tests are stopped.
    """
    report, temporary = environment.folder / "report.xml", environment.folder / "tmp"
    temporary.mkdir()
    command = [str(environment.python), "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
    settings = {**environment.settings, "TMPDIR": str(temporary), "TRAINER_TELEMETRY": "0"}
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=REPOSITORY, env=settings, start_new_session=True)
    note = _wait(process, limit)
    return _outcome(report, time.monotonic() - started, note)


def _wait(process: subprocess.Popen[bytes], limit: float) -> str:
    """Wait for the tests, and end them when they take too long or when we are interrupted."""
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    finally:
        _end(process)
    return "" if code in (0, 1) else f"pytest ended with exit code {code}"  # 1: tests failed


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)


def _outcome(report: Path, seconds: float, note: str) -> Outcome:
    if not report.exists():
        return Outcome(0, 0, 0, seconds, note or "pytest wrote no report")
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    counts = [[int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")] for suite in suites]
    tests, failures, errors, skipped = map(sum, zip(*counts, strict=True))
    failed = failures + errors
    return Outcome(tests - failed - skipped, failed, skipped, seconds, note)
