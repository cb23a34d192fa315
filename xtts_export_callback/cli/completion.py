"""Prints the script that lets a shell complete commands, options and files, made from the parser."""

from __future__ import annotations

import argparse
import re
import sys

from xtts_export_callback.extras import require

SHELLS = ("bash", "zsh", "fish")
_FOLDER, _FILE = "DIR|RUN", "FILE|PATH|CHECKPOINT|MODEL|CONFIG|RECIPE|A|B"


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Make the script for a shell.

    Args:
        parser: The parser with all commands.
        shell: One of `SHELLS`.

    Returns:
        The script.

    Raises:
        MissingExtraError: When shtab is not installed.
    """
    require("completion", "--print-completion")
    import shtab

    for each in _parsers(parser):
        for action in each._actions:
            kind = _completes(action)
            if kind:
                action.complete = getattr(shtab, kind)  # type: ignore[attr-defined] # what shtab looks for
    return str(shtab.complete(parser, shell))


class PrintCompletion(argparse.Action):
    """Print the script and stop, as ``--version`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        """Print the script for the shell that is named after the option."""
        sys.stdout.write(completion_script(parser, str(rest[1])))
        parser.exit()


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(each for action in commands for each in action.choices.values())]


def _completes(action: argparse.Action) -> str:
    """Tell what completes the value of an argument: shtab's ``FILE`` or ``DIRECTORY``; empty for numbers and names."""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if action.nargs == 0 or action.choices is not None or action.type is not None:
        return ""
    words = metavar.split("|")
    if all(re.fullmatch(_FOLDER, word) for word in words):
        return "DIRECTORY"
    return "FILE" if any(re.match(f"{_FILE}|{_FOLDER}", word) for word in words) else ""
