"""Write the mean of checkpoints as an inference folder.

Of a run: the last N checkpoints by step, into RUN/inference/average_last_N. Or of the checkpoints named, into --output.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.commands.common import add_asset_options, add_output_options, human_size, progress_bar

if TYPE_CHECKING:
    import argparse

HELP = "average the last checkpoints of a run, or any others"
_DEFAULT_LAST = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument(
        "sources", nargs="+", metavar="RUN|CHECKPOINT", help="one run folder, or two or more checkpoints"
    )
    parser.add_argument("--last", type=int, metavar="N", help=f"of a run, average the last N (default: {_DEFAULT_LAST})")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="one weight for each, oldest first")
    add_output_options(parser, default="RUN/inference/average_last_N")
    parser.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="type of the result (default: that of the inputs)"
    )
    add_asset_options(parser)


def run(args: argparse.Namespace) -> int:
    """Average, then say what was done."""
    from xtts_export_callback.average import average_checkpoints
    from xtts_export_callback.checkpoint import open_checkpoint
    from xtts_export_callback.checkpoint.layout import inference_model

    paths, output = _plan(args)
    with open_checkpoint(paths[-1]) as newest:
        needed = sum(tensor.nbytes for tensor in inference_model(newest).tensors.values())
    started = time.perf_counter()
    with progress_bar(output.name, needed) as progress:
        result = average_checkpoints(
            paths,
            output,
            weights=args.weights,
            dtype=args.dtype,
            vocab=args.vocab,
            config=args.config,
            force=args.force,
            progress=progress,
        )
    seconds = time.perf_counter() - started
    for source in result.provenance["sources"]:
        print(f"  {source['weight']:.4g} x {source['name']} (step {source['step']})")
    print(f"{output}: {human_size(result.nbytes)}, verified, {seconds:.1f} s")
    return 0


def _plan(args: argparse.Namespace) -> tuple[list[Path], Path]:
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.runs import DEFAULT_FOLDER, is_run, last_checkpoints

    sources = [Path(source) for source in args.sources]
    if len(sources) == 1 and is_run(sources[0]):
        count = args.last if args.last is not None else _DEFAULT_LAST
        paths = [saved.path for saved in last_checkpoints(sources[0], count)]
        return paths, Path(args.output) if args.output else sources[0] / DEFAULT_FOLDER / f"average_last_{count}"
    if args.last is not None:
        msg = "--last: expected one run folder, found checkpoints; name the run or leave --last out"
        raise ConfigError(msg)
    if args.output is None:
        msg = "--output: expected a folder to write to, since checkpoints and not a run were named"
        raise ConfigError(msg)
    return sources, Path(args.output)
