"""Predict which file of a run the next resume uses, by the Trainer's rule and by the rule of our callback.

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
    """What the rules need to know about a checkpoint."""

    @property
    def step(self) -> int:
        """The number in its name."""

    @property
    def kind(self) -> str:
        """``"checkpoint"`` or ``"best_model"``."""


_Candidate = TypeVar("_Candidate", bound=Candidate)


@dataclass(frozen=True)
class Resume:
    """The files that ``--continue_path RUN`` would use.

    Attributes:
        checkpoint: The file that training resumes from; None where the Trainer finds none or fails on one.
        best: The file that holds the best loss so far.
        obstacle: Why the search fails or finds wrong files; empty when it does not.
    """

    checkpoint: Path | None
    best: Path | None
    obstacle: str = ""


def by_age(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """Sort newest first; at the same step the checkpoint, as ``trainer.io.get_last_checkpoint`` prefers it."""
    return sorted(candidates, key=lambda saved: (-saved.step, saved.kind != "checkpoint"))


def our_choice(
    candidates: Sequence[_Candidate],
    *,
    is_whole: Callable[[_Candidate], bool],
    has_optimizer: Callable[[_Candidate], bool],
) -> _Candidate | None:
    """Return the candidate that the callback resumes from.

    It replaces a best model without optimizer moments by the newest checkpoint that has them, if there is one:
    training some steps again is cheaper than silently losing the moments.

    Args:
        candidates: In the order of preference, such as `by_age`.
        is_whole: Whether a candidate has no fault.
        has_optimizer: Whether a candidate holds optimizer state; called for those without a fault.
    """
    picked = next((saved for saved in candidates if is_whole(saved)), None)
    if picked is None or picked.kind == "checkpoint" or has_optimizer(picked):
        return picked
    checkpoints = (saved for saved in candidates if saved.kind == "checkpoint" and is_whole(saved))
    return next((saved for saved in checkpoints if has_optimizer(saved)), picked)


def trainers_choice(run: Path) -> Resume:
    """Return what ``trainer.io.get_last_checkpoint`` returns, with all its habits.

    It treats the run's path as a pattern. It searches the *whole path* for ``checkpoint_N``, so that a number in the
    name of a parent folder counts too. Where no file has a number, it uses the last changed file that has the word
    anywhere in its path.
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
            step, obstacle = _step(Path(newest), is_only=len(files) == 1)
            if obstacle:
                return Resume(None, None, f"looking for {key}, the Trainer picks {Path(newest).name}, {obstacle}")
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
    """Say why the Trainer does not find the files of a run whose path contains a pattern; empty for other paths.

    It would find files of other runs instead, and its retention would delete them.
    """
    base = _absolute(run).as_posix()
    found = _PATTERN.search(base)
    habit = "the Trainer treats the path as a pattern and looks for checkpoints elsewhere"
    return f"the folder name {base} contains {found[0]!r}: {habit}; rename it" if found else ""


def number_in(run: Path) -> str:
    """Return the ``checkpoint_N`` or ``best_model_N`` in a run's path; the Trainer gives every file the number N."""
    found = _NUMBERED.search(_absolute(run).as_posix())
    return found[0] if found else ""


def folder_fault(run: Path) -> str:
    """Say why the Trainer finds files of other runs, or the wrong file of this one; empty when it does not."""
    return pattern_in(run) or _wrong_number(run, trainers_choice(run))


def _absolute(run: Path) -> Path:
    return Path(os.path.abspath(run))  # noqa: PTH100 - as fsspec does: without resolving links


def _numbered(key: str, files: Iterable[tuple[str, str]]) -> tuple[int, str] | None:
    """Return the first file with the largest number after a key; each file comes with the text to search."""
    numbers = [(int(match[1]), name) for text, name in files if (match := re.search(f"{key}_([0-9]+)", text))]
    return max(numbers, key=lambda item: item[0], default=None)  # `max` takes the first of equals


def _wrong_number(run: Path, resume: Resume) -> str:
    """Say where a number in a folder's name makes the Trainer pick other files than the files' own numbers would."""
    found = number_in(run)
    if not found or resume.checkpoint is None or resume.best is None:
        return ""
    names = sorted(path.name for path in run.glob("*.pth"))
    own = {key: _numbered(key, ((name, name) for name in names)) for key in _KEYS}
    # At the same step the checkpoint, as in `trainers_choice`.
    newest = max((item for item in own.values() if item is not None), key=lambda item: item[0], default=None)
    best = own["best_model"]
    if newest is not None and newest[1] != resume.checkpoint.name:
        picked, other = resume.checkpoint.name, newest[1]
    elif best is not None and best[1] != resume.best.name:
        picked, other = resume.best.name, best[1]
    else:
        return ""
    habit = f"contains {found}, which the Trainer reads as the number"
    base = _absolute(run).as_posix()
    return f"the folder name {base} {habit}: the next resume picks {picked}, not {other}; rename it"


def _step(path: Path, *, is_only: bool) -> tuple[int, str]:
    remedy = "it is the only one" if is_only else "move it out of the run folder"
    try:
        with open_checkpoint(path) as checkpoint:
            step = checkpoint.document.get("step")
    except CheckpointError:
        return 0, f"which is broken; {remedy}"
    return (step, "") if isinstance(step, int) else (0, f"which has no step; {remedy}")
