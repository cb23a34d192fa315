"""Prints comparisons as text and tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from xtts_export_callback.comparison.summary import percent
from xtts_export_callback.inspection.table import as_text, make_console, print_sentence, print_table, table_that_fits
from xtts_export_callback.xtts.components import BY_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.table import Table

    from xtts_export_callback.comparison.distance import Difference
    from xtts_export_callback.comparison.models import ComparisonReport
    from xtts_export_callback.comparison.trajectory import TrajectoryReport

_FEW = 10
_MEANINGS = {
    "moved": "the GPT since the previous checkpoint, relative to its size at the start",
    "turn": "cosine between a step and the previous one; +1 straight on, 0 sideways, -1 back",
}


def show_comparison(report: ComparisonReport, *, with_all: bool = False, console: Console | None = None) -> None:
    """Print a sentence, the differences outside the weights, then the weights from coarse to fine.

    Args:
        report: What to print.
        with_all: Print every changed tensor, not only the most changed.
        console: Where to print; by default on stdout.
    """
    console = console or make_console()
    sentence = report.sentence
    print_sentence(console, f"{sentence[0].upper()}{sentence[1:]}.")
    for line in _structure(report):
        console.print(as_text(line))
    components = [(BY_KEY[key].title, found) for key, found in report.components.items()]
    print_table(console, _table(console.width, "component", components))
    if not all(found.is_identical for found in report.layers.values()):
        console.print(
            _table(console.width, "layer of the GPT", [(str(layer), found) for layer, found in report.layers.items()])
        )
    moved = [(title, found) for title, found in report.parts.items() if found.changed]
    if moved:
        print_table(console, _table(console.width, "outside the layers", moved))
    changed = list(report.changed_tensors.items())
    if changed:
        few = changed if with_all else changed[:_FEW]
        shown = f"most changed of {len(changed)} tensors" if len(few) < len(changed) else "changed tensors"
        print_table(console, _table(console.width, shown, few))


def show_trajectory(report: TrajectoryReport, *, console: Console | None = None) -> None:
    """Print how a run's weights moved: a sentence, then one line per checkpoint."""
    console = console or make_console()
    sentence = report.sentence
    print_sentence(console, f"{sentence[0].upper()}{sentence[1:]}.")
    titles = ["checkpoint", "moved", "turn", "from start", "part that moved most"]
    rows = [[name, *_trajectory_figures(report, index)] for index, name in enumerate(report.stops)]
    if any(report.nonfinite):
        titles.append("NaN or infinite")
        rows = [[*row, f"{number:,}"] for row, number in zip(rows, report.nonfinite, strict=True)]
    table = table_that_fits(titles, rows, console.width, dispensable=("turn", "part that moved most", "from start"))
    console.print(table)
    shown = {str(column.header) for column in table.columns}
    for title, meaning in _MEANINGS.items():
        if title in shown:
            console.print(as_text(f"{title}: {meaning}"), soft_wrap=True)


def _trajectory_figures(report: TrajectoryReport, index: int) -> tuple[str, ...]:
    if not index:
        return ("-",) * 4
    turn = report.gpt.turn[index]
    steps = {
        title: trajectory.step[index]
        for title, trajectory in report.parts.items()
        if not math.isnan(trajectory.step[index])
    }
    most = max(steps, key=steps.__getitem__, default="")
    return (
        percent(report.gpt.step[index]),
        f"{turn:+.3f}" if turn is not None else "-",
        percent(report.gpt.away[index]),
        f"{most} ({percent(steps[most])})" if steps.get(most) else "-",
    )


def _structure(report: ComparisonReport) -> list[str]:
    lines = []
    for file, names, components in (
        ("A", report.only_a, report.components_only_a),
        ("B", report.only_b, report.components_only_b),
    ):
        lines += [
            f"only in {file}: the {BY_KEY[key].title} ({count} tensors), which inference does not need"
            for key, count in components.items()
        ]
        lines += _listed(f"only in {file}", names)
    shapes = (f"{name}: {_shape(a)} in A, {_shape(b)} in B" for name, (a, b) in report.shapes.items())
    lines += _listed("different shape", shapes)
    pairs: dict[tuple[str, str], int] = {}
    for pair in report.dtypes.values():
        pairs[pair] = pairs.get(pair, 0) + 1
    lines += [f"different dtype: {count} tensors are {a} in A and {b} in B" for (a, b), count in pairs.items()]
    if report.config is None:
        lines.append("configuration: not compared, one of the files has none")
    else:
        lines += _listed("configuration", (f"{name}: {a!r} in A, {b!r} in B" for name, (a, b) in report.config.items()))
    if report.vocabulary is None:
        lines.append("vocabulary: not compared, no vocab.json that fits was found for one of the files")
    else:
        labels = {"only_a": "token only in A", "only_b": "token only in B", "moved": "token in a different row"}
        for key, label in labels.items():
            lines += _listed(label, (repr(token) for token in report.vocabulary[key]))
    return lines


def _listed(label: str, items: Iterable[str]) -> list[str]:
    found = list(items)
    lines = [f"{label}: {item}" for item in found[:_FEW]]
    return [*lines, f"{label}: and {len(found) - _FEW} more"] if len(found) > _FEW else lines


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _table(width: int, title: str, rows: Iterable[tuple[str, Difference]]) -> Table:
    titles = (title, "moved by", "cos(A, B)", "cos(A, B-A)", "changed", "largest change")
    cells = [(name, *_figures(found)) for name, found in rows]
    return table_that_fits(titles, cells, width, dispensable=("cos(A, B-A)", "cos(A, B)", "largest change", "changed"))


def _figures(found: Difference) -> tuple[str, ...]:
    if found.is_identical:
        return ("identical", "", "", "0 %", "")
    if not found.changed:
        return ("equal values", "", "", "0 %", "")
    return (
        percent(found.relative_l2),
        _cosine(found.cosine, ".6f"),
        _cosine(found.difference_cosine, "+.3f"),
        percent(found.changed_share),
        f"{found.largest:.3g}" + (f", {found.nonfinite} not finite" if found.nonfinite else ""),
    )


def _cosine(value: float | None, spec: str) -> str:
    return format(value, spec) if value is not None else "-"
