"""Print an evaluation as a sentence and a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.table import Table

from xtts_export_callback.inspection.table import as_text, make_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from xtts_export_callback.evaluation.intervals import Interval
    from xtts_export_callback.evaluation.results import Candidate, Evaluation, Loss
    from xtts_export_callback.evaluation.sweep import Sweep


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the verdict, the candidates by rank, and what was not measured."""
    console = make_console()
    console.print(as_text(evaluation.verdict, style="bold"))
    if evaluation.data is not None:
        counted = max((len(one.loss.clips) for one in evaluation.candidates if one.loss), default=0)
        first = (
            "" if counted in (0, evaluation.data.clips) else f", {counted} after the first batch, as the Trainer counts"
        )
        console.print(as_text(f"{evaluation.data.clips} clips of {evaluation.data.dataset}{first}"))
    columns = {
        title: cells for title, cell in COLUMNS.items() if any(cells := [cell(one) for one in evaluation.candidates])
    }
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("rank", "candidate", *columns, "reason"):
        table.add_column(title, justify="right" if title == "rank" else "left", no_wrap=title == "candidate")
    for index, one in enumerate(evaluation.candidates):
        rank = "-" if one.rank is None else f"{one.rank}{'=' if one.tied_with else ''}"
        row = [rank, one.name, *(cells[index] or "-" for cells in columns.values()), one.reason or ""]
        table.add_row(*map(as_text, row))
    console.print(table)
    console.print(as_text(f"decided by {', then '.join(evaluation.rule)}; = tied; 95 % intervals over clips"))
    for line in evaluation.notes:
        console.print(as_text(line))
    for line in evaluation.not_measured:
        console.print(as_text(f"not measured: {line}"))


def show_sweep(sweep: Sweep) -> None:
    """Print what a fine-tune trades, weight by weight."""
    console = make_console()
    console.print(as_text(sweep.verdict, style="bold"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("weight", *sweep.losses):
        table.add_column(title, justify="right" if title == "weight" else "left")
    for index, weight in enumerate(sweep.weights):
        end = {0.0: " (base)", 1.0: " (fine-tune)"}.get(weight, "")
        table.add_row(
            *map(as_text, [f"{weight:g}{end}", *(_interval(found[index], ".4f") for found in sweep.losses.values())])
        )
    console.print(table)


def _faults(one: Candidate) -> str:
    if one.speech is None:
        return ""
    faults = one.speech.faults
    kinds = ", ".join(f"{count} {kind}" for kind, count in faults.kinds.items())
    return f"{faults.clips_with_faults} of {faults.of}{f' ({kinds})' if kinds else ''}"


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
