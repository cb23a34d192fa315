"""The queue that training never waits for, and the helper process that does the work."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xtts_export_callback import background
from xtts_export_callback.background import QUEUED, Background, Helper, HelperError, Work


class Record:
    """Works that note what happens to them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.gate = threading.Event()

    def work(self, name: str, action: Callable[[], object] = lambda: None) -> Work:
        def run() -> None:
            action()
            self.events.append(f"did {name}")

        return Work(
            name,
            run,
            lambda: self.events.append(f"skipped {name}"),
            lambda error: self.events.append(f"failed {name}: {error}"),
        )

    def held(self, name: str) -> tuple[Work, threading.Event]:
        """Work that goes on until the gate opens, and the sign that it has begun."""
        begun = threading.Event()

        def action() -> None:
            begun.set()
            self.gate.wait()

        return self.work(name, action), begun


@pytest.fixture
def record() -> Iterator[Record]:
    record = Record()
    yield record
    record.gate.set()


@pytest.fixture
def queue(record: Record) -> Iterator[Background]:
    queue = Background(stop=record.gate.set)
    yield queue
    queue.give_up()


def test_work_is_done_in_order(queue: Background, record: Record) -> None:
    for name in ("first", "second"):
        queue.submit(record.work(name))
    queue.wait()
    assert record.events == ["did first", "did second"]


def test_too_much_work_skips_the_oldest_that_waits(queue: Background, record: Record) -> None:
    slow, begun = record.held("slow")
    queue.submit(slow)
    begun.wait()
    for number in range(QUEUED + 2):
        queue.submit(record.work(f"{number}"))
    assert record.events == ["skipped 0", "skipped 1"]
    record.gate.set()
    queue.wait()
    assert record.events[2:] == ["did slow", "did 2", "did 3"]


def test_work_put_off_waits_for_the_queue_to_be_empty(queue: Background, record: Record) -> None:
    slow, begun = record.held("slow")
    queue.submit(slow)
    begun.wait()
    queue.when_idle(record.work("put off"))
    queue.submit(record.work("queued"))
    record.gate.set()
    queue.wait()
    assert record.events == ["did slow", "did queued", "did put off"]


def test_a_failure_is_reported_and_the_next_work_done(queue: Background, record: Record) -> None:
    def fail() -> None:
        message = "no luck"
        raise ValueError(message)

    queue.submit(record.work("bad", fail))
    queue.submit(record.work("good"))
    queue.wait()
    assert record.events == ["failed bad: no luck", "did good"]


def test_giving_up_stops_what_is_at_work_and_skips_what_waits(queue: Background, record: Record) -> None:
    slow, begun = record.held("slow")
    queue.submit(slow)
    begun.wait()
    queue.submit(record.work("queued"))
    queue.when_idle(record.work("put off"))
    assert queue.give_up() == 3
    queue.wait()
    assert sorted(record.events) == ["did slow", "skipped put off", "skipped queued"]


