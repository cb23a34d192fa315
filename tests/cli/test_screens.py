"""What a terminal of 60, 80 and 120 columns shows: held against files, and no line of a table is wider.

``python -m tests.cli.test_screens`` writes the files anew; look at them before you commit them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.models.reports import (
    COMPARISONS,
    RUN,
    STEADY,
    checkpoint_report,
    run_report,
    trajectory,
)
from xtts_export_callback.cli import progress
from xtts_export_callback.cli.progress import progress_line
from xtts_export_callback.comparison import table as comparison_table
from xtts_export_callback.inspection.columns import filled, fitting, shortened
from xtts_export_callback.inspection.table import show_checkpoint, show_run

SCREENS = Path(__file__).with_name("screens")
WIDTHS = (60, 80, 120)
FACTS = ("inference needs", "a slim export", "training ", "tensors ", "architecture", "vocabulary", "resume", "how to")


def _progress(width: int) -> str:
    moments = ((0, 0.5), (400_000_000, 1.2), (3_000_000_000, 9.0), (5_576_650_782, 16.7))
    return "".join(f"{progress_line(RUN.name, done, 5_576_650_782, seconds, width)}\n" for done, seconds in moments)


SHOWN: dict[str, Callable[[Console], None]] = {
    "inspect": lambda console: show_checkpoint(checkpoint_report(), console=console),
    "inspect_tensors": lambda console: show_checkpoint(checkpoint_report(), with_tensors=True, console=console),
    "inspect_run": lambda console: show_run(run_report(), console=console),
    "compare": lambda console: comparison_table.show_comparison(COMPARISONS[STEADY](), console=console),
    "compare_nan": lambda console: comparison_table.show_comparison(COMPARISONS["NaN"](), console=console),
    "compare_run": lambda console: comparison_table.show_trajectory(trajectory(), console=console),
}


def screen(name: str, width: int) -> str:
    """What a terminal of that width shows: longer lines wrap."""
    if name == "progress":
        return _progress(width)
    out = io.StringIO()
    SHOWN[name](Console(file=out, width=width, highlight=False, markup=False, emoji=False, legacy_windows=False))
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [*SHOWN, "progress"])
def test_a_screen_is_the_one_that_was_looked_at(name: str, width: int) -> None:
    assert screen(name, width) == (SCREENS / f"{name}_{width}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [*SHOWN, "progress"])
def test_no_table_is_wider_than_the_terminal(name: str, width: int) -> None:
    # Lines of text are left to the terminal to wrap, so that a file and a search keep them whole.
    cells = [line for line in screen(name, width).splitlines() if "  " in line.strip() and not line.startswith(FACTS)]
    assert [line for line in cells if len(line) > width and ": " not in line] == []


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_progress_never_reaches_the_last_column(width: int) -> None:
    for name in ("verify", RUN.name, "x" * 300):
        for done in (0, 10**6, 10**9, 5 * 10**9):
            assert len(progress_line(name, done, 5 * 10**9, 3.3, width)) < width


def test_progress_says_how_long_it_still_takes() -> None:
    assert progress_line("verify", 10**9, 4 * 10**9, 2.0, 120).endswith(" 25% 1.00 GB 500.00 MB/s 6 s left")
    assert progress_line("verify", 10**9, 400 * 10**9, 2.0, 120).endswith("13 min 18 s left")


def test_the_time_left_counts_from_the_first_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 110.0, 111.0])  # 100 s to load a model, then 10 s a clip
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))

    with progress.clips_bar("evaluate") as show:
        for done, total in ((1, 10), (2, 10), (1, 40)):  # of the loss, then of speech
            show(done, total)

    shown = [line.partition("% ")[2] for line in terminal.getvalue().split("\x1b[K")]
    assert shown == ["1 of 10 clips", "2 of 10 clips, 1 min 20 s left", "1 of 40 clips", "", ""]


def test_the_first_column_stays_and_the_dispensable_go_in_turn() -> None:
    rows = [["a" * 40, "b" * 10, "c" * 10, "d" * 10]]
    titles = ["name", "one", "two", "three"]
    assert fitting(titles, rows, 200, dispensable=("two", "one")) == ([0, 1, 2, 3], 40)
    assert fitting(titles, rows, 60, dispensable=("two", "one")) == ([0, 1, 2, 3], 24)
    assert fitting(titles, rows, 50, dispensable=("two", "one")) == ([0, 1, 3], 26)
    assert fitting(titles, rows, 10, dispensable=("two", "one")) == ([0, 3], 24)


def test_a_shortened_name_keeps_both_ends() -> None:
    name = "hifigan_decoder.waveform_decoder.resblocks.0.convs1.0.parametrizations.weight.original0"
    assert shortened(name, 30) == "hifigan_de\u2026ns.weight.original0"
    assert shortened(name, 200) == name
    assert shortened(f"    {name}", 34) == f"    {shortened(name, 30)}"


@pytest.mark.parametrize("width", range(20, 40))
def test_a_sentence_is_broken_between_words_and_never_before_its_percent(width: int) -> None:
    sentence = "the GPT moved by 0.98 % (layers by 0.2 % to 1.2 %)"
    lines = filled(sentence, width)
    assert " ".join(lines) == sentence
    assert not any(line.startswith("%") or len(line) > width for line in lines)


def test_no_color_turns_colours_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system="truecolor")
    show_run(run_report(), console=console)
    assert "\x1b[3" not in out.getvalue().replace("\x1b[3m", "")


if __name__ == "__main__":
    SCREENS.mkdir(exist_ok=True)
    for each in [*SHOWN, "progress"]:
        for columns in WIDTHS:
            (SCREENS / f"{each}_{columns}.txt").write_text(screen(each, columns), encoding="utf-8")
