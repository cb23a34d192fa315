"""Prints lines and progress bars."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xtts_export_callback.files.printable import printable
from xtts_export_callback.inspection.columns import shortened
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

_BAR_WIDTH, _LEAST_BAR, _LEAST_NAME = 30, 8, 12
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
            width = shutil.get_terminal_size().columns
            sys.stderr.write(f"\r{progress_line(name, done, total, now - started, width)}\x1b[K")
            sys.stderr.flush()

    try:
        yield advance
    finally:
        if was_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def progress_line(name: str, done: int, total: int, seconds: float, width: int) -> str:
    """Describe progress in a line that does not wrap: name, bar, share, rate and time left.

    Args:
        name: The work that is done; its middle is cut out where it is too long.
        done: Bytes done.
        total: Bytes expected.
        seconds: Since the start.
        width: Columns of the terminal; the last one stays free, since some terminals wrap when it is written.
    """
    share = min(1.0, done / total) if total else 1.0
    rate = done / max(seconds, 1e-9)
    left = f"{_duration((total - done) / rate)} left" if 0 < done < total else ""
    figures = f"{share:4.0%} {human_size(done)} {human_size(int(rate))}/s {left}".rstrip()
    room = width - 1 - len(figures) - 1
    if room < _LEAST_NAME:
        return figures[: max(width - 1, 0)]
    bar_width = min(_BAR_WIDTH, room - _LEAST_NAME - 3)
    if bar_width < _LEAST_BAR:
        return f"{shortened(name, room)} {figures}"
    bar = f"[{'#' * int(share * bar_width):<{bar_width}}]"
    return f"{shortened(name, room - len(bar) - 1)} {bar} {figures}"


def _duration(seconds: float) -> str:
    """``8 s``, ``2 min 5 s``, ``1 h 2 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    return f"{minutes} min {whole % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
