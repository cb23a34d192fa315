"""Run any training program with the export turned on in every Trainer that trains the GPT of an XTTS.

The program needs no change: a script, a web interface, or a launch on several GPUs with -m trainer.distribute. It runs
as python SCRIPT ARGS or python -m MODULE ARGS would, in this environment. Every option of the export can be given
before it as --export.KEY VALUE, for example --export.keep_last 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.cli.options import add_report_options
from xtts_export_callback.cli.reporting import tell
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.extras import require

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line; `training.overrides.split_program` takes the program off before it is parsed."""
    indent = "\n" + " " * len("usage: xtts-export run ")
    parser.usage = indent.join(
        ("%(prog)s [--export.KEY VALUE ...]", "[--options FILE] [--json] [-q] [-v]", "(SCRIPT | -m MODULE) [ARGS]")
    )
    parser.add_argument(
        "--options", metavar="FILE", help="JSON with options of the export, or with a field export that holds them"
    )
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Check the options, then become the program."""
    require("train", "xtts-export run", "torch", "trainer")
    from xtts_export_callback.training.launch import read_options, start

    options = read_options(args.options, args.overrides)
    if not args.program or args.program == ["-m"]:
        msg = "no program is given; write xtts-export run SCRIPT [ARGS], or xtts-export run -m MODULE [ARGS]"
        raise ConfigError(msg)
    if args.verbose:
        tell(args, f"export: {', '.join(f'{name} {value}' for name, value in options.items())}")
    return start(args.program, options)
