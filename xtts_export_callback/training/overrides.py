"""Telling our own options of a training command from those for the Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_OWN_OPTIONS = ("--output", "--continue", "--template", "--json", "--quiet", "--verbose", "--help", "-q", "-v", "-h")


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
            target = own if argument.split("=")[0] in _OWN_OPTIONS else overrides
        target.append(argument)
    return own, overrides
