"""Write the mean of checkpoints as an inference folder.

For a run: the last N checkpoints by step, into RUN/inference/average_last_N. Otherwise the given checkpoints, into
--output. With --running-mean: every step between two checkpoints of a run that was trained with export.running_mean.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.cli.merge_output import add_merge_options, write_and_report
from xtts_export_callback.cli.options import add_asset_options, add_output_options, add_report_options
from xtts_export_callback.cli.progress import progress_bar, say
from xtts_export_callback.cli.reporting import report
from xtts_export_callback.files.paths import as_path

if TYPE_CHECKING:
    import argparse

_DEFAULT_LAST = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument(
        "sources", nargs="+", metavar="RUN|CHECKPOINT", help="one run folder, or two or more checkpoints"
    )
    parser.add_argument(
        "--last", type=int, metavar="N", help=f"average the last N checkpoints of the run (default: {_DEFAULT_LAST})"
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        type=float,
        metavar="W",
        help="one per checkpoint: oldest first for a run, otherwise in the order given",
    )
    parser.add_argument(
        "--decay",
        choices=("linear", "cosine", "1-sqrt"),
        help="weights as if the learning rate had fallen over the checkpoints (linear: equal weights)",
    )
    parser.add_argument(
        "--running-mean", action="store_true", help="average every step, from the sums that export.running_mean left"
    )
    parser.add_argument(
        "--steps", metavar="A:B", default=":", help="with --running-mean: after step A up to step B (default: all)"
    )
    add_output_options(parser, default="RUN/inference/average_last_N")
    add_merge_options(parser)
    add_asset_options(parser)
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Average, then say what was done."""
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.export.precision import parse_precision
    from xtts_export_callback.merge.average import planned_average

    if args.running_mean:
        return _running_mean(args)
    if args.steps != ":":
        msg = "--steps: expected with --running-mean; leave one out or add the other"
        raise ConfigError(msg)
    paths, output = _paths(args)
    options = {key: getattr(args, key) for key in ("weights", "decay", "dtype", "vocab", "config", "for_training")}
    with planned_average(paths, **options, precision=parse_precision(args.precision)) as plan:
        return write_and_report(args, plan, output, kind="average")


def _paths(args: argparse.Namespace) -> tuple[list[Path], Path]:
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.export.export import packed_as
    from xtts_export_callback.files.remote import RemotePath
    from xtts_export_callback.inference_folder.layouts import layout_of
    from xtts_export_callback.run.checkpoints import exports_folder, is_run, last_checkpoints
    from xtts_export_callback.xtts.companions import DVAE

    sources = [as_path(source) for source in args.sources]
    if len(sources) == 1 and is_run(sources[0]):
        count = args.last if args.last is not None else _DEFAULT_LAST
        needs_dvae = DVAE in layout_of(args.layout).files
        if count < 2:  # a recipe may take one checkpoint of a run
            msg = f"{sources[0]}: --last should be at least 2, found {count}; choose a larger number"
            raise ConfigError(msg)
        paths = [saved.path for saved in last_checkpoints(sources[0], count, prefer_full=needs_dvae)]
        if args.output is None and isinstance(sources[0], RemotePath):
            msg = f"{sources[0]}: expected --output, the folder to write to, since the run is not on this disk"
            raise ConfigError(msg)
        output = sources[0] / exports_folder(sources[0]) / f"average_last_{count}"
        return paths, packed_as(output, args.layout) if args.output is None else as_path(args.output)
    if len(sources) == 1 and not sources[0].is_file():
        what = "a folder without checkpoint_N.pth" if sources[0].exists() else "nothing"
        msg = f"{sources[0]}: expected a run folder, found {what}; name a run, or two or more checkpoints"
        raise ConfigError(msg)
    if args.last is not None:
        msg = "--last: expected one run folder, found checkpoints; name the run or leave --last out"
        raise ConfigError(msg)
    if args.output is None:
        msg = "--output: expected a folder to write to; only a run has a default"
        raise ConfigError(msg)
    return sources, as_path(args.output)


_OF_CHECKPOINTS = {"last": None, "weights": None, "decay": None, "for_training": False, "layout": None, "voice": None}
"""Options that make no sense for a running mean, with their defaults."""


def _running_mean(args: argparse.Namespace) -> int:
    from xtts_export_callback.checkpoint import open_checkpoint
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.export.precision import parse_precision
    from xtts_export_callback.merge.running_mean import write_running_mean
    from xtts_export_callback.run.checkpoints import exports_folder
    from xtts_export_callback.run.running_mean import checkpoint_at, parse_steps, windows_between
    from xtts_export_callback.xtts.state_dict import inference_model

    other = next((name for name, default in _OF_CHECKPOINTS.items() if getattr(args, name) != default), None)
    if other is not None or len(args.sources) != 1:
        found = f"{len(args.sources)} sources" if other is None else f"--{other.replace('_', '-')}"
        msg = f"--running-mean: expected one run folder and --steps, found {found}; leave it out"
        raise ConfigError(msg)
    run = Path(args.sources[0])
    windows = windows_between(run, *parse_steps(args.steps))
    first, last = windows[0].first, windows[-1].last
    output = as_path(args.output or run / exports_folder(run) / f"running_mean_{first}_{last}")
    options = {key: getattr(args, key) for key in ("dtype", "vocab", "config", "force")}
    source = checkpoint_at(run, last)
    started = time.perf_counter()
    with open_checkpoint(source, keep=()) as checkpoint:
        nbytes = sum(tensor.nbytes for tensor in inference_model(checkpoint).tensors.values())
    with progress_bar(output.name, nbytes, quiet=args.quiet) as progress:
        written = write_running_mean(
            source,
            [one.path for one in windows],
            output,
            precision=parse_precision(args.precision),
            progress=progress,
            **options,
        )
    updates = sum(one.updates for one in windows)
    line = f"{output}: {windows[-1].way} of {updates} updates, steps {first} to {last}, verified, "
    report(args, written.to_dict, lambda: say(f"{line}{time.perf_counter() - started:.1f} s"))
    return 0
