"""Telling our own options of a training command from those for the Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

OWN_OPTIONS = (
    *("--output", "--continue", "--template", "--options"),
    *("--json", "--quiet", "--verbose", "--help", "-q", "-v", "-h"),
)


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the arguments for the Trainer from our own.

    argparse cannot: it takes the value of an option it does not know for the config file.

    Args:
        arguments: A command line, without the program's name.

    Returns:
        Our own arguments, and every ``--coqpit.KEY VALUE`` or other option for the Trainer.
    """
    own: list[str] = []
    overrides: list[str] = []
    target = own
    for argument in arguments:
        if argument.startswith("-"):
            target = own if argument.split("=")[0] in OWN_OPTIONS else overrides
        target.append(argument)
    return own, overrides


def split_program(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate our own arguments from the program that they precede.

    Args:
        arguments: A command line, without the program's name.

    Returns:
        Our own arguments. Then the script or ``-m``, which is the first word that is neither an option of ours nor the
        value of one, and all that follows.
    """
    index = 0
    while index < len(arguments) and arguments[index].startswith("-") and arguments[index] != "-m":
        word = arguments[index]
        index += 2 if word == "--options" or (word.startswith("--export.") and "=" not in word) else 1
    return list(arguments[:index]), list(arguments[index:])
