"""Free disk space of a run: print what can go and why, ask, and remove it.

  - checkpoints whose export holds the same weights bit for bit, once the export is verified
  - the optimizer state of older checkpoints; their weights stay
  - older exports in half precision, which can be made again from their checkpoint
  - best_model.pth where it is a second copy; it becomes a link to its original

The last checkpoints, the best model, what the next resume uses, files that cannot be read and files of others stay.
Do not prune a run that is being trained: the options keep_last and keep_optimizer_for do it there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.cli.options import add_report_options
from xtts_export_callback.cli.progress import say
from xtts_export_callback.cli.reporting import report, tell
from xtts_export_callback.units import human_size

if TYPE_CHECKING:
    import argparse

    from xtts_export_callback.inspection.removals import Removal
    from xtts_export_callback.inspection.run import RunReport

_DONE, _SOME_STAY = 0, 2
_KEEP_LAST = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("run_folder", metavar="RUN", help="a run folder")
    parser.add_argument(
        "--keep-last",
        type=int,
        default=_KEEP_LAST,
        metavar="N",
        help=f"leave the newest N checkpoints as they are (default: {_KEEP_LAST})",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--yes", action="store_true", help="remove without asking; needed where nobody can answer")
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the plan, ask, remove."""
    from xtts_export_callback.errors import ConfigError

    found = _inspect(Path(args.run_folder), args.keep_last)
    asks = not (args.yes or args.dry_run or args.json or args.quiet) and sys.stdin.isatty() and sys.stdout.isatty()
    if not args.json:
        _show_plan(found, args)
    if args.dry_run or not found.removals:
        report(args, lambda: {"removals": [each.to_dict() for each in found.removals]}, lambda: None)
        return _DONE
    if not (args.yes or asks):
        msg = f"{found.path}: nothing is removed unasked; add --yes to remove, or --dry-run for the plan"
        raise ConfigError(msg)
    if asks and input(f"Free {human_size(found.freeable)}? [y/N] ").strip().lower() not in ("y", "yes"):
        say("nothing removed")
        return _DONE
    return _prune(found, args)


def _prune(found: RunReport, args: argparse.Namespace) -> int:
    from xtts_export_callback.verification.prune import prune

    def told(removal: Removal, why: str) -> None:
        tell(args, f"  {removal.path.name} stays: {why}" if why else f"  {removal.path.name}: done")

    done = prune(found, told=told)
    data = {
        "removals": [each.to_dict() for each in found.removals],
        "removed": [str(each.path) for each in done.removed],
        "kept": [{"path": str(each.path), "reason": why} for each, why in done.kept],
        "freed_bytes": done.freed,
    }
    report(args, lambda: data, lambda: say(f"{found.path}: {human_size(done.freed)} freed"))
    return _SOME_STAY if done.kept else _DONE


def _inspect(path: Path, keep_last: int) -> RunReport:
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.inspection.run import inspect_run
    from xtts_export_callback.run.checkpoints import is_run

    if keep_last < 1:
        msg = f"--keep-last {keep_last}: expected 1 or more; the newest checkpoint always stays"
        raise ConfigError(msg)
    if not is_run(path):
        what = "a folder without checkpoint_N.pth" if path.is_dir() else "a file" if path.exists() else "nothing"
        msg = f"{path}: expected a run folder, found {what}; name a run"
        raise ConfigError(msg)
    return inspect_run(path, keep_last=keep_last)


def _show_plan(found: RunReport, args: argparse.Namespace) -> None:
    if not found.removals:
        tell(args, f"{found.path}: nothing can be freed")
        return
    tell(args, f"{found.path}: {human_size(found.freeable)} of {human_size(found.nbytes)} can be freed:")
    for removal in found.removals:
        tell(args, f"  {removal.line}")
    kept = [f"{saved.name} ({saved.needed})" for saved in found.checkpoints if saved.needed]
    tell(args, f"  stays: {', '.join(kept) or 'everything else'}")
