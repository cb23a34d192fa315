"""Tell what a checkpoint or a run holds: where the gigabytes are, what each part is for, and what inference needs.

Reads only the directory and the structure of a file, no tensor: a full checkpoint takes a fraction of a second.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.cli.json_output import print_json

if TYPE_CHECKING:
    import argparse

    from xtts_export_callback.inspection.checkpoint import CheckpointReport
    from xtts_export_callback.inspection.run import RunReport

HELP = "tell where the gigabytes are, and what a file is"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("path", metavar="PATH", help="a checkpoint, an inference folder, or a run folder")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    parser.add_argument("--tensors", action="store_true", help="list every tensor, equal layers folded")


def run(args: argparse.Namespace) -> int:
    """Inspect, then print."""
    was_enabled = gc.isenabled()
    gc.disable()  # a process of a few hundred milliseconds leaves too little garbage to collect
    try:
        return _run(args)
    finally:
        if was_enabled:
            gc.enable()


def _run(args: argparse.Namespace) -> int:
    path = Path(args.path)
    report = _run_report(path) if path.is_dir() else None
    if report is None:
        from xtts_export_callback.inspection.checkpoint import inspect_checkpoint

        checkpoint = inspect_checkpoint(path)
        if args.json:
            print_json(_with_tensors(checkpoint) if args.tensors else checkpoint.to_dict())
        else:
            from xtts_export_callback.inspection.table import show_checkpoint

            show_checkpoint(checkpoint, with_tensors=args.tensors)
        return 0
    if args.tensors:
        from xtts_export_callback.errors import ConfigError

        msg = f"{path}: --tensors lists one checkpoint, found a run folder; name a checkpoint in it"
        raise ConfigError(msg)
    if args.json:
        print_json(report.to_dict())
    else:
        from xtts_export_callback.inspection.table import show_run

        show_run(report)
    return 0


def _run_report(path: Path) -> RunReport | None:
    from xtts_export_callback.checkpoint.reader import MODEL_NAMES
    from xtts_export_callback.run.checkpoints import is_run, refuse_folder_of_exports

    if not is_run(path):
        if not any((path / name).is_file() for name in MODEL_NAMES):
            refuse_folder_of_exports(path)
        return None
    from xtts_export_callback.inspection.run import inspect_run

    return inspect_run(path)


def _with_tensors(report: CheckpointReport) -> dict[str, Any]:
    tensors = {
        name: {"dtype": tensor.dtype.name, "shape": list(tensor.shape), "bytes": tensor.nbytes}
        for name, tensor in report.tensors.items()
    }
    return {**report.to_dict(), "tensors": tensors}
