"""Print reports as tables for a terminal."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from xtts_export_callback.files.printable import printable
from xtts_export_callback.inspection.checkpoint import KINDS, CheckpointReport
from xtts_export_callback.inspection.columns import filled, fitting, shortened
from xtts_export_callback.units import human_size
from xtts_export_callback.xtts.components import BY_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from xtts_export_callback.inspection.run import RunReport, SavedReport
    from xtts_export_callback.inspection.tree import Node
    from xtts_export_callback.xtts.architecture import Architecture

# Widths of the terminal: full tables from the first on, purposes from the second.
_WIDE, _MEDIUM = 110, 90
_NARROW = 70  # shapes are written closer
_BAR_WIDTH, _SHORT_BAR_WIDTH = 24, 10
_RUN_COLUMNS = 5  # with "keep for"
_MEASURED = 10_000  # wider than any table
_PIPE_WIDTH = 120  # a file has no width of its own
_INDENT = "  "
_LABEL_WIDTH = 17


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let `cli.main` end quietly; rich would exit with 1, our code for a difference."""
        raise BrokenPipeError


def make_console() -> Console:
    """Return a console on stdout without markup, which wraps text for a file only where ``COLUMNS`` is set."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    has_width = is_terminal or os.environ.get("COLUMNS", "").lstrip("0").isdigit()
    return _Console(width=None if has_width else _PIPE_WIDTH, highlight=False, markup=False, emoji=False)


def as_text(content: str, style: str = "") -> Text:
    """Return a name or a string from a file as one line without markup, for a table or a line."""
    return Text(printable(content), style=style)


def show_checkpoint(report: CheckpointReport, *, with_tensors: bool = False, console: Console | None = None) -> None:
    """Print what a file is, where its bytes are, and what can be done with it.

    Args:
        report: What to print.
        with_tensors: Print every tensor too.
        console: Where to print; by default on stdout.
    """
    console = console or make_console()
    title = f"{report.path}: {KINDS[report.kind]}, {human_size(report.nbytes)} ({report.nbytes:,} bytes)"
    _print_line(console, title)
    print_table(console, _components(report, console.width, is_unicode=_is_unicode(console)))
    if console.width < _MEDIUM:
        _print_purposes(console, report)
    for label, text in _facts(report):
        _print_line(console, f"{label:<{_LABEL_WIDTH}}{text}")
    if with_tensors:
        from xtts_export_callback.inspection.tree import fold

        console.print()
        print_table(console, _tensor_table(fold(report.tensors), console.width))


def show_run(report: RunReport, *, console: Console | None = None) -> None:
    """Print one line for each checkpoint of a run, and the disk space."""
    console = console or make_console()
    disk = human_size(report.nbytes)
    _print_line(console, f"{report.path}: run of {len(report.checkpoints)} checkpoints, {disk} on disk")
    table = _run_table(report, console.width)
    print_table(console, table)
    if len(table.columns) < _RUN_COLUMNS:
        kept = ", ".join(f"{saved.name} ({saved.needed})" for saved in report.checkpoints if saved.needed)
        _print_line(console, f"to keep: {kept or 'none'}")
    for saved in report.checkpoints:
        if saved.fault:
            _print_line(console, f"unreadable: {saved.fault}")
    if report.removals:
        _print_line(console, f"can be freed now: {human_size(report.freeable)}, by `xtts-export prune {report.path}`:")
        for removal in report.removals:
            _print_line(console, f"{_INDENT}{removal.line}")
    else:
        _print_line(console, "can be freed now: nothing")
    if report.freeable_after_export:
        later = human_size(report.freeable_after_export)
        _print_line(console, f"can be freed after `xtts-export export {report.path}`: {later} more")


def _print_line(console: Console, text: str) -> None:
    console.print(as_text(text), soft_wrap=True)  # the terminal wraps; a file and a search keep whole lines


def print_sentence(console: Console, sentence: str) -> None:
    """Print a sentence in bold, in lines that fit."""
    for line in filled(printable(sentence), console.width):
        console.print(Text(line, style="bold"), soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """Print a table without cutting names or sizes, at any width: the terminal wraps lines that are too long."""
    given = console.width
    if all(column.no_wrap for column in table.columns):
        console.width = _MEASURED
        console.width = max(given, Measurement.get(console, console.options, table).maximum)
    console.print(table)
    console.width = given


def _components(report: CheckpointReport, width: int, *, is_unicode: bool) -> Table:
    """Build the table of components; a narrow terminal drops bytes and half the bar, then purposes, never sizes."""
    bar_width = _BAR_WIDTH if width >= _WIDE else _SHORT_BAR_WIDTH
    table = _plain_table()
    table.add_column("component", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    if width >= _WIDE:
        table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("inference", no_wrap=True)
    if width >= _MEDIUM:
        table.add_column("what it is for", overflow="fold")

    def add(title: str, nbytes: int, bar: str, needed: str, purpose: str) -> None:
        exact = [f"{nbytes:,}"] if width >= _WIDE else []
        table.add_row(title, human_size(nbytes), *exact, bar, needed, *([purpose] if width >= _MEDIUM else []))

    largest = max(share.nbytes for share in report.shares)
    for share in report.shares:
        component = BY_KEY[share.key]
        bar = _bar(share.nbytes / largest if largest else 0, bar_width, is_unicode=is_unicode)
        add(component.title, share.nbytes, bar, "yes" if component.speaks else "no", component.purpose)
    table.add_section()
    add("file", report.nbytes, "", "", "the sum of the above")
    return table


def _print_purposes(console: Console, report: CheckpointReport) -> None:
    for share in report.shares:
        text = f"{BY_KEY[share.key].title}: {BY_KEY[share.key].purpose}"
        for line in textwrap.wrap(text, max(console.width, 20), subsequent_indent=_INDENT):
            _print_line(console, line)


def _run_table(report: RunReport, width: int) -> Table:
    """Build the table of a run; a narrow terminal drops the sizes of exports, then the step, which is in the name."""
    titles = ("checkpoint", "step", "full", "eval loss", "exported", "keep for")
    others = [(f"{report.folder}/{name}", "", "", "", human_size(size), "") for name, size in report.others.items()]
    for with_sizes in (True, False):
        rows = [*(_saved_row(saved, with_export_size=with_sizes) for saved in report.checkpoints), *others]
        if len(fitting(titles, rows, width, dispensable=("step",))[0]) == len(titles):
            break
    return table_that_fits(titles, rows, width, dispensable=("step", "keep for"), left=("exported", "keep for"))


def table_that_fits(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    dispensable: Sequence[str] = (),
    left: Sequence[str] = (),
) -> Table:
    """Build a table that is no wider than the terminal: columns that can be done without go, the first one never.

    Args:
        titles: Headings; the first column is aligned left.
        rows: The cells.
        width: Characters of the terminal.
        dispensable: Headings of columns that may go, the first to go first.
        left: Headings of further columns aligned left.
    """
    stay, first = fitting(titles, [list(map(printable, row)) for row in rows], width, dispensable=dispensable)
    table = _plain_table()
    for index in stay:
        is_left = index == 0 or titles[index] in left
        table.add_column(as_text(titles[index]), justify="left" if is_left else "right", no_wrap=True)
    for row in rows:
        table.add_row(as_text(shortened(printable(row[0]), first)), *(as_text(row[index]) for index in stay[1:]))
    return table


def _facts(report: CheckpointReport) -> list[tuple[str, str]]:
    needed = report.speaking_bytes
    facts = [("inference needs", f"{human_size(needed)} of {human_size(report.nbytes)} ({needed / report.nbytes:.0%})")]
    if report.slim:
        slim = ", ".join(f"{human_size(size)} in {name}" for name, size in report.slim.items())
        facts.append(("a slim export", slim))
    state = {key: value for key, value in report.state.items() if value is not None}
    if state:
        text = ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in state.items())
        if report.computed_losses:
            text += " (mean of the inputs' losses, not measured)"
        facts.append(("training", text))
    dtypes = ", ".join(f"{name} ({human_size(size)})" for name, size in report.dtypes.items())
    prefix = f"names start with {report.prefix}" if report.prefix else "names without prefix"
    facts.append(("tensors", f"{len(report.tensors)}, {dtypes}; {prefix}; {report.format} file"))
    if report.architecture is not None:
        facts += _architecture_facts(report.architecture)
    yes = "yes, with fresh optimizer moments: it holds weights only" if report.fresh_moments else "yes"
    facts.append(("resume", yes if report.resumable else f"no: {'; '.join(report.obstacles)}"))
    facts.append(("how to train", report.advice))
    if report.provenance is not None:
        facts += _provenance_facts(report.provenance)
    return facts


def _architecture_facts(architecture: Architecture) -> list[tuple[str, str]]:
    heads = f", {architecture.heads} heads" if architecture.heads else ""
    size = f"{architecture.parameters / 1e6:.1f} M parameters"
    text = f"GPT of {architecture.layers} layers, {architecture.width} wide{heads}; {size}"
    release = architecture.release or "an extended or custom vocabulary"
    vocabulary = f"{architecture.text_tokens} text tokens: {release}; {architecture.audio_tokens} audio tokens"
    return [("architecture", text), ("vocabulary", vocabulary)]


def _provenance_facts(provenance: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [("made by", f"{provenance['kind']} in {provenance.get('dtype')}, {provenance.get('created')}")]
    sources = provenance.get("sources")
    for source in sources if isinstance(sources, list) else []:
        if isinstance(source, dict):
            weight = f", weight {_number(source['weight'])}" if "weight" in source else ""
            text = f"{source.get('name')}, step {source.get('step')}{weight}, {source.get('fingerprint')}"
            facts.append(("source", text))
    return facts


def _saved_row(saved: SavedReport, *, with_export_size: bool) -> tuple[str, ...]:
    exported = saved.export or "no"
    if saved.export and with_export_size:
        exported += f" ({human_size(saved.export_bytes)})"
    loss = f"{saved.eval_loss:.4g}" if saved.eval_loss is not None else "-"
    full = human_size(saved.nbytes) if saved.nbytes else "-"
    return saved.name, str(saved.step), full, loss, exported, "unreadable" if saved.fault else saved.needed


def _tensor_table(root: Node, width: int) -> Table:
    titles = ("tensor", "dtype", "shape", "size")
    rows = [row for child in root.children for row in _rows(child, 0, 1)]
    if width < _NARROW:
        rows = [
            (name, dtype, shape.replace(" x ", "x").replace("  (", " ("), size) for name, dtype, shape, size in rows
        ]
    return table_that_fits(titles, rows, width, dispensable=("dtype",), left=("dtype", "shape"))


def _rows(node: Node, depth: int, above: int) -> Iterator[tuple[str, ...]]:
    """Yield one row for each node. The size of a folded one counts all the layers that it stands for."""
    only_child = node
    name = node.name
    while len(only_child.children) == 1 and only_child.count == 1:  # `a.b.c` where nothing branches off
        only_child = only_child.children[0]
        name += f".{only_child.name}"
    equal = f"  ({only_child.count} equal)" if only_child.count > 1 else ""
    shape = " x ".join(map(str, only_child.shape)) or "scalar" if only_child.dtype else f"{only_child.tensors} tensors"
    times = f"  (x {above})" if only_child.dtype and above > 1 else ""
    yield f"{_INDENT * depth}{name}{equal}", only_child.dtype, f"{shape}{times}", human_size(only_child.nbytes)
    for child in only_child.children:
        yield from _rows(child, depth + 1, above * only_child.count)


def _plain_table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")


def _bar(share: float, width: int, *, is_unicode: bool) -> str:
    full, part = divmod(round(share * width * 2), 2)
    return ("\u2588" * full + "\u258c" * part) if is_unicode else "#" * full


def _is_unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
