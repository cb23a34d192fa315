"""Whether a run can go on: its checkpoints, its exports, and what the Trainer would pick to resume from."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.read import MODEL_NAMES, open_checkpoint
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.inspection.report import holds_weights_only, resume_obstacles
from xtts_export_callback.runs import exports_folder, find_checkpoints
from xtts_export_callback.verification.faults import Fault
from xtts_export_callback.verification.report import VerificationReport, verify_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_KEYS = ("checkpoint", "best_model")


@dataclass(frozen=True)
class Resume:
    """What ``--continue_path RUN`` would take.

    Attributes:
        checkpoint: The file that training goes on from; None where the Trainer finds none or stops at one.
        best: The file that the best loss so far is read from.
        obstacle: Why the search itself fails; empty when it does not.
    """

    checkpoint: Path | None
    best: Path | None
    obstacle: str = ""


@dataclass(frozen=True)
class RunVerification:
    """What was found in a run.

    Attributes:
        path: The run folder.
        models: A report for each checkpoint at its root and each export below it.
        resume: What the next resume picks.
        faults: Faults of the run as a whole, those of the resume.
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


def verify_run(run: Path, *, load: bool = False, progress: Callable[[int], None] | None = None) -> RunVerification:
    """Verify all models of a run, and what the next resume would pick among them.

    Args:
        run: The run folder.
        load: As for `verify_model`.
        progress: As for `verify_model`.

    Raises:
        CheckpointError: When permissions forbid to read one of its files.
    """
    reports = {path: verify_model(path, load=load, progress=progress) for path in models_of(run)}
    if reports and not any(run.glob("*.pth")):
        note = "holds exports only: there is no checkpoint to resume from"
        return RunVerification(run, tuple(reports.values()), Resume(None, None), (), (note,))
    resume = next_resume(run)
    messages = [message for message in (resume.obstacle, _folder_fault(run, resume)) if message]
    messages += _pick_faults(resume, reports)
    faults = tuple(Fault("resume", message) for message in messages)
    notes = _weights_only_notes(run, resume, reports) if not faults else ()
    return RunVerification(run, tuple(reports.values()), resume, faults, notes)


def _pick_faults(resume: Resume, reports: dict[Path, VerificationReport]) -> list[str]:
    """What is wrong with the files that the next resume picks."""
    faults = []
    roles = ((resume.checkpoint, "goes on from"), (resume.best, "reads the best loss from"))
    for path, role in roles[: 1 if resume.best == resume.checkpoint else 2]:
        if path is None:
            continue
        report = reports.get(path)
        reason = "which is no file" if report is None else "" if report.is_fine else "which is broken"
        if not reason and path == resume.checkpoint:
            reason = _obstacles(path)
        if reason:
            remedy = "move it out of the run folder" if len(reports) > 1 else "it is the only one"
            faults.append(f"the next resume {role} {path.name}, {reason}; {remedy}")
    return faults


def _weights_only_notes(run: Path, resume: Resume, reports: dict[Path, VerificationReport]) -> tuple[str, ...]:
    """What becomes of the optimizer where the pick holds weights only; `resume.choose_checkpoint` decides it."""
    picked = resume.checkpoint
    if picked is None or not _is_weights_only(picked):
        return ()
    candidates = [saved.path for saved in reversed(find_checkpoints(run)) if saved.kind == "checkpoint"]
    full = (path for path in candidates if path in reports and reports[path].tensors and not _obstacles(path))
    back = next((path for path in full if not _is_weights_only(path)), None)
    if picked.name.startswith("best_model") and back is not None:
        return (f"{picked.name} holds weights only: the callback goes back to {back.name}, with optimizer state",)
    return (f"{picked.name} holds weights only: training resumes with fresh optimizer moments",)


def models_of(run: Path) -> list[Path]:
    """Every ``.pth`` at a run's root, where the Trainer looks, and every folder of ours below it."""
    files = sorted(path for path in run.glob("*.pth") if not path.is_dir())  # links that lead nowhere too
    folder = run / exports_folder(run)
    exports = sorted(folder.iterdir()) if folder.is_dir() else []
    return files + [path for path in exports if any((path / name).is_file() for name in MODEL_NAMES)]


