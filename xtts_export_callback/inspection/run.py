"""Report what a run folder holds: each checkpoint with its export, its disk space and what can be freed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.reader import Checkpoint, open_checkpoint
from xtts_export_callback.errors import XttsExportError
from xtts_export_callback.files.disk import DiskSpace
from xtts_export_callback.files.paths import as_path
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.inspection.checkpoint import report_on
from xtts_export_callback.inspection.removals import KEEP_LAST, Removal, copy_of_best, removals_of
from xtts_export_callback.run.checkpoints import (
    DEFAULT_FOLDER,
    Saved,
    exports_folder,
    find_checkpoints,
    find_exports,
)
from xtts_export_callback.run.resume import by_age, our_choice

if TYPE_CHECKING:
    import os

_OPTIMIZER = ("exp_avg", "exp_avg_sq", "training_state")
_NEEDED_FOR = ("best model", "optimizer", "next resume")


@dataclass(frozen=True)
class SavedReport:
    """One checkpoint of a run.

    Attributes:
        name: Such as ``checkpoint_1000``.
        step: The number in its name.
        kind: ``"checkpoint"`` or ``"best_model"``.
        nbytes: Size of the full checkpoint; 0 where only the export is left.
        eval_loss: The loss in the file, None where it is missing.
        fault: Why it cannot be read; empty when it can.
        export: The dtype of its export, such as ``"float32"``; ``""`` for none; ``"stale"`` for one of other content.
        export_bytes: Size of the export's folder.
        slim_bytes: Size of an export in float32; 0 when unknown.
        optimizer_bytes: What its optimizer state takes.
        has_optimizer: Whether a resume from it finds the optimizer's moments.
        is_link: Whether the checkpoint lies elsewhere, so that removing the link frees nothing.
        needed: Why the full checkpoint should stay; empty when nothing needs it.
    """

    name: str
    step: int
    kind: str
    nbytes: int = 0
    eval_loss: float | None = None
    fault: str = ""
    export: str = ""
    export_bytes: int = 0
    slim_bytes: int = 0
    optimizer_bytes: int = 0
    has_optimizer: bool = False
    is_link: bool = False
    needed: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "step": self.step,
            "bytes": self.nbytes,
            "eval_loss": self.eval_loss,
            "fault": self.fault or None,
            "export": self.export or None,
            "export_bytes": self.export_bytes,
            "has_optimizer": self.has_optimizer,
            "needed": self.needed or None,
        }


@dataclass(frozen=True)
class RunReport:
    """A run folder.

    Attributes:
        path: The folder.
        checkpoints: By step.
        others: Further models in the folder of exports, such as averages, with the bytes of their folders.
        nbytes: Disk space of the whole folder; a file under two names counts once, as does a block that files share.
        removals: What ``xtts-export prune`` would remove.
        freeable_after_export: Further bytes that can be freed by exporting the other checkpoints first.
        folder: Name of the folder of exports.
    """

    path: Path
    checkpoints: tuple[SavedReport, ...]
    others: dict[str, int]
    nbytes: int
    removals: tuple[Removal, ...]
    freeable_after_export: int
    folder: str = DEFAULT_FOLDER

    @property
    def freeable(self) -> int:
        """Bytes that the removals free."""
        return sum(removal.nbytes for removal in self.removals)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "path": str(self.path),
            "bytes": self.nbytes,
            "freeable_bytes": self.freeable,
            "freeable_after_export_bytes": self.freeable_after_export,
            "removable": [removal.to_dict() for removal in self.removals],
            "checkpoints": [saved.to_dict() for saved in self.checkpoints],
            "others": self.others,
        }


def inspect_run(path: str | os.PathLike[str], *, keep_last: int = KEEP_LAST) -> RunReport:
    """Report on a run folder, from directories and structures alone.

    Args:
        path: A run folder of the Trainer.
        keep_last: How many of the newest checkpoints are not to be removed; see `RunReport.removals`.

    Returns:
        The report. A checkpoint that cannot be read is in it, with the reason.

    Raises:
        OSError: When the folder itself cannot be read.
    """
    path = as_path(path)
    space = DiskSpace()
    full = find_checkpoints(path)
    folder = exports_folder(path)
    exports = {saved.name: saved for saved in find_exports(path / folder)}
    reports = _with_needs([_describe(saved, exports.get(saved.name), space) for saved in full])
    orphans = [saved for name, saved in exports.items() if name not in {saved.name for saved in full}]
    reports += [_describe_export(saved, space) for saved in orphans]
    broken = {saved.name for saved in reports if saved.fault}
    removals = removals_of(path, path / folder, reports, keep_last=keep_last) + copy_of_best(path, full, broken=broken)
    removals = [each for each in (_as_freed(removal, path, space) for removal in removals) if each.nbytes]
    stripped = {removal.path.stem: removal.nbytes for removal in removals if removal.what == "optimizer"}
    return RunReport(
        path=path,
        checkpoints=tuple(sorted(reports, key=lambda saved: (saved.step, saved.name))),
        others=_others(path / folder, exports, space),
        nbytes=space.of(path),
        removals=tuple(removals),
        freeable_after_export=sum(
            saved.nbytes - saved.slim_bytes - stripped[saved.name] for saved in reports if saved.name in stripped
        ),
        folder=folder,
    )


def _as_freed(removal: Removal, run: Path, space: DiskSpace) -> Removal:
    """Count only the bytes that nothing else in the run uses; optimizer state is never shared."""
    if removal.what == "optimizer":
        return removal
    return removal._replace(nbytes=space.freed_by(run, removal.path))


def _with_needs(reports: list[SavedReport]) -> list[SavedReport]:
    """Mark the full checkpoints to keep, of those that are not broken.

    They are the best model, which the Trainer compares against; the one that the callback resumes from (`our_choice`);
    and the newest one with optimizer state.
    """
    newest = by_age(reports)
    whole = [saved for saved in newest if not saved.fault]
    best = next((saved for saved in whole if saved.kind == "best_model"), None)
    resumable = next((saved for saved in whole if saved.has_optimizer), None)
    resume = our_choice(newest, is_whole=lambda saved: not saved.fault, has_optimizer=lambda saved: saved.has_optimizer)
    pairs = zip((best, resumable, resume), _NEEDED_FOR, strict=True)
    reasons = {saved.name: reason for saved, reason in pairs if saved is not None}
    return [replace(saved, needed=reasons.get(saved.name, "")) for saved in reports]


def _describe(saved: Saved, export: Saved | None, space: DiskSpace) -> SavedReport:
    provenance = read_provenance(export.path) if export is not None else None
    found = SavedReport(
        saved.name,
        saved.step,
        saved.kind,
        nbytes=saved.path.stat().st_size if saved.path.exists() else 0,  # a link may be dangling
        export=_dtype_name(provenance) if provenance is not None else "",
        export_bytes=space.of(export.path) if export is not None else 0,
        is_link=saved.path.is_symlink(),
    )
    try:
        with open_checkpoint(saved.path) as checkpoint:
            report = report_on(checkpoint)
            is_stale = provenance is not None and not _is_source(provenance, checkpoint)
    except XttsExportError as error:
        return replace(found, fault=str(error))
    return replace(
        found,
        eval_loss=_number(report.state["eval_loss"]),
        export="stale" if is_stale else found.export,
        slim_bytes=report.slim.get("float32", 0),
        optimizer_bytes=sum(share.nbytes for share in report.shares if share.key in _OPTIMIZER),
        has_optimizer=report.resumable and not report.fresh_moments,
    )


def _describe_export(saved: Saved, space: DiskSpace) -> SavedReport:
    provenance = read_provenance(saved.path) or {}
    sources = provenance.get("sources")
    source = sources[0] if isinstance(sources, list) and len(sources) == 1 else None
    losses = source.get("model_loss") if isinstance(source, dict) else None
    loss = _number(losses.get("eval_loss")) if isinstance(losses, dict) else None
    return SavedReport(
        saved.name,
        saved.step,
        saved.kind,
        eval_loss=loss,
        export=_dtype_name(provenance),
        export_bytes=space.of(saved.path),
    )


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) else None


def _dtype_name(provenance: dict[str, Any]) -> str:
    return str(provenance.get("dtype") or "yes")


def _is_source(provenance: dict[str, Any], checkpoint: Checkpoint) -> bool:
    sources = provenance["sources"]
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        return False
    if not checkpoint.has_checksums:  # a fingerprint needs a full read, so the name has to do
        return True
    return checkpoint.has_fingerprint(sources[0].get("fingerprint"))


def _others(folder: Path, exports: dict[str, Saved], space: DiskSpace) -> dict[str, int]:
    if not folder.is_dir():
        return {}
    found = [entry for entry in sorted(folder.iterdir()) if entry.name not in exports and entry.name[0] != "."]
    return {entry.name: space.of(entry) for entry in found if read_provenance(entry) is not None}
