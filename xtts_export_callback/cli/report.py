"""Make one HTML page of a run or an evaluation: verdict, measures, loss, layers, disk, and every clip to listen to.

The page opens from the disk in Chromium, Firefox and Safari and loads nothing from a network. It compares clips side by
side or blind, and saves votes as CSV with the column names of webMUSHRA.

A run's evaluation is taken from RUN/evaluation (xtts-export evaluate --output RUN/evaluation).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.cli.options import add_output_options, add_report_options
from xtts_export_callback.cli.progress import progress_bar, say
from xtts_export_callback.cli.reporting import report
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("path", metavar="RUN|EVALUATION_DIR", help="a run folder, or what evaluate --output wrote")
    add_output_options(parser, default="the folder itself")
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Build the page and say where it is."""
    from xtts_export_callback.evaluation.page.page import work, write_page

    path = Path(args.path)
    output = Path(args.output) if args.output else None
    with progress_bar("report", work(path), quiet=args.quiet) as progress:
        page = write_page(path, output, force=args.force, progress=progress)
    nbytes = page.stat().st_size
    line = f"{page}: {human_size(nbytes)}; open it in a browser"
    report(args, lambda: {"page": str(page), "bytes": nbytes}, lambda: say(line))
    return 0