def refuse_thread(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Have no thread of a name start, as where their number is limited; what is in the list, once."""
    start = threading.Thread.start
    refused: list[str] = []

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name and not refused:
            refused.append(name)
            message = "can't start new thread"
            raise RuntimeError(message)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return refused


def test_a_thread_that_cannot_be_started_queues_nothing_and_the_next_work_tries_again(
    queue: Background, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_thread(monkeypatch, "xtts-export")
    with pytest.raises(RuntimeError, match="can't start"):
        queue.submit(record.work("first"))
    queue.wait()
    queue.submit(record.work("second"))
    queue.wait()
    assert record.events == ["did second"]


def test_a_report_that_fails_does_not_end_the_work(queue: Background, record: Record) -> None:
    def fail(error: Exception | None = None) -> None:
        message = "no luck"
        raise ValueError(message)

    queue.submit(Work("first", fail, lambda: None, fail))
    queue.submit(record.work("second"))
    queue.wait()
    assert record.events == ["did second"]


def test_waiting_without_work_returns(queue: Background) -> None:
    queue.wait()


def use_helper(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A helper whose tasks are written in a test."""
    program = f"from xtts_export_callback import worker\n{code}\nworker.main()"
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-c", program))


@pytest.fixture
def helper() -> Iterator[Helper]:
    helper = Helper()
    yield helper
    helper.close()


def test_a_job_is_done_in_another_process(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    use_helper(monkeypatch, "import os\nworker.TASKS['who'] = lambda: {'pid': os.getpid()}")
    pid = helper.perform("who")["pid"]
    assert pid == helper.pid != os.getpid()
    assert helper.perform("who")["pid"] == pid


def test_an_error_in_a_job_is_one_line_and_the_helper_lives_on(helper: Helper, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(HelperError, match=r"no\.pth: cannot be read") as caught:
            helper.perform(
                "export",
                source=str(tmp_path / "no.pth"),
                known_as=str(tmp_path / "no.pth"),
                target=str(tmp_path / "out"),
                dtype="float32",
            )
        assert "\n" not in str(caught.value)
        assert helper.pid is not None


def test_a_helper_that_dies_is_started_again_once(
    helper: Helper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    use_helper(
        monkeypatch,
        f"""
import os, pathlib
def once():
    mark = pathlib.Path({str(mark)!r})
    if not mark.exists():
        mark.touch()
        os._exit(9)
    return {{'done': True}}
worker.TASKS['once'] = once
""",
    )
    assert helper.perform("once")["done"]


def test_a_job_that_kills_every_helper_fails_and_the_next_one_is_done(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_helper(
        monkeypatch,
        "import os\nworker.TASKS['die'] = lambda: os._exit(9)\nworker.TASKS['live'] = lambda: {'alive': True}",
    )
    with pytest.raises(HelperError, match="ended with exit code 9"):
        helper.perform("die")
    assert helper.perform("live")["alive"]


def test_a_helper_that_cannot_be_started_says_what_to_do(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "COMMAND", ("/no/such/python",))
    with pytest.raises(HelperError, match=r"cannot be started.*xtts-export export RUN"):
        helper.perform("who")


def test_the_last_words_of_a_helper_that_cannot_run_are_in_the_error(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-c", "raise SystemExit('no numpy here')"))
    with pytest.raises(HelperError, match="exit code 1: no numpy here"):
        helper.perform("who")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")
def test_ctrl_c_does_not_reach_the_helper(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    use_helper(monkeypatch, "import os\nworker.TASKS['group'] = lambda: {'group': os.getpgid(0)}")
    assert helper.perform("group")["group"] != os.getpgid(0)
    assert helper.pid is not None
    os.kill(helper.pid, signal.SIGINT)
    assert helper.perform("group")


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")
def test_stopping_the_helper_removes_what_it_had_half_written(
    helper: Helper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_helper(
        monkeypatch,
        f"""
import pathlib, time
from xtts_export_callback.checkpoint.publish import whole_directory
def slow():
    with whole_directory(pathlib.Path({str(tmp_path)!r}) / 'out') as folder:
        (folder / 'half').touch()
        time.sleep(60)
worker.TASKS['slow'] = slow
""",
    )
    errors: list[HelperError] = []

    def perform() -> None:
        try:
            helper.perform("slow")
        except HelperError as error:
            errors.append(error)

    thread = threading.Thread(target=perform)
    thread.start()
    while not list(tmp_path.glob(".out.tmp-*/half")):
        assert thread.is_alive()
    helper.stop()
    thread.join()
    assert "stopped" in str(errors[0])
    assert list(tmp_path.iterdir()) == []


def test_the_helper_imports_neither_torch_nor_coqui(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    use_helper(
        monkeypatch,
        """
import sys
def modules():
    import xtts_export_callback.average
    return {'names': sorted({name.partition('.')[0] for name in sys.modules})}
worker.TASKS['modules'] = modules
""",
    )
    assert not {"torch", "TTS", "trainer", "coqpit", "transformers"} & set(helper.perform("modules")["names"])
