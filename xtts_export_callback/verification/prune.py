"""Carry out the plan of ``xtts-export prune``; whatever is removed, something verified stays in its place."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import CheckpointError, XttsExportError
from xtts_export_callback.export.export import is_export_of
from xtts_export_callback.files.atomic import temporary_name
from xtts_export_callback.inference_folder.ownership import not_ours
from xtts_export_callback.run.checkpoints import exports_folder, find_checkpoints
from xtts_export_callback.run.optimizer_state import rewrite_as_weights
from xtts_export_callback.run.retention import remove_export
from xtts_export_callback.verification.model import verify_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xtts_export_callback.inspection.removals import Removal
    from xtts_export_callback.inspection.run import RunReport


class Pruned(NamedTuple):
    """What was done.

    Attributes:
        removed: What has gone.
        kept: What stays after all, and why.
        freed: Bytes.
    """

    removed: tuple[Removal, ...]
    kept: tuple[tuple[Removal, str], ...]
    freed: int


def prune(report: RunReport, *, told: Callable[[Removal, str], None] = lambda *_: None) -> Pruned:
    """Remove what a report on a run says can go.

    Args:
        report: From `inspect_run`. Each file is looked at again before it goes.
        told: Called for each with why it stays, empty where it has gone.

    Returns:
        What has gone and what has not. One that cannot go does not stop the others.
    """
    removed, kept = [], []
    for removal in report.removals:
        try:
            why = _remove(report, removal)
        except (XttsExportError, OSError) as error:
            why = " ".join(str(error).split())
        told(removal, why)
        if why:
            kept.append((removal, why))
        else:
            removed.append(removal)
    return Pruned(tuple(removed), tuple(kept), sum(removal.nbytes for removal in removed))


def _remove(report: RunReport, removal: Removal) -> str:
    """Remove one thing; returns why it stays, empty when it is gone."""
    if removal.what == "checkpoint":
        return _remove_checkpoint(report.path, removal.path)
    if removal.what == "optimizer":
        return "" if rewrite_as_weights(removal.path, newest=_resumable(report)) else "nothing to drop"
    if removal.what == "export":
        foreign = not_ours(removal.path)
        if foreign:
            return f"contains files that we did not write, or that changed since ({', '.join(foreign[:3])})"
        return "" if remove_export(removal.path) else "contains files that we did not write"
    return _link_to_best(report.path, removal.path)


def _remove_checkpoint(run: Path, path: Path) -> str:
    """Remove a full checkpoint whose export holds the same weights, once that is verified."""
    export = run / exports_folder(run) / path.stem
    with open_checkpoint(path) as checkpoint:
        if not checkpoint.has_checksums or not is_export_of(export, checkpoint, {"dtype": "float32"}):
            return f"{export.name} is not an export of the same weights"
    faults = verify_checkpoint(export).faults
    if faults:
        return f"its export has faults: {faults[0].message}"
    path.unlink()
    return ""


def _resumable(report: RunReport) -> Path:
    """Return the newest checkpoint with optimizer state, which must be whole before an older one loses its own."""
    found = [saved for saved in report.checkpoints if saved.has_optimizer and not saved.fault]
    if not found:
        msg = f"{report.path}: holds no checkpoint with optimizer state"
        raise CheckpointError(msg)
    return report.path / f"{max(found, key=lambda saved: saved.step).name}.pth"


def _link_to_best(run: Path, shortcut: Path) -> str:
    """Replace ``best_model.pth`` by a link to the best model, if both hold the same."""
    best = [saved.path for saved in find_checkpoints(run) if saved.kind == "best_model"][-1]
    with open_checkpoint(best) as original, open_checkpoint(shortcut) as copy:
        if original.fingerprint() != copy.fingerprint():
            return f"is not a copy of {best.name}"
    link = temporary_name(shortcut)
    try:
        os.link(best, link)
        link.replace(shortcut)
    finally:
        with contextlib.suppress(OSError):
            link.unlink(missing_ok=True)
    return ""