def next_resume(run: Path) -> Resume:
    """What ``trainer.io.get_last_checkpoint`` returns, with all its habits.

    It searches the *whole path* for ``checkpoint_N``, so that a number in the name of a folder above counts too, and
    where no file has a number it takes the one changed last of those that have the word anywhere in their path.
    """
    base = Path(os.path.abspath(run))  # noqa: PTH100 - as fsspec does: without resolving links
    files = sorted(path.as_posix() for path in base.glob("*.pth"))
    picked: dict[str, tuple[int, str]] = {}
    for key in _KEYS:
        numbered = _numbered(key, ((name, name) for name in files))
        if numbered is not None:
            picked[key] = numbered
            continue
        candidates = [name for name in files if key in name]
        dangling = [name for name in candidates if not Path(name).exists()]
        if dangling:
            reason = f"looking for {key}, the Trainer fails on {Path(dangling[0]).name}, a link that leads nowhere"
            return Resume(None, None, f"{reason}; remove it")
        if candidates:
            newest = max(candidates, key=os.path.getctime)
            step, obstacle = _step(Path(newest))
            if obstacle:
                return Resume(None, None, f"looking for {key}, the Trainer takes {Path(newest).name}, {obstacle}")
            picked[key] = (step, newest)
    if not picked:
        return Resume(None, None, "the Trainer finds no checkpoint to resume from")
    number, checkpoint = picked.get("checkpoint", (-1, ""))
    best_number, best = picked.get("best_model", (number, checkpoint))
    if best_number > number:
        checkpoint = best
    return Resume(run / Path(checkpoint).name, run / Path(best).name)


def _numbered(key: str, files: Iterable[tuple[str, str]]) -> tuple[int, str] | None:
    """The first of the files with the largest number behind a key, each given with the text to search."""
    numbers = [(int(match[1]), name) for text, name in files if (match := re.search(f"{key}_([0-9]+)", text))]
    return max(numbers, key=lambda item: item[0], default=None)  # `max` takes the first of equals


def _folder_fault(run: Path, resume: Resume) -> str:
    """Where a number in the name of a folder has the Trainer pick other files than their own numbers would."""
    base = Path(os.path.abspath(run)).as_posix()  # noqa: PTH100 - as `next_resume`
    found = re.search(f"({'|'.join(_KEYS)})_[0-9]+", base)
    if found is None or resume.checkpoint is None or resume.best is None:
        return ""
    names = sorted(path.name for path in run.glob("*.pth"))
    own = {key: _numbered(key, ((name, name) for name in names)) for key in _KEYS}
    # Of two at one step the checkpoint, as `next_resume` has it.
    newest = max((item for item in own.values() if item is not None), key=lambda item: item[0], default=None)
    best = own["best_model"]
    if newest is not None and newest[1] != resume.checkpoint.name:
        picked, other = resume.checkpoint.name, newest[1]
    elif best is not None and best[1] != resume.best.name:
        picked, other = resume.best.name, best[1]
    else:
        return ""
    habit = f"contains {found[0]}, which the Trainer takes for the number"
    return f"the folder name {base} {habit}: the next resume picks {picked}, not {other}; rename it"


def _step(path: Path) -> tuple[int, str]:
    try:
        with open_checkpoint(path) as checkpoint:
            step = checkpoint.document.get("step")
    except CheckpointError:
        return 0, "which is broken; move it out of the run folder"
    return (step, "") if isinstance(step, int) else (0, "which does not say its step; move it out of the run folder")


def _obstacles(path: Path) -> str:
    with open_checkpoint(path) as checkpoint:
        return " and ".join(resume_obstacles(checkpoint))


def _is_weights_only(path: Path) -> bool:
    with open_checkpoint(path) as checkpoint:
        return holds_weights_only(checkpoint)
