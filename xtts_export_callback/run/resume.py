"""Which file of a run the next resume takes: by the Trainer's rule, and by ours with the callback on.

Neither torch nor the Trainer is imported.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from xtts_export_callback.checkpoint.reader import open_checkpoint
from xtts_export_callback.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_KEYS = ("checkpoint", "best_model")
_NUMBERED = re.compile(f"({'|'.join(_KEYS)})_[0-9]+")
_PATTERN = re.compile(r"[*?\[]")


class Candidate(Protocol):
    """What the rules need to know of a checkpoint."""

    @property
    def step(self) -> int:
        """The number in its name."""

    @property
    def kind(self) -> str:
        """``"checkpoint"`` or ``"best_model"``."""


_Candidate = TypeVar("_Candidate", bound=Candidate)


@dataclass(frozen=True)
class Resume:
    """What ``--continue_path RUN`` would take.

    Attributes:
        checkpoint: The file that training goes on from; None where the Trainer finds none or stops at one.
        best: The file that the best loss so far is read from.
        obstacle: Why the search itself fails or goes astray; empty when it does not.
    """

    checkpoint: Path | None
    best: Path | None
    obstacle: str = ""


def by_age(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """Newest first; of two at one step the checkpoint, as ``trainer.io.get_last_checkpoint`` prefers it."""
    return sorted(candidates, key=lambda saved: (-saved.step, saved.kind != "checkpoint"))


def our_choice(
    candidates: Sequence[_Candidate],
    *,
    is_whole: Callable[[_Candidate], bool],
    has_optimizer: Callable[[_Candidate], bool],
) -> _Candidate | None:
    """What the callback resumes from.

    Training some steps again is cheap beside losing the optimizer's moments unnoticed: in place of a best model
    without them the newest checkpoint that has them is taken, if there is one.

    Args:
        candidates: In the order of preference, such as `by_age`.
        is_whole: Whether nothing is wrong with one.
        has_optimizer: Whether one holds optimizer state; asked of whole ones only.
    """
    picked = next((saved for saved in candidates if is_whole(saved)), None)
    if picked is None or picked.kind == "checkpoint" or has_optimizer(picked):
        return picked
    checkpoints = (saved for saved in candidates if saved.kind == "checkpoint" and is_whole(saved))
    return next((saved for saved in checkpoints if has_optimizer(saved)), picked)


def trainers_choice(run: Path) -> Resume:
    """What ``trainer.io.get_last_checkpoint`` returns, with all its habits.

    It takes the run's path for a pattern. It searches the *whole path* for ``checkpoint_N``, so that a number in the
    name of a folder above counts too, and where no file has a number it takes the one changed last of those that have
    the word anywhere in their path.
    """
    obstacle = pattern_in(run)
    if obstacle:
        return Resume(None, None, obstacle)
    base = _absolute(run)
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
    resume = Resume(run / Path(checkpoint).name, run / Path(best).name)
    return Resume(resume.checkpoint, resume.best, _wrong_number(run, resume))


def pattern_in(run: Path) -> str:
    """What keeps the Trainer from finding the files of a run that has a pattern in its path; empty where none does.

    It would find files of other runs in its place, and its retention would delete them.
    """
    base = _absolute(run).as_posix()
    found = _PATTERN.search(base)
    habit = "the Trainer takes the path for a pattern and looks for checkpoints elsewhere"
    return f"the folder name {base} contains {found[0]!r}: {habit}; rename it" if found else ""


def number_in(run: Path) -> str:
    """The ``checkpoint_N`` or ``best_model_N`` in a run's path; the Trainer takes N for the number of every file."""
    found = _NUMBERED.search(_absolute(run).as_posix())
    return found[0] if found else ""


def folder_fault(run: Path) -> str:
    """Why the Trainer finds other files than those of the run, or the wrong one of them; empty when it does not."""
    return pattern_in(run) or _wrong_number(run, trainers_choice(run))


def _absolute(run: Path) -> Path:
    return Path(os.path.abspath(run))  # noqa: PTH100 - as fsspec does: without resolving links


def _numbered(key: str, files: Iterable[tuple[str, str]]) -> tuple[int, str] | None:
    """The first of the files with the largest number behind a key, each given with the text to search."""
    numbers = [(int(match[1]), name) for text, name in files if (match := re.search(f"{key}_([0-9]+)", text))]
    return max(numbers, key=lambda item: item[0], default=None)  # `max` takes the first of equals


def _wrong_number(run: Path, resume: Resume) -> str:
    """Where a number in the name of a folder has the Trainer pick other files than their own numbers would."""
    found = number_in(run)
    if not found or resume.checkpoint is None or resume.best is None:
        return ""
    names = sorted(path.name for path in run.glob("*.pth"))
    own = {key: _numbered(key, ((name, name) for name in names)) for key in _KEYS}
    # Of two at one step the checkpoint, as `trainers_choice` has it.
    newest = max((item for item in own.values() if item is not None), key=lambda item: item[0], default=None)
    best = own["best_model"]
    if newest is not None and newest[1] != resume.checkpoint.name:
        picked, other = resume.checkpoint.name, newest[1]
    elif best is not None and best[1] != resume.best.name:
        picked, other = resume.best.name, best[1]
    else:
        return ""
    habit = f"contains {found}, which the Trainer takes for the number"
    base = _absolute(run).as_posix()
    return f"the folder name {base} {habit}: the next resume picks {picked}, not {other}; rename it"


def _step(path: Path) -> tuple[int, str]:
    try:
        with open_checkpoint(path) as checkpoint:
            step = checkpoint.document.get("step")
    except CheckpointError:
        return 0, "which is broken; move it out of the run folder"
    return (step, "") if isinstance(step, int) else (0, "which does not say its step; move it out of the run folder")
