"""The queue that training never waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from xtts_export_callback.training.background import QUEUED, Background, Work


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
