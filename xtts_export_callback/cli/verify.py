"""Tell whether checkpoints, inference folders and runs are whole and usable.

Reads every byte once. Checks the zip directory, the size and checksum of every record, NaN and infinity, the tensors
against the architecture in the config, the vocabulary against the text embedding, the hashes in export.json against
the files, and whether torch.load(weights_only=True) would accept the file, judged by its structure (--load asks torch
itself, which takes seconds to import). For a run, also checks which files the next resume would pick.

Exit code 0: all fine; 1: faults, one per line; 2: a path cannot be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.cli.options import LAYOUTS, add_report_options
from xtts_export_callback.cli.progress import progress_bar, say
from xtts_export_callback.cli.reporting import exit_code, for_each, report
from xtts_export_callback.files.paths import as_path
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    import argparse

    from xtts_export_callback.verification.model import VerificationReport
    from xtts_export_callback.verification.run import RunVerification

_FINE, _FAULTS = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="checkpoints, inference folders, run folders")
    parser.add_argument("--load", action="store_true", help="also load each .pth with torch.load(weights_only=True)")
    parser.add_argument(
        "--layout", choices=LAYOUTS, metavar="NAME", help="also check that this program takes each PATH, folder or ZIP"
    )
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Check every path, then print the faults."""
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.extras import require
    from xtts_export_callback.files.remote import RemotePath
    from xtts_export_callback.inference_folder.layouts import layout_of
    from xtts_export_callback.run.checkpoints import is_run
    from xtts_export_callback.verification.layout import verify_layout
    from xtts_export_callback.verification.model import verify_checkpoint
    from xtts_export_callback.verification.run import verify_run

    if args.load:
        require("train", "verify --load", "torch")
    paths: dict[Path, int] = {}

    def measure(path: str) -> None:
        if args.layout and isinstance(as_path(path), RemotePath):
            msg = f"{as_path(path)}: --layout checks a folder or a ZIP of this disk; download it first"
            raise ConfigError(msg)
        paths[as_path(path)] = _bytes_to_read(as_path(path), any_content=bool(args.layout))

    failures = for_each(args.paths, measure, several=len(args.paths) > 1)
    found: list[VerificationReport | RunVerification] = []
    with progress_bar("verify", sum(paths.values()), quiet=args.quiet) as progress:

        def check(path: Path) -> None:
            if args.layout:
                found.append(verify_layout(path, layout_of(args.layout), load=args.load, progress=progress))
                return
            verify = verify_run if is_run(path) else verify_checkpoint
            found.append(verify(path, load=args.load, progress=progress))

        failures += for_each(paths, check, several=len(args.paths) > 1)
    is_fine = all(each.is_fine for each in found)
    report(
        args,
        lambda: {
            "fine": is_fine and not failures,
            "reports": [each.to_dict() for each in found],
            "errors": [failure.to_dict() for failure in failures],
        },
        lambda: _show_all(found, args),
    )
    return exit_code(failures, otherwise=_FINE if is_fine else _FAULTS)


def _show_all(found: list[VerificationReport | RunVerification], args: argparse.Namespace) -> None:
    if args.verbose:
        from xtts_export_callback.verification.faults import CHECKS

        for name, what in CHECKS.items():
            say(f"check {name}: {what}")
    for each in found:
        _show(each)


def _bytes_to_read(path: Path, *, any_content: bool = False) -> int:
    """Bytes of the files below a path, which may be any folder.

    Raises:
        XttsExportError: When the path holds nothing to verify.
    """
    from xtts_export_callback.checkpoint.reader import open_checkpoint, weights_in
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
    files = [model if model.is_file() else weights_in(model) for model in models]
    sizes = [file.stat().st_size for file in files if file is not None and file.is_file()]
    if not sizes:
        refuse_folder_of_exports(path)
        with open_checkpoint(path):  # says what is there instead
            pass
    return sum(sizes)


def _show(found: VerificationReport | RunVerification) -> None:
    from xtts_export_callback.verification.run import RunVerification

    if isinstance(found, RunVerification):
        for model in found.models:
            _show(model)
        picked = found.resume.checkpoint
        if picked is not None and found.resume.best is not None:
            say(f"{found.path}: the next resume uses {picked.name}, best model {found.resume.best.name}")
    elif found.is_fine:
        tensors = f"{found.tensors} tensors, " if found.tensors else ""
        say(f"{found.path}: fine ({tensors}{human_size(found.nbytes)})")
    for fault in found.faults:
        say(f"{found.path}: {fault.check}: {fault.message}")
    for note in getattr(found, "notes", ()):
        say(f"{found.path}: note: {note}")
