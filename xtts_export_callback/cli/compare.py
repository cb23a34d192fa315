"""Tell how two models differ, or how a run's weights moved between checkpoints.

Compares names, shapes, dtypes, configuration, vocabulary and, in float64, the weights:

  moved by      |B-A| / |A|, the relative Euclidean (L2) distance
  cos(A, B)     cosine of the angle between A and B
  cos(A, B-A)   cosine of the angle between A and the difference: -1 where the change shrinks A, +1 where it grows it,
                about 0 where it turns it, as fine-tuning does
  changed       share of the elements that have another value

Values that are NaN or infinite are counted, named and left out of the distances. In JSON, a distance that cannot be
measured is null, and a configuration field that differs is {"a": ..., "b": ...}, without the side that lacks it.

Local paths in the configuration, and what only training needs, do not count as differences. Exit code for two models:
0, no difference; 1, they differ. For a run: 0, since its weights are meant to move.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.cli.options import add_report_options
from xtts_export_callback.cli.progress import progress_bar, say
from xtts_export_callback.cli.reporting import report
from xtts_export_callback.files.paths import as_path

if TYPE_CHECKING:
    import argparse

_DONE, _SAME, _DIFFERENT = 0, 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("a", metavar="A|RUN", help="the reference, or a run folder to compare checkpoint by checkpoint")
    parser.add_argument(
        "b",
        nargs="?",
        metavar="B",
        help="the model to compare with it; for a run, the base it started from (default: the one in its config, "
        "otherwise its first checkpoint)",
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the change as a picture: .png, .svg or .pdf")
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Compare, print, draw."""
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.run.checkpoints import is_run

    plot = Path(args.plot) if args.plot else None
    if plot is not None and (plot.suffix.lower() not in (".png", ".svg", ".pdf") or not plot.parent.is_dir()):
        msg = f"--plot {plot}: expected a name that ends in .png, .svg or .pdf, in a folder that exists"
        raise ConfigError(msg)
    a = as_path(args.a)
    if is_run(a):
        return _follow(args, a, as_path(args.b) if args.b else None, plot)
    if args.b is None:
        found = "neither" if a.exists() else "no such file or folder; check the path"
        msg = f"{a}: expected a second model to compare with, or a run folder; found {found}"
        raise ConfigError(msg)
    return _compare(args, a, as_path(args.b), plot)


def _compare(args: argparse.Namespace, a: Path, b: Path, plot: Path | None) -> int:
    from xtts_export_callback.checkpoint import open_checkpoint
    from xtts_export_callback.comparison.models import bare_tensors, compare_open

    with open_checkpoint(a) as first, open_checkpoint(b) as second:
        nbytes = sum(tensor.nbytes for tensor in bare_tensors(first).values())
        with progress_bar("compare", nbytes, quiet=args.quiet) as progress:
            found = compare_open(first, second, progress=progress)

    def show() -> None:
        from xtts_export_callback.comparison.table import show_comparison

        show_comparison(found, with_all=args.verbose)

    report(args, found.to_dict, show)
    if plot is not None:
        from xtts_export_callback.comparison.plot import plot_comparison

        plot_comparison(found, plot)
        _tell_plot(args, plot)
    return _DIFFERENT if found.differ else _SAME


def _follow(args: argparse.Namespace, run_folder: Path, base: Path | None, plot: Path | None) -> int:
    from xtts_export_callback.comparison.trajectory import bytes_to_read, compare_run

    with progress_bar(run_folder.name, bytes_to_read(run_folder), quiet=args.quiet) as progress:
        found = compare_run(run_folder, base, progress=progress)

    def show() -> None:
        from xtts_export_callback.comparison.table import show_trajectory

        show_trajectory(found)

    report(args, found.to_dict, show)
    if plot is not None:
        from xtts_export_callback.comparison.plot import plot_trajectory

        plot_trajectory(found, plot)
        _tell_plot(args, plot)
    return _DONE


def _tell_plot(args: argparse.Namespace, plot: Path) -> None:
    if not args.json and not args.quiet:
        say(f"picture: {plot}")
