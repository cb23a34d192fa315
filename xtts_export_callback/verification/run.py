"""Whether a run can go on: its checkpoints, its exports, and what the Trainer would pick to resume from."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.read import MODEL_NAMES, open_checkpoint
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.inspection.report import resume_obstacles
from xtts_export_callback.runs import DEFAULT_FOLDER
from xtts_export_callback.verification.faults import Fault
from xtts_export_callback.verification.report import VerificationReport, verify_model

if TYPE_CHECKING:
    from collections.abc import Callable

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
    """

    path: Path
    models: tuple[VerificationReport, ...]
    resume: Resume
    faults: tuple[Fault, ...]

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
    """
    reports = {path: verify_model(path, load=load, progress=progress) for path in models_of(run)}
    resume = next_resume(run)
    faults = [Fault("resume", resume.obstacle)] if resume.obstacle else []
    roles = ((resume.checkpoint, "goes on from"), (resume.best, "reads the best loss from"))
    for path, role in dict.fromkeys(roles):
        if path is None or (role != roles[0][1] and path == resume.checkpoint):
            continue
        report = reports.get(path)
        broken = "" if report is None or report.is_fine else "which is broken"
        obstacles = _obstacles(path) if not broken and path == resume.checkpoint else ""
        if broken or obstacles:
            remedy = "move it out of the run folder" if len(reports) > 1 else "it is the only one"
            faults.append(Fault("resume", f"the next resume {role} {path.name}, {broken or obstacles}; {remedy}"))
    return RunVerification(run, tuple(reports.values()), resume, tuple(faults))


def models_of(run: Path) -> list[Path]:
    """Every ``.pth`` at a run's root, where the Trainer looks, and every folder of ours below it."""
    files = sorted(path for path in run.glob("*.pth") if path.is_file())
    folder = run / DEFAULT_FOLDER
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
        numbered = [(int(match[1]), name) for name in files if (match := re.search(f"{key}_([0-9]+)", name))]
        if numbered:
            largest = max(number for number, _ in numbered)
            picked[key] = next(item for item in numbered if item[0] == largest)
            continue
        candidates = [name for name in files if key in name]
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
