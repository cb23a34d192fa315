"""Prints lines and progress bars."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xtts_export_callback.files.printable import printable
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

_BAR_WIDTH = 30
_FIRST_SHOWN_AFTER, _SHOWN_EVERY = 1.0, 0.1  # seconds


def say(line: str, *, file: TextIO | None = None) -> None:
    """Print a line, on stdout by default, with control characters from names and files as escapes."""
    print(printable(line), file=file)


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr for work that takes over a second, if stderr is a terminal.

    Args:
        label: The work that is done.
        total: Bytes expected.

    Yields:
        A function to call with the number of bytes done since the last call, from any thread.
    """
    name = printable(label)
    started = time.monotonic()
    shown_at = started + _FIRST_SHOWN_AFTER - _SHOWN_EVERY
    done = 0
    lock = threading.Lock()
    is_terminal = sys.stderr.isatty()
    was_shown = False

    def advance(nbytes: int) -> None:
        nonlocal done, shown_at, was_shown
        with lock:
            done += nbytes
            now = time.monotonic()
            if not is_terminal or now - shown_at < _SHOWN_EVERY:
                return
            shown_at = now
            was_shown = True
            rate = done / max(now - started, 1e-9)
            _draw(name, done, total, f"{human_size(done)} at {human_size(int(rate))}/s")

    try:
        yield advance
    finally:
        if was_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextmanager
def clips_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr for work on clips that takes over a second, with what is left, if stderr is a terminal.

    Args:
        label: The work that is done.

    Yields:
        A function to call with the number of clips done so far and the number of all.
    """
    name = printable(label)
    started = shown_at = time.monotonic()
    was_shown = False

    def show(done: int, total: int) -> None:
        nonlocal shown_at, was_shown
        now = time.monotonic()
        if not sys.stderr.isatty() or now - started < _FIRST_SHOWN_AFTER or now - shown_at < _SHOWN_EVERY:
            return
        shown_at, was_shown = now, True
        left = (now - started) / done * (total - done)
        _draw(name, done, total, f"{done} of {total} clips, {duration(left)} left")

    try:
        yield show
    finally:
        if was_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def duration(seconds: float) -> str:
    """Return seconds as people read them, such as ``3 min 20 s``."""
    minutes = int(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {int(seconds % 60)} s"


def _draw(name: str, done: int, total: int, text: str) -> None:
    share = min(1.0, done / total) if total else 1.0
    bar = "#" * int(share * _BAR_WIDTH)
    sys.stderr.write(f"\r{name} [{bar:<{_BAR_WIDTH}}] {share:4.0%} {text}\x1b[K")
    sys.stderr.flush()
