"""Print an evaluation as a sentence and a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xtts_export_callback.files.printable import printable
from xtts_export_callback.inspection.columns import GAP, fitting
from xtts_export_callback.inspection.table import as_text, make_console, print_sentence, table_that_fits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from xtts_export_callback.evaluation.intervals import Interval
    from xtts_export_callback.evaluation.results import Candidate, Evaluation, Loss
    from xtts_export_callback.evaluation.sweep import Sweep


_FIRST = "rank  candidate"
_DISPENSABLE = ("naturalness", "voice", "characters wrong")
"""Columns that may go, the first to go first."""


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the verdict, the candidates by rank, and what was not measured."""
    console = make_console()
    print_sentence(console, evaluation.verdict)
    if evaluation.data is not None:
        counted = max((len(one.loss.clips) for one in evaluation.candidates if one.loss), default=0)
        first = (
            "" if counted in (0, evaluation.data.clips) else f", {counted} after the first batch, as the Trainer counts"
        )
        console.print(as_text(f"{evaluation.data.clips} clips of {evaluation.data.dataset}{first}"))
    for line in _ranking(evaluation.candidates, console):
        console.print(as_text(line))
    console.print(as_text(f"decided by {', then '.join(evaluation.rule)}; = tied; 95 % intervals over clips"))
    for line in evaluation.notes:
        console.print(as_text(line))
    for line in evaluation.not_measured:
        console.print(as_text(f"not measured: {line}"))


def _ranking(candidates: Sequence[Candidate], console: Console) -> list[str]:
    """Print the candidates by rank.

    In a narrow terminal the reasons follow the table, then intervals go, then measures.

    Returns:
        Lines that follow the table.
    """
    columns = {title: cells for title, cell in COLUMNS.items() if any(cells := [cell(one) for one in candidates])}
    names = [f"{_rank(one):>4}  {one.name}" for one in candidates]
    reasons = [one.reason or "" for one in candidates]
    whole = {_FIRST: names, **columns, "reason": reasons}
    if _width(whole) <= console.width:
        _print_columns(whole, console)
        return []
    remarks = {one.name: "; ".join(filter(None, (_kinds(one), one.reason))) for one in candidates}
    shown = {_FIRST: names, **columns}
    for title in ("faults", *_DISPENSABLE, "loss"):
        _shorten(shown, title, console.width)
    stay = fitting(list(shown), _rows(shown), console.width, dispensable=_DISPENSABLE)[0]
    gone = [title for index, title in enumerate(shown) if index not in stay]
    _print_columns(shown, console)
    below = [f"{name}: {remark}" for name, remark in remarks.items() if remark]
    return [f"too narrow here for: {', '.join(gone)}", *below] if gone else below


def _print_columns(columns: dict[str, list[str]], console: Console) -> None:
    titles = list(columns)
    console.print(table_that_fits(titles, _rows(columns), console.width, dispensable=_DISPENSABLE, left=titles))


def _rows(columns: dict[str, list[str]]) -> list[list[str]]:
    return [[cell or "-" for cell in row] for row in zip(*columns.values(), strict=True)]


def _shorten(columns: dict[str, list[str]], title: str, width: int) -> None:
    """Take what stands in parentheses out of a column, if there is such a column and no room."""
    if title in columns and _width(columns) > width:
        columns[title] = [cell.partition(" (")[0] for cell in columns[title]]


def _width(columns: dict[str, list[str]]) -> int:
    return sum(max(len(printable(cell)) for cell in (title, *cells)) + GAP for title, cells in columns.items()) - GAP


def show_sweep(sweep: Sweep) -> None:
    """Print what a fine-tune trades, weight by weight."""
    console = make_console()
    print_sentence(console, sweep.verdict)
    ends = {0.0: " (base)", 1.0: " (fine-tune)"}
    columns = {"weight": [f"{weight:g}{ends.get(weight, '')}" for weight in sweep.weights]}
    columns |= {name: [_interval(loss, ".4f") for loss in found] for name, found in sweep.losses.items()}
    for name in reversed(sweep.losses):
        _shorten(columns, name, console.width)
    _print_columns(columns, console)


def _rank(one: Candidate) -> str:
    return "-" if one.rank is None else f"{one.rank}{'=' if one.tied_with else ''}"


def _kinds(one: Candidate) -> str:
    kinds = one.speech.faults.kinds if one.speech else {}
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _faults(one: Candidate) -> str:
    if one.speech is None:
        return ""
    kinds = _kinds(one)
    return f"{one.speech.faults.clips_with_faults} of {one.speech.faults.of}{f' ({kinds})' if kinds else ''}"


def _interval(found: Interval | Loss | None, spec: str = ".3f") -> str:
    if found is None:
        return ""
    if not math.isfinite(found.mean):
        return "not a number"
    return f"{found.mean:{spec}} ({found.low:{spec}} to {found.high:{spec}})"


COLUMNS: dict[str, Callable[[Candidate], str]] = {
    "faults": _faults,
    "characters wrong": lambda one: _interval(one.speech.characters_wrong if one.speech else None, ".1%"),
    "voice": lambda one: _interval(one.speech.voice if one.speech else None),
    "naturalness": lambda one: _interval(one.speech.naturalness if one.speech else None, ".2f"),
    "loss": lambda one: _interval(one.loss, ".4f"),
}
