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
def progress_bar(label: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr for work that takes over a second, if stderr is a terminal.

    Args:
        label: The work that is done.
        total: Bytes expected.
        quiet: Show nothing.

    Yields:
        A function to call with the number of bytes done since the last call, from any thread.
    """
    name = printable(label)
    started = time.monotonic()
    shown_at = started + _FIRST_SHOWN_AFTER - _SHOWN_EVERY
    done = 0
    lock = threading.Lock()
    is_terminal = sys.stderr.isatty() and not quiet
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
            share = min(1.0, done / total) if total else 1.0
            bar = "#" * int(share * _BAR_WIDTH)
            rate = done / max(now - started, 1e-9)
            text = f"\r{name} [{bar:<{_BAR_WIDTH}}] {share:4.0%} {human_size(done)} at {human_size(int(rate))}/s"
            sys.stderr.write(f"{text}\x1b[K")
            sys.stderr.flush()

    try:
        yield advance
    finally:
        if was_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
