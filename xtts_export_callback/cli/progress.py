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
    done = 0
    lock = threading.Lock()
    with _bar(quiet=quiet) as draw:

        def advance(nbytes: int) -> None:
            nonlocal done
            with lock:
                done += nbytes
                draw(lambda seconds, width: progress_line(name, done, total, seconds, width))

        yield advance


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[Callable[[float, int], str]], None]]:
    """Draw on stderr once work takes over a second, ten times a second, if it is a terminal; clear the line at the end.

    Yields:
        A function that draws a line when it is time to; it is given what makes the line of the seconds since the start
        and the columns of the terminal.
    """
    started = time.monotonic()
    shown_at = started + _FIRST_SHOWN_AFTER - _SHOWN_EVERY
    is_terminal = sys.stderr.isatty() and not quiet
    was_shown = False

    def draw(line: Callable[[float, int], str]) -> None:
        nonlocal shown_at, was_shown
        now = time.monotonic()
        if not is_terminal or now - shown_at < _SHOWN_EVERY:
            return
        shown_at, was_shown = now, True
        sys.stderr.write(f"\r{line(now - started, shutil.get_terminal_size().columns)}\x1b[K")
        sys.stderr.flush()

    try:
        yield draw
    finally:
        if was_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def progress_line(name: str, done: int, total: int, seconds: float, width: int) -> str:
    """Describe progress with bytes in a line that does not wrap: name, bar, share, rate and time left.

    Args:
        name: The work that is done; its middle is cut out where it is too long.
        done: Bytes done.
        total: Bytes expected.
        seconds: Since the start.
        width: Columns of the terminal; the last one stays free, since some terminals wrap when it is written.
    """
    rate = done / max(seconds, 1e-9)
    left = f"{duration((total - done) / rate)} left" if 0 < done < total else ""
    return _line(name, done, total, f"{human_size(done)} {human_size(int(rate))}/s {left}".rstrip(), width)


def _line(name: str, done: int, total: int, text: str, width: int) -> str:
    share = min(1.0, done / total) if total else 1.0
    figures = f"{share:4.0%} {text}"
    room = width - 1 - len(figures) - 1
    if room < _LEAST_NAME:
        return figures[: max(width - 1, 0)]
    bar_width = min(_BAR_WIDTH, room - _LEAST_NAME - 3)
    if bar_width < _LEAST_BAR:
        return f"{shortened(name, room)} {figures}"
    bar = f"[{'#' * int(share * bar_width):<{bar_width}}]"
    return f"{shortened(name, room - len(bar) - 1)} {bar} {figures}"


def duration(seconds: float) -> str:
    """Return seconds as people read them: ``8 s``, ``2 min 5 s``, ``1 h 2 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    return f"{minutes} min {whole % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def clips_bar(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr for work on clips that takes over a second, with what is left, if stderr is a terminal.

    Args:
        label: The work that is done.
        quiet: Show nothing.

    Yields:
        A function to call with the number of clips done so far and the number of all.
    """
    name = printable(label)
    first = (0.0, 0, 0)  # seconds, clips done and their number when the line was first shown
    with _bar(quiet=quiet) as draw:

        def show(done: int, total: int) -> None:
            def line(seconds: float, width: int) -> str:
                nonlocal first
                if first[2] != total or done < first[1]:
                    first = (
                        seconds,
                        done,
                        total,
                    )  # loading models and data before the first clip says nothing of clips
                text = f"{done} of {total} clips"
                if done > first[1]:
                    text += f", {duration((seconds - first[0]) / (done - first[1]) * (total - done))} left"
                return _line(name, done, total, text, width)

            draw(line)

        yield show
