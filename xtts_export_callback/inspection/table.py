"""Reports as tables for a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from xtts_export_callback.inspection.components import BY_KEY
from xtts_export_callback.inspection.report import KINDS, CheckpointReport
from xtts_export_callback.inspection.tree import Node, fold
from xtts_export_callback.sizes import human_size

if TYPE_CHECKING:
    from xtts_export_callback.inspection.architecture import Architecture
    from xtts_export_callback.inspection.run import RunReport, SavedReport

_BAR_WIDTH = 24
_PIPE_WIDTH = 120  # a file has no width of its own
_INDENT = "  "
_LABEL_WIDTH = 17


def make_console() -> Console:
    """A console on stdout that neither wraps what is piped into a file nor marks it up."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def show_checkpoint(report: CheckpointReport, *, with_tensors: bool = False) -> None:
    """Print what a file is, where its bytes are, and what can be done with it.

    Args:
        report: What to print.
        with_tensors: Print every tensor too.
    """
    console = make_console()
    console.print(Text(f"{report.path}: {KINDS[report.kind]}, {human_size(report.nbytes)} ({report.nbytes:,} bytes)"))
    console.print(_components(report, is_unicode=_is_unicode(console)))
    for label, text in _facts(report):
        print(f"{label:<{_LABEL_WIDTH}}{text}")
    if with_tensors:
        console.print()
        console.print(_tensor_table(fold(report.tensors)))


def show_run(report: RunReport) -> None:
    """Print one line for each checkpoint of a run, and what the disk says."""
    console = make_console()
    disk = human_size(report.nbytes)
    console.print(Text(f"{report.path}: run of {len(report.checkpoints)} checkpoints, {disk} on disk"))
    table = _plain_table()
    table.add_column("checkpoint", no_wrap=True)
    for title in ("step", "full", "eval loss"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("exported", no_wrap=True)
    table.add_column("keep for", overflow="fold")
    for saved in report.checkpoints:
        table.add_row(*map(Text, _saved_row(saved)))
    for name, nbytes in report.others.items():
        table.add_row(*map(Text, (f"inference/{name}", "", "", "", human_size(nbytes), "")))
    console.print(table)
    for saved in report.checkpoints:
        if saved.fault:
            console.print(Text(f"unreadable: {saved.fault}"))
    now, later = human_size(report.freeable), human_size(report.freeable_after_export)
    console.print(Text(f"could be freed now: {now} (exported, and not needed to resume; or a copy)"))
    console.print(Text(f"could be freed after `xtts-export export`: {later} more"))


def _components(report: CheckpointReport, *, is_unicode: bool) -> Table:
    table = _plain_table()
    table.add_column("component", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("speaks", no_wrap=True)
    table.add_column("what it is for", overflow="fold")
    largest = max(share.nbytes for share in report.shares)
    for share in report.shares:
        component = BY_KEY[share.key]
        table.add_row(
            component.title,
            human_size(share.nbytes),
            f"{share.nbytes:,}",
            _bar(share.nbytes / largest if largest else 0, is_unicode=is_unicode),
            "yes" if component.speaks else "no",
            component.purpose,
        )
    table.add_section()
    table.add_row("file", human_size(report.nbytes), f"{report.nbytes:,}", "", "", "the sum of the above")
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
        facts.append(("training", text))
    dtypes = ", ".join(f"{name} ({human_size(size)})" for name, size in report.dtypes.items())
    prefix = f"names start with {report.prefix}" if report.prefix else "names without prefix"
    facts.append(("tensors", f"{len(report.tensors)}, {dtypes}; {prefix}; {report.format} file"))
    if report.architecture is not None:
        facts += _architecture_facts(report.architecture)
    facts.append(("resume", "yes" if report.resumable else f"no: {'; '.join(report.obstacles)}"))
    facts.append(("to go on", report.advice))
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


def _saved_row(saved: SavedReport) -> tuple[str, ...]:
    exported = saved.export or "no"
    if saved.export:
        exported += f" ({human_size(saved.export_bytes)})"
    loss = f"{saved.eval_loss:.4g}" if saved.eval_loss is not None else "-"
    full = human_size(saved.nbytes) if saved.nbytes else "-"
    return saved.name, str(saved.step), full, loss, exported, saved.needed or ("unreadable" if saved.fault else "")


def _tensor_table(root: Node) -> Table:
    table = _plain_table()
    table.add_column("tensor", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("shape", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    for child in root.children:
        _add_rows(table, child, 0, 1)
    return table


def _add_rows(table: Table, node: Node, depth: int, above: int) -> None:
    """One row a node. Sizes are those of all the layers that a folded one stands for."""
    only_child = node
    name = node.name
    while len(only_child.children) == 1 and only_child.count == 1:  # `a.b.c` where nothing branches off
        only_child = only_child.children[0]
        name += f".{only_child.name}"
    equal = f"  ({only_child.count} equal)" if only_child.count > 1 else ""
    shape = " x ".join(map(str, only_child.shape)) or "scalar" if only_child.dtype else f"{only_child.tensors} tensors"
    times = f"  (x {above})" if only_child.dtype and above > 1 else ""
    label = Text(f"{_INDENT * depth}{name}{equal}")
    table.add_row(label, only_child.dtype, f"{shape}{times}", human_size(only_child.nbytes))
    for child in only_child.children:
        _add_rows(table, child, depth + 1, above * only_child.count)


def _plain_table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), header_style="bold")


def _bar(share: float, *, is_unicode: bool) -> str:
    full, part = divmod(round(share * _BAR_WIDTH * 2), 2)
    return ("\u2588" * full + "\u258c" * part) if is_unicode else "#" * full


def _is_unicode(console: Console) -> bool:
    return console.encoding.lower().startswith("utf")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
