"""Reports what a command found or did: as text, as JSON, or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from xtts_export_callback.cli.json_output import describe_error, print_json
from xtts_export_callback.cli.progress import say
from xtts_export_callback.errors import XttsExportError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from xtts_export_callback.inference_folder.folder import WrittenFolder

_DONE, _BAD_INPUT = 0, 2


def report(args: argparse.Namespace, data: Callable[[], dict[str, Any]], show: Callable[[], None]) -> None:
    """Print the result of a command.

    Args:
        args: The command line, with the options of `options.add_report_options`.
        data: Makes the plain values for ``--json``.
        show: Prints the text.
    """
    if args.json:
        print_json(data())
    elif not args.quiet:
        show()


def tell(args: argparse.Namespace, line: str) -> None:
    """Print a line of text, except with ``--json`` and ``-q``."""
    if not (args.json or args.quiet):
        say(line)


def files_of(folder: WrittenFolder) -> list[str]:
    """Return a line on each file of a folder and on what was dropped, for ``-v``."""
    files, dropped = folder.provenance.get("files", {}), folder.provenance.get("dropped", {})
    lines = [f"wrote {name}: {file['bytes']:,} bytes" for name, file in files.items()]
    return lines + [
        f"dropped {name}: {part['tensors']} tensors, {part['bytes']:,} bytes" for name, part in dropped.items()
    ]


class Failure(NamedTuple):
    """A source that could not be used.

    Attributes:
        source: What the command line or a run names.
        error: Why.
    """

    source: Any
    error: XttsExportError

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"path": str(self.source), **describe_error(self.error)}


def for_each(sources: Iterable[Any], do: Callable[[Any], None], *, several: bool) -> list[Failure]:
    """Do something to every source; of several, one that fails is named on stderr and does not stop the others.

    Returns:
        What failed.

    Raises:
        XttsExportError: When the only source fails.
    """
    failures = []
    for source in sources:
        try:
            do(source)
        except XttsExportError as error:
            if not several:
                raise
            failures.append(Failure(source, error))
            say(f"xtts-export: {' '.join(str(error).split())}", file=sys.stderr)
    return failures


def exit_code(failures: list[Failure], otherwise: int = _DONE) -> int:
    """Return 2 where a source failed."""
    return _BAD_INPUT if failures else otherwise


@contextlib.contextmanager
def only_the_result(args: argparse.Namespace) -> Iterator[None]:
    """Keep what other packages print off stdout: it goes to stderr with ``--json`` and nowhere with ``-q``."""
    if args.json:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    elif args.quiet:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
            yield
    else:
        yield
