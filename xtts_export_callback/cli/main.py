"""Parses the command line ``xtts-export`` and turns errors into exit codes.

Each command is a module in `cli` with ``add_arguments(parser)`` and ``run(args)``. It is imported when it is named, and
imports nothing heavy before it runs: the list of commands takes little longer than Python itself.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import os
import re
import select
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from xtts_export_callback import __version__
from xtts_export_callback.cli.completion import SHELLS, PrintCompletion
from xtts_export_callback.cli.help_format import HelpFormatter
from xtts_export_callback.errors import XttsExportError
from xtts_export_callback.files.paths import as_path, can_be_path
from xtts_export_callback.files.printable import printable
from xtts_export_callback.files.remote import RemotePath
from xtts_export_callback.process import prepare_process
from xtts_export_callback.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

COMMANDS = {
    "demo": "see the whole job on a tiny XTTS and generated speech",
    "train": "fine-tune XTTS v2 with the export turned on",
    "run": "run a training program as it is, with the export turned on",
    "export": "write the inference folder of full checkpoints",
    "average": "average the last checkpoints of a run, or any others",
    "merge": "merge fine-tunes: weighted, by layer, with a base",
    "inspect": "tell where the gigabytes are, and what a file is",
    "compare": "tell how two models differ, or how a run's weights moved",
    "verify": "tell whether a file, an inference folder or a run is whole and usable",
    "prune": "free disk space of a run: show what can go, ask, remove it",
    "evaluate": "measure models on the same clips and choose, with ties named",
    "speak": "have models say a text, one wav each",
    "report": "make a page of a run or an evaluation, to look at and listen to",
    "push": "put an inference folder on the Hugging Face Hub",
}
"""The commands, and what each does."""

_TRAINING = {"demo", "train", "run"}
_WRITE_TO_URLS = ("export", "average", "merge", "train")
_ON_THIS_DISK = {"output": "--output", "plot": "--plot", "wavs": "--wavs", "run_folder": "RUN", "path": "RUN"}
"""What may not be a URL, by its name on the parsed command line and as the user knows it."""

_BEFORE_THE_COMMAND = ("--json", "-q", "--quiet", "-v", "--verbose")
"""Options of every command that are also taken before its name."""

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
    arguments, program = _split_program(_command_first(list(sys.argv[1:] if argv is None else argv)))
    if argv is None and _TRAINING.isdisjoint(arguments[:1]):  # then the process has no other user
        prepare_process()
    try:
        args = _parse(arguments, program)
        code = int(args.run(args) or _DONE)
        sys.stdout.flush()  # a reader that is gone is noticed here, not by the interpreter as it ends
    except BrokenPipeError as error:
        if not _reader_is_gone():  # a pipe of a training's workers
            return _refuse(error, _describe(error), arguments)
        _discard_output()
        return _READER_GONE
    except XttsExportError as error:
        return _refuse(error, str(error), arguments)
    except OSError as error:
        return _refuse(error, _describe(error), arguments)
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
        self.as_json = False
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")

    def error(self, message: str) -> NoReturn:
        if self.as_json:
            _print_error("UsageError", message)
        self.exit(_BAD_INPUT, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def _command_first(arguments: list[str]) -> list[str]:
    """Put the options of every command behind its name."""
    leading = list(itertools.takewhile(_BEFORE_THE_COMMAND.__contains__, arguments))
    rest = arguments[len(leading) :]
    return [*rest[:1], *leading, *rest[1:]]


def _split_program(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Take the program of ``run`` off: its arguments are none of ours."""
    if arguments[:1] != ["run"]:
        return arguments, []
    from xtts_export_callback.training.overrides import split_program

    own, program = split_program(arguments[1:])
    return ["run", *own], program


def _parse(arguments: list[str], program: list[str]) -> argparse.Namespace:
    own, overrides = arguments, list[str]()
    if arguments[:1] in (["train"], ["run"]):
        from xtts_export_callback.training.overrides import split_overrides

        own, overrides = split_overrides(arguments[1:])
        own = [arguments[0], *own]
    name = own[0] if own[:1] and own[0] in COMMANDS else ""
    completes = any(argument.startswith("--p") for argument in own)  # --print-completion, which may be shortened
    parser, subparsers = _parsers([name] if name else COMMANDS, whole=bool(name) or completes)
    for each in (parser, *subparsers.values()):
        each.as_json = _is_json(own)
    for argument in (*arguments, *program):
        if not can_be_path(argument):
            parser.error(f"{argument}: expected an argument without null characters or halves of surrogate pairs")
    if not own:
        parser.print_help(sys.stderr)
        parser.exit(_BAD_INPUT)
    if not name and not own[0].startswith("-"):
        parser.error(f"{own[0]}: no such command{did_you_mean(own[0], COMMANDS)}")
    first = own[0].partition("=")[0]
    known = [option for action in parser._actions for option in action.option_strings]
    if not name and not (first.strip("-") and any(option.startswith(first) for option in known)):
        parser.error(f"{first}: no such option{did_you_mean(first, known) or '; write the command first'}")
    if own[1:2] == [""]:  # to Python it is the working directory
        parser.error("an empty path; name a file or a folder (the one you are in is .)")
    args, unknown = parser.parse_known_args(own)
    if unknown:
        known = [option for action in subparsers[name]._actions for option in action.option_strings]
        subparsers[name].error(f"unrecognized arguments: {' '.join(unknown)}{did_you_mean(unknown[0], known)}")
    for option, shown in _ON_THIS_DISK.items():
        value = getattr(args, option, None)
        is_exempt = option == "output" and name in _WRITE_TO_URLS
        if isinstance(value, str) and not is_exempt and isinstance(as_path(value), RemotePath):
            subparsers[name].error(f"{shown} {as_path(value)}: expected a path of this disk")
    args.overrides, args.program = overrides, program
    return args


def _parsers(names: Iterable[str], *, whole: bool) -> tuple[_Parser, dict[str, _Parser]]:
    """Make the parser, and that of each command named; ``whole`` adds the arguments of these, which imports them."""
    parser = _Parser(
        prog="xtts-export",
        description="Turn XTTS v2 checkpoints into inference models, measure them, choose and listen.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        metavar="SHELL",
        help=f"print the script that completes commands, options and files in {', '.join(SHELLS)}",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    subparsers = {}
    for name in names:
        subparser = subparsers[name] = commands.add_parser(
            name, help=COMMANDS[name], formatter_class=HelpFormatter, allow_abbrev=False
        )
        if whole:
            module = importlib.import_module(f"xtts_export_callback.cli.{name}")
            subparser.description = module.__doc__
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser, subparsers


def _refuse(error: Exception, message: str, arguments: list[str]) -> int:
    """Say why a command has failed, with the traceback for ``-v`` and on stdout for ``--json``."""
    if {"-v", "--verbose"} & set(arguments):
        import traceback

        traceback.print_exception(error)
    _complain(message)
    if _is_json(arguments):
        _print_error(type(error).__name__, message)
    return _BAD_INPUT


def _is_json(arguments: list[str]) -> bool:
    return "--json" in arguments


def _print_error(kind: str, message: str) -> None:
    from xtts_export_callback.cli.json_output import print_json

    print_json({"error": {"type": kind, "message": " ".join(message.split())}})


def _complain(message: str) -> None:
    print(f"xtts-export: {printable(message)}", file=sys.stderr)


def _describe(error: OSError) -> str:
    where = os.fspath(error.filename) if error.filename is not None else ""
    reason = error.strerror or str(error)
    return f"{where}: {reason}; check the path, its permissions and the free space" if where else reason
