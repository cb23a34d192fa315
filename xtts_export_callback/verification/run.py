"""Verify that a run can be resumed: its checkpoints, its exports, and the files that the Trainer would pick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.reader import MODEL_NAMES, open_checkpoint
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.paths import as_path
from xtts_export_callback.files.remote import RemotePath
from xtts_export_callback.inspection.checkpoint import holds_weights_only, resume_obstacles
from xtts_export_callback.run.checkpoints import Saved, exports_folder, find_checkpoints
from xtts_export_callback.run.resume import Resume, by_age, our_choice, trainers_choice
from xtts_export_callback.verification.faults import Fault
from xtts_export_callback.verification.model import VerificationReport, verify_checkpoint

if TYPE_CHECKING:
    import os
    from collections.abc import Callable


@dataclass(frozen=True)
class RunVerification:
    """What verification found in a run.

    Attributes:
        path: The run folder.
        models: A report for each checkpoint at its root and each export below it.
        resume: What the next resume picks.
        faults: Faults of the run as a whole, which are those of the resume.
        notes: What is worth knowing about the run as a whole.
    """

    path: Path
    models: tuple[VerificationReport, ...]
    resume: Resume
    faults: tuple[Fault, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_fine(self) -> bool:
        """Whether nothing is wrong with the run or with anything in it."""
        return not self.faults and all(model.is_fine for model in self.models)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "path": str(self.path),
            "fine": self.is_fine,
            "faults": [fault._asdict() for fault in self.faults],
            "notes": list(self.notes),
            "resume": {
                "checkpoint": str(self.resume.checkpoint) if self.resume.checkpoint else None,
                "best": str(self.resume.best) if self.resume.best else None,
            },
            "models": [model.to_dict() for model in self.models],
        }


def verify_run(
    run: str | os.PathLike[str], *, load: bool = False, progress: Callable[[int], None] | None = None
) -> RunVerification:
    """Verify all models of a run, and the files that the next resume would pick.

    Args:
        run: The run folder.
        load: As for `verify_checkpoint`.
        progress: As for `verify_checkpoint`.

    Raises:
        CheckpointError: When permissions forbid reading one of its files.
    """
    run = as_path(run)
    if isinstance(run, RemotePath):
        msg = f"{run}: a run is verified on the disk that it is trained on; name one of its checkpoints"
        raise ConfigError(msg)
    reports = {path: verify_checkpoint(path, load=load, progress=progress) for path in models_of(run)}
    if reports and not any(run.glob("*.pth")):
        note = "holds exports only: there is no checkpoint to resume from"
        return RunVerification(run, tuple(reports.values()), Resume(None, None), (), (note,))
    resume = trainers_choice(run)
    messages = [resume.obstacle] if resume.obstacle else []
    messages += _pick_faults(resume, reports)
    faults = tuple(Fault("resume", message) for message in messages)
    notes = _weights_only_notes(run, resume, reports) if not faults else ()
    return RunVerification(run, tuple(reports.values()), resume, faults, notes)


def _pick_faults(resume: Resume, reports: dict[Path, VerificationReport]) -> list[str]:
    """Return what is wrong with the files that the next resume picks."""
    faults = []
    roles = ((resume.checkpoint, "uses"), (resume.best, "reads the best loss from"))
    for path, role in roles[: 1 if resume.best == resume.checkpoint else 2]:
        if path is None:
            continue
        report = reports.get(path)
        reason = "which is not a file" if report is None else "" if report.is_fine else "which is broken"
        if not reason and path == resume.checkpoint:
            reason = _obstacles(path)
        if reason:
            remedy = "move it out of the run folder" if len(reports) > 1 else "it is the only one"
            faults.append(f"the next resume {role} {path.name}, {reason}; {remedy}")
    return faults


def _weights_only_notes(run: Path, resume: Resume, reports: dict[Path, VerificationReport]) -> tuple[str, ...]:
    """Say what happens to the optimizer state if the picked file holds weights only."""
    picked = resume.checkpoint
    if picked is None or not _is_weights_only(picked):
        return ()
    ours = our_choice(
        by_age(find_checkpoints(run)),
        is_whole=lambda saved: _is_resumable(saved, reports),
        has_optimizer=lambda saved: not _is_weights_only(saved.path),
    )
    if picked.name.startswith("best_model") and ours is not None and ours.kind == "checkpoint":
        return (f"{picked.name} holds weights only: the callback resumes from {ours.path.name}, with optimizer state",)
    return (f"{picked.name} holds weights only: training resumes with fresh optimizer moments",)


def _is_resumable(saved: Saved, reports: dict[Path, VerificationReport]) -> bool:
    report = reports.get(saved.path)
    return report is not None and bool(report.tensors) and not _obstacles(saved.path)


def models_of(run: Path) -> list[Path]:
    """Return every ``.pth`` at a run's root, where the Trainer looks, and every folder of ours below it."""
    files = sorted(path for path in run.glob("*.pth") if not path.is_dir())  # dangling links too
    folder = run / exports_folder(run)
    exports = sorted(folder.iterdir()) if folder.is_dir() else []
    return files + [path for path in exports if any((path / name).is_file() for name in MODEL_NAMES)]


def _obstacles(path: Path) -> str:
    with open_checkpoint(path) as checkpoint:
        return " and ".join(resume_obstacles(checkpoint))


def _is_weights_only(path: Path) -> bool:
    with open_checkpoint(path) as checkpoint:
        return holds_weights_only(checkpoint)
