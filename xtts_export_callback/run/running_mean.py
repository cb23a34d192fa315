"""Find the sums of weights that a training with ``running_mean`` leaves beside its checkpoints.

``RUN/running_mean/step_N.pth`` belongs to the save of step N. Of a mean it holds the sum of the weights, in float64,
over the updates since the last ``checkpoint_*``, so that windows add up to longer ones exactly; of an exponential
moving average, the average itself. The folder's name and the files' keep them out of the Trainer's patterns.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import CheckpointError, ConfigError
from xtts_export_callback.run.checkpoints import exports_folder, find_checkpoints, find_exports

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FOLDER = "running_mean"
KEY = "running_mean"
MEAN, EMA = "mean", "ema"
_NAME = re.compile(r"step_([0-9]+)\.pth")


class Window(NamedTuple):
    """The sum, or the exponential moving average, at one save.

    Attributes:
        last: The step of the save.
        first: The step of the checkpoint before it; 0 at the start of a training, or where it began anew.
        updates: How many it holds.
        way: ``"mean"`` or ``"ema"``.
        ends: Whether the window ends here; at the save of a best model it goes on.
        path: Its file.
    """

    last: int
    first: int
    updates: int
    way: str
    ends: bool
    path: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain values for provenance, without the path."""
        return {key: value for key, value in self._asdict().items() if key not in {"path", "ends"}}


def path_of(run: Path, step: int) -> Path:
    """Return the file of a step."""
    return run / FOLDER / f"step_{step}.pth"


def steps_of(run: Path) -> list[int]:
    """Return the steps that have a file, in order."""
    folder = run / FOLDER
    names = [_NAME.fullmatch(entry.name) for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name[1]) for name in names if name is not None)


def read_window(path: Path) -> Window:
    """Read what a file says of itself, without its tensors.

    Raises:
        CheckpointError: When the file is damaged or not one of ours.
    """
    with open_checkpoint(path) as checkpoint:
        return window_of(path, checkpoint.document)


def window_of(path: Path, document: dict[str, Any]) -> Window:
    """Return the window that a file's document describes; see `read_window`."""
    found = document.get(KEY)
    kinds = {"last": int, "first": int, "updates": int, "way": str, "ends": bool}
    if not isinstance(found, dict) or any(type(found.get(key)) is not kind for key, kind in kinds.items()):
        msg = f"{path}: {KEY}: expected the steps of a window, found {found!r:.60}; use a file of a run/{FOLDER}"
        raise CheckpointError(msg)
    window = Window(path=path, **{key: found[key] for key in kinds})
    if window.updates < 1 or not 0 <= window.first <= window.last:
        msg = f"{path}: {KEY}: {window.updates} updates from step {window.first} to {window.last}; the file is damaged"
        raise CheckpointError(msg)
    return window


def windows_between(run: Path, first: int | None, last: int | None) -> list[Window]:
    """Return the windows that lie between two saves, oldest first.

    Args:
        run: The run folder.
        first: The step of the save after which they start; None for as early as they go back without a gap.
        last: The step of the save that they end with; None for the newest.

    Raises:
        ConfigError: When there are none, or the windows do not join up from ``first`` to ``last``.
    """
    windows = {step: read_window(path_of(run, step)) for step in steps_of(run)}
    there = ", ".join(f"{one.first}:{one.last}" for one in windows.values()) or "none"
    if last is None:
        last = max(windows, default=None)
    if last not in windows:
        msg = f"{run}: expected a running mean of step {'N' if last is None else last}, found {there}; "
        msg += "name steps that a window starts or ends with, or train with export.running_mean"
        raise ConfigError(msg)
    found = [windows[last]]
    while found[-1].way == MEAN and found[-1].first != first and found[-1].first in windows:
        found.append(windows[found[-1].first])
    if first is not None and found[-1].first != first:
        msg = f"{run}: expected windows from step {first} to {last}, found {there}; name steps that windows start with"
        raise ConfigError(msg)
    return found[::-1]


def checkpoint_at(run: Path, step: int) -> Path:
    """Return the export or the checkpoint of a step: it gives what training leaves as it is.

    Raises:
        ConfigError: When both are gone.
    """
    exports = find_exports(run / exports_folder(run))
    found = [saved.path for saved in (*find_checkpoints(run), *exports) if saved.step == step]
    if not found:
        msg = f"{run}: expected checkpoint_{step}.pth or its export, found neither; choose other --steps"
        raise ConfigError(msg)
    return found[0]


def parse_steps(text: str) -> tuple[int | None, int | None]:
    """Parse ``A:B``, where either may be left out.

    Raises:
        ConfigError: For anything else.

    Example:
        >>> parse_steps("100:300")
        (100, 300)
    """
    found = re.fullmatch(r"([0-9]*):([0-9]*)", text)
    first, last = (int(part) if part else None for part in found.groups()) if found else (None, None)
    if found is None or (first is not None and last is not None and first >= last):
        msg = f"--steps {text}: expected two steps, the earlier first, as 1000:5000 or 1000: or :5000"
        raise ConfigError(msg)
    return first, last


def remove_windows_before(run: Path, step: int, *, kept: Sequence[int]) -> None:
    """Remove the files of steps up to ``step`` that are older than every step in ``kept``."""
    oldest = min(kept, default=step)
    for one in steps_of(run):
        if one <= step and one < oldest:
            path_of(run, one).unlink(missing_ok=True)
