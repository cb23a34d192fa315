"""Parses the command line ``xtts-export`` and turns errors into exit codes.

Each command is a module in `cli` with ``HELP``, ``add_arguments(parser)`` and ``run(args)``; none of them imports
anything heavy before it runs, so ``--help`` takes little longer than Python itself.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import select
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from xtts_export_callback import __version__
from xtts_export_callback.errors import XttsExportError
from xtts_export_callback.files.paths import can_be_path
from xtts_export_callback.files.printable import printable
from xtts_export_callback.process import prepare_process

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = (
    "demo",
    "train",
    "export",
    "average",
    "merge",
    "inspect",
    "compare",
    "verify",
    "evaluate",
    "speak",
    "report",
)
_TRAINING = ("demo", "train")

_DONE, _BAD_INPUT, _INTERRUPTED = 0, 2, 130
_READER_GONE = 141  # as a shell reports a process that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit code: 0 done, 1 a check found a difference or fault, 2 bad usage or bad input, 130 interrupted,
        141 when the reader of the output has closed it.
    """
    _prepare_streams()
    try:
        args = _parse(argv)
        if argv is None and not args.trains:  # then the process has no other user
            prepare_process()
        code = int(args.run(args) or _DONE)
        sys.stdout.flush()  # a reader that is gone is noticed here, not by the interpreter as it ends
    except BrokenPipeError as error:
        if not _reader_is_gone():  # a pipe of a training's workers
            _complain(_describe(error))
            return _BAD_INPUT
        _discard_output()
        return _READER_GONE
    except XttsExportError as error:
        _complain(str(error))
        return _BAD_INPUT
    except OSError as error:
        _complain(_describe(error))
        return _BAD_INPUT
    except KeyboardInterrupt:
        _complain("interrupted; nothing half-written is left behind")
        return _INTERRUPTED
    return code


def _prepare_streams() -> None:
    """Make every path printable in every encoding, and replace a stream that was closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - for the process's life
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _reader_is_gone() -> bool:
    try:
        sys.stdout.flush()
        poll = select.poll()  # with an empty buffer, a flush finds nothing out
        poll.register(sys.stdout, 0)
        return bool(poll.poll(0))
    except BrokenPipeError:
        return True
    except (OSError, ValueError, AttributeError):  # no file beneath stdout, or no poll on this system
        return False


def _discard_output() -> None:
    """Send buffered output to devnull, or the interpreter complains about it as it ends."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file beneath it
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, and reads -1e-3 as a number."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")

    def error(self, message: str) -> NoReturn:
        self.exit(_BAD_INPUT, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="xtts-export",
        description="Turn XTTS v2 checkpoints into inference models, measure them, choose and listen.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    arguments = list(sys.argv[1:] if argv is None else argv)
    for argument in arguments:
        if not can_be_path(argument):
            parser.error(f"{argument}: expected an argument without null characters or halves of surrogate pairs")
    # Where the command is named, the others are not imported.
    for name in arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else COMMANDS:
        module = importlib.import_module(f"xtts_export_callback.cli.{name}")
        subparser = subparsers.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run, trains=name in _TRAINING)
    overrides: list[str] = []
    if arguments[:1] == ["train"]:
        from xtts_export_callback.training.overrides import split_overrides

        own, overrides = split_overrides(arguments[1:])
        arguments = ["train", *own]
    args = parser.parse_args(arguments)
    args.overrides = overrides
    return args


def _complain(message: str) -> None:
    print(f"xtts-export: {printable(message)}", file=sys.stderr)


def _describe(error: OSError) -> str:
    where = os.fspath(error.filename) if error.filename is not None else ""
    reason = error.strerror or str(error)
    return f"{where}: {reason}; check the path, its permissions and the free space" if where else reason
