"""SIGTERM in a training that saves on it: when the save comes, and what the signal does afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.models.trainings import REPOSITORY
from xtts_export_callback.training.terminate import SaveOnTerminate

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")

TIMEOUT = 300  # seconds


class Heard:
    """What happened, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def note(self, event: str) -> Callable[..., None]:
        return lambda *_: self.events.append(event)


@pytest.fixture
def heard() -> Iterator[Heard]:
    """With a handler of the program's own for SIGTERM."""
    heard = Heard()
    before = signal.signal(signal.SIGTERM, heard.note("program"))
    yield heard
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def terminate(heard: Heard) -> SaveOnTerminate:
    terminate = SaveOnTerminate(heard.note("save"))
    terminate.listen()
    return terminate


def sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("terminate")
def test_the_save_comes_first_and_then_the_program_gets_the_signal(heard: Heard) -> None:
    sigterm()
    assert heard.events == ["save", "program"]


@pytest.mark.usefixtures("terminate")
def test_a_training_that_the_program_lets_go_on_saves_at_the_next_signal_as_well(heard: Heard) -> None:
    sigterm()
    sigterm()
    assert heard.events == ["save", "program"] * 2


def test_a_step_is_finished_before_the_save(heard: Heard, terminate: SaveOnTerminate) -> None:
    terminate.step_starts()
    sigterm()
    heard.note("step")()
    terminate.step_ends()
    assert heard.events == ["step", "save", "program"]


def test_a_save_under_way_is_finished_before_the_next(heard: Heard, terminate: SaveOnTerminate) -> None:
    with terminate.held():
        sigterm()
        heard.note("held")()
    assert heard.events == ["held", "save", "program"]


def test_a_save_within_a_step_waits_for_the_step(heard: Heard, terminate: SaveOnTerminate) -> None:
    terminate.step_starts()
    with terminate.held():
        sigterm()
    assert heard.events == []
    terminate.step_ends()
    assert heard.events == ["save", "program"]


def test_workers_that_the_signal_ends_too_are_no_error_before_the_save(
    heard: Heard, terminate: SaveOnTerminate
) -> None:
    before = signal.signal(signal.SIGCHLD, heard.note("worker has died"))
    try:
        terminate.step_starts()
        sigterm()
        signal.raise_signal(signal.SIGCHLD)
        terminate.step_ends()
        signal.raise_signal(signal.SIGCHLD)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert heard.events == ["save", "program", "worker has died"]


def test_a_second_signal_does_not_begin_a_second_save(heard: Heard) -> None:
    def save() -> None:
        heard.note("save")()
        if len(heard.events) == 1:
            sigterm()

    terminate = SaveOnTerminate(save)
    terminate.listen()
    sigterm()
    assert heard.events == ["save", "program"]


def test_a_save_that_fails_is_a_line_in_the_log_and_the_signal_goes_on(heard: Heard, log: list[str]) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    terminate = SaveOnTerminate(fail)
    terminate.listen()
    sigterm()
    assert heard.events == ["program"]
    assert log == [" ! EXPORT : not saved on SIGTERM: OSError: [Errno 28] No space left on device"]


def test_what_the_program_s_handler_raises_reaches_the_training(heard: Heard) -> None:
    class EndedError(Exception):
        pass

    def end(*_: Any) -> None:
        raise EndedError

    signal.signal(signal.SIGTERM, end)
    terminate = SaveOnTerminate(heard.note("save"))
    terminate.listen()
    terminate.step_starts()
    sigterm()
    with pytest.raises(EndedError):
        terminate.step_ends()
    assert heard.events == ["save"]


def test_after_the_training_the_signal_is_the_program_s_again(heard: Heard, terminate: SaveOnTerminate) -> None:
    terminate.training_ends()
    sigterm()
    assert heard.events == ["program"]


def test_a_handler_that_came_after_ours_stays(heard: Heard, terminate: SaveOnTerminate) -> None:
    signal.signal(signal.SIGTERM, heard.note("later"))
    terminate.training_ends()
    sigterm()
    assert heard.events == ["later"]


def test_a_step_that_fails_while_the_signal_waits_still_saves(heard: Heard, terminate: SaveOnTerminate) -> None:
    terminate.step_starts()
    sigterm()
    terminate.training_ends()
    assert heard.events == ["save", "program"]


def test_another_thread_leaves_the_signal_alone_and_says_so_once(heard: Heard, log: list[str]) -> None:
    terminate = SaveOnTerminate(heard.note("save"))

    def train() -> None:
        terminate.listen()
        terminate.listen()

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    sigterm()
    assert heard.events == ["program"]
    assert len(log) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_the_training_forks_ends_at_once(heard: Heard) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    terminate = SaveOnTerminate(heard.note("save"))
    terminate.listen()
    terminate.step_starts()
    child = os.fork()
    if not child:
        sigterm()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM


@pytest.mark.integration
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_a_training_leaves_whole_files_whenever_it_is_told_to_end() -> None:
    """Before, during or after a write, and at a random moment; thirty of them by hand."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.terminate", "--cases", "4", "--seed", "3"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("4 cases, 0 wrong\n")
