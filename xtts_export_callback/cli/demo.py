"""See the whole job in a minute, without network, data or GPU.

Generates speech, trains a tiny but real XTTS under the real Trainer with the callback on, exports, averages, and speaks
with the average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.cli.options import add_report_options
from xtts_export_callback.cli.reporting import only_the_result, report
from xtts_export_callback.extras import require

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("--output", metavar="DIR", help="new folder to work in (default: xtts-export-demo)")
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    require("train", "xtts-export demo")
    from xtts_export_callback.demo.demo import run_demo

    with only_the_result(args):
        folder = run_demo(args.output)
    report(args, lambda: {"run": str(folder)}, lambda: None)
    return 0
