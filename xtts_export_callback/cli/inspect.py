"""Tell what a checkpoint or a run holds: where the gigabytes are, what each part is for, and what inference needs.

Reads only the directory and the structure of a file, no tensor: a full checkpoint takes a fraction of a second.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.cli.json_output import print_json
from xtts_export_callback.cli.options import add_report_options
from xtts_export_callback.cli.progress import say
from xtts_export_callback.cli.reporting import exit_code, for_each
from xtts_export_callback.files.paths import as_path

if TYPE_CHECKING:
    import argparse

    from xtts_export_callback.inspection.checkpoint import CheckpointReport
    from xtts_export_callback.inspection.run import RunReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="checkpoints, inference folders, run folders; several print one by one"
    )
    parser.add_argument("--tensors", action="store_true", help="list every tensor, equal layers folded")
    add_report_options(parser)


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
    found: list[CheckpointReport | RunReport] = []
    several = len(args.paths) > 1

    def look(path: str) -> None:
        found.append(_report(as_path(path), args))
        if not (args.json or args.quiet):
            _show(found[-1], args, is_first=len(found) == 1)

    failures = for_each(args.paths, look, several=several)
    if args.json:
        values = [_to_dict(each, args) for each in found]
        together = {"reports": values, "errors": [failure.to_dict() for failure in failures]}
        print_json(together if several else values[0])
    return exit_code(failures)


def _report(path: Path, args: argparse.Namespace) -> CheckpointReport | RunReport:
    run_report = _run_report(path) if path.is_dir() else None
    if run_report is None:
        from xtts_export_callback.inspection.checkpoint import inspect_checkpoint

        return inspect_checkpoint(path)
    if args.tensors:
        from xtts_export_callback.errors import ConfigError

        msg = f"{path}: --tensors lists one checkpoint, found a run folder; name a checkpoint in it"
        raise ConfigError(msg)
    return run_report


def _show(found: CheckpointReport | RunReport, args: argparse.Namespace, *, is_first: bool) -> None:
    from xtts_export_callback.inspection.checkpoint import CheckpointReport
    from xtts_export_callback.inspection.table import show_checkpoint, show_run

    if not is_first:
        say("")
    if isinstance(found, CheckpointReport):
        show_checkpoint(found, with_tensors=args.tensors or args.verbose)
    else:
        show_run(found)


def _run_report(path: Path) -> RunReport | None:
    from xtts_export_callback.checkpoint.reader import weights_in
    from xtts_export_callback.run.checkpoints import is_run, refuse_folder_of_exports

    if not is_run(path):
        if weights_in(path) is None:
            refuse_folder_of_exports(path)
        return None
    from xtts_export_callback.inspection.run import inspect_run

    return inspect_run(path)


def _to_dict(found: CheckpointReport | RunReport, args: argparse.Namespace) -> dict[str, Any]:
    from xtts_export_callback.inspection.checkpoint import CheckpointReport

    if not (isinstance(found, CheckpointReport) and args.tensors):
        return found.to_dict()
    tensors = {
        name: {"dtype": tensor.dtype.name, "shape": list(tensor.shape), "bytes": tensor.nbytes}
        for name, tensor in found.tensors.items()
    }
    return {**found.to_dict(), "tensors": tensors}
