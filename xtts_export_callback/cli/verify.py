"""Tell whether checkpoints, inference folders and runs are whole and usable.

Reads every byte once. Checks the zip directory, the size and checksum of every record, NaN and infinity, the tensors
against the architecture in the config, the vocabulary against the text embedding, the hashes in export.json against
the files, and whether torch.load(weights_only=True) would accept the file, judged by its structure (--load asks torch
itself, which takes seconds to import). For a run, also checks which files the next resume would pick.

Exit code 0: all fine; 1: faults, one per line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.cli.json_output import print_json
from xtts_export_callback.cli.options import LAYOUTS
from xtts_export_callback.cli.progress import progress_bar, say
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    import argparse

    from xtts_export_callback.verification.model import VerificationReport
    from xtts_export_callback.verification.run import RunVerification

HELP = "tell whether a file, an inference folder or a run is whole and usable"
_FINE, _FAULTS = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="checkpoints, inference folders, run folders")
    parser.add_argument("--load", action="store_true", help="also load each .pth with torch.load(weights_only=True)")
    parser.add_argument(
        "--layout", choices=LAYOUTS, metavar="NAME", help="also check that this program takes each PATH, folder or ZIP"
    )
    parser.add_argument("--json", action="store_true", help="print only JSON")


def run(args: argparse.Namespace) -> int:
    """Check every path, then print the faults."""
    from xtts_export_callback.extras import require
    from xtts_export_callback.inference_folder.layouts import layout_of
    from xtts_export_callback.run.checkpoints import is_run
    from xtts_export_callback.verification.layout import verify_layout
    from xtts_export_callback.verification.model import verify_model
    from xtts_export_callback.verification.run import verify_run

    if args.load:
        require("train", "verify --load", "torch")
    paths = [Path(path) for path in args.paths]
    nbytes = sum(_bytes_to_read(path, any_content=bool(args.layout)) for path in paths)
    reports: list[VerificationReport | RunVerification] = []
    with progress_bar("verify", nbytes) as progress:
        for path in paths:
            if args.layout:
                reports.append(verify_layout(path, layout_of(args.layout), load=args.load, progress=progress))
                continue
            verify = verify_run if is_run(path) else verify_model
            reports.append(verify(path, load=args.load, progress=progress))
    if args.json:
        print_json({"fine": all(report.is_fine for report in reports), "reports": [r.to_dict() for r in reports]})
    else:
        for report in reports:
            _show(report)
    return _FINE if all(report.is_fine for report in reports) else _FAULTS


def _bytes_to_read(path: Path, *, any_content: bool = False) -> int:
    """Bytes of the files below a path, which may be any folder.

    Raises:
        ConfigError: When the path holds nothing to verify.
    """
    from xtts_export_callback.checkpoint.reader import MODEL_NAMES
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.inference_folder.ownership import folder_bytes
    from xtts_export_callback.run.checkpoints import is_run, refuse_folder_of_exports
    from xtts_export_callback.verification.run import models_of

    if path.is_file():
        return path.stat().st_size
    if not path.is_dir():
        what = "not a regular file; name a checkpoint" if path.exists() else "no such file or folder; check the path"
        msg = f"{path}: {what}"
        raise ConfigError(msg)
    if any_content:
        return folder_bytes(path)
    models = models_of(path) if is_run(path) else [path]
    files = [file for model in models for file in ([model] if model.is_file() else map(model.joinpath, MODEL_NAMES))]
    sizes = [file.stat().st_size for file in files if file.is_file()]
    if not sizes:
        refuse_folder_of_exports(path)
        msg = f"{path}: expected a run, or {' or '.join(MODEL_NAMES)} in it, found neither; name a checkpoint"
        raise ConfigError(msg)
    return sum(sizes)


def _show(report: VerificationReport | RunVerification) -> None:
    from xtts_export_callback.verification.run import RunVerification

    if isinstance(report, RunVerification):
        for model in report.models:
            _show(model)
        picked = report.resume.checkpoint
        if picked is not None and report.resume.best is not None:
            say(f"{report.path}: the next resume uses {picked.name}, best model {report.resume.best.name}")
    elif report.is_fine:
        tensors = f"{report.tensors} tensors, " if report.tensors else ""
        say(f"{report.path}: fine ({tensors}{human_size(report.nbytes)})")
    for fault in report.faults:
        say(f"{report.path}: {fault.check}: {fault.message}")
    for note in getattr(report, "notes", ()):
        say(f"{report.path}: note: {note}")
