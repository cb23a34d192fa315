"""Write the inference folder of existing checkpoints.

Does to files what the callback does during training: copies the inference weights of a full checkpoint, with config
and vocabulary, to a folder that Xtts and TTS load. The source is never changed, and a checkpoint that has its export
is skipped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.cli.options import (
    add_asset_options,
    add_layout_options,
    add_output_options,
    add_report_options,
    add_storage_options,
)
from xtts_export_callback.cli.progress import progress_bar, say
from xtts_export_callback.cli.reporting import Failure, exit_code, files_of, for_each, report, tell
from xtts_export_callback.files.paths import as_path
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    import argparse

    from xtts_export_callback.inference_folder.folder import WrittenFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="CHECKPOINT|RUN",
        help="a checkpoint, or a run folder to export all its checkpoints",
    )
    add_output_options(parser, default="inference/NAME beside each checkpoint; with several, DIR/NAME")
    add_storage_options(parser, default="that of the source")
    parser.add_argument(
        "--sparsity",
        type=float,
        default=0.0,
        metavar="S",
        help="make this share of the weights in the GPT's layers zero, the smallest ones (default: 0)",
    )
    parser.add_argument("--format", default="pth", choices=("pth", "safetensors"), help="file format of the weights")
    add_layout_options(parser)
    add_asset_options(parser)
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Export every source, then say what was done. A source that fails does not stop the others."""
    checkpoints = _checkpoints([as_path(source) for source in args.sources])
    several = len(checkpoints) > 1
    results: list[WrittenFolder] = []
    failures = for_each(checkpoints, lambda path: results.append(_export(path, args, several=several)), several=several)
    report(
        args,
        lambda: {
            "exports": [result.to_dict() for result in results],
            "errors": [failure.to_dict() for failure in failures],
        },
        lambda: _sum_up(results, failures) if several else None,
    )
    return exit_code(failures)


def _sum_up(results: list[WrittenFolder], failures: list[Failure]) -> None:
    written = [result.nbytes for result in results if result.written]
    failed = f", {len(failures)} failed" if failures else ""
    say(f"{len(written)} exported ({human_size(sum(written))}), {len(results) - len(written)} skipped{failed}")


def _export(path: Path, args: argparse.Namespace, *, several: bool) -> WrittenFolder:
    from xtts_export_callback.checkpoint import open_checkpoint
    from xtts_export_callback.export.export import default_output, export_checkpoint, packed_as
    from xtts_export_callback.export.precision import parse_precision
    from xtts_export_callback.inference_folder.layouts import layout_of
    from xtts_export_callback.xtts.state_dict import inference_model

    with open_checkpoint(path) as source:
        output = _output(args.output, packed_as(default_output(source.path), args.layout), several=several)
        needed = sum(tensor.nbytes for tensor in inference_model(source).tensors.values())
        before = source.nbytes
    started = time.perf_counter()
    with progress_bar(output.name, needed, quiet=args.quiet) as progress:
        result = export_checkpoint(
            path,
            output,
            dtype=args.dtype,
            precision=parse_precision(args.precision),
            sparsity=args.sparsity,
            format=args.format,
            vocab=args.vocab,
            config=args.config,
            layout=args.layout,
            voice=args.voice,
            force=args.force,
            progress=progress,
        )
    if result.written:
        seconds = time.perf_counter() - started
        tell(args, f"{output}: {human_size(result.nbytes)} of {human_size(before)}, verified, {seconds:.1f} s")
        place = [layout_of(args.layout).place(output)] if args.layout else []
        for line in (*result.notes, *(files_of(result) if args.verbose else ()), *place):
            tell(args, f"  {line}")
    else:
        tell(args, f"{output}: exported already, skipped (not read again)")
    return result


def _checkpoints(sources: list[Path]) -> list[Path]:
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.run.checkpoints import find_checkpoints, is_run

    found: list[Path] = []
    for source in sources:
        if source.is_dir() and is_run(source):
            saved = find_checkpoints(source)
            if not saved:
                msg = f"{source}: no checkpoint_N.pth or best_model_N.pth in this run; name a checkpoint"
                raise ConfigError(msg)
            found += [item.path for item in saved]
        else:
            found.append(source)
    return found


def _output(output: str | None, default: Path, *, several: bool) -> Path:
    if output is None:
        return default
    return as_path(output) / default.name if several else as_path(output)
