"""Choose what of a run can go: the plan of ``xtts-export prune``, which ``inspect`` shows too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import read_json_object
from xtts_export_callback.run.checkpoints import SHORTCUT, Saved
from xtts_export_callback.units import human_size
from xtts_export_callback.xtts.model_config import CONFIG_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xtts_export_callback.inspection.run import SavedReport

KEEP_LAST = 1
"""How many of the newest checkpoints stay as they are, unless the user says otherwise."""

_EXACT = "float32"


class Removal(NamedTuple):
    """Something that can go, and what is lost with it.

    Attributes:
        path: The file or folder.
        nbytes: Bytes that it frees.
        what: ``"checkpoint"``, a full checkpoint with an exact export; ``"optimizer"``, the optimizer state in a full
            checkpoint; ``"export"``, an export that can be made again; ``"copy"``, ``best_model.pth``, which becomes a
            link to the best model.
        reason: Why it can go.
    """

    path: Path
    nbytes: int
    what: str
    reason: str

    @property
    def line(self) -> str:
        """What goes and why, in a line."""
        name = {"optimizer": "optimizer state in {}", "export": "export {}", "copy": "{}, a copy"}.get(self.what, "{}")
        return f"{human_size(self.nbytes):>9}  {name.format(self.path.name)}: {self.reason}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"path": str(self.path), "bytes": self.nbytes, "what": self.what, "reason": self.reason}


def removals_of(run: Path, folder: Path, reports: Sequence[SavedReport], *, keep_last: int) -> list[Removal]:
    """Choose what of a run can go.

    The last checkpoints, the best model and whatever a resume needs stay, and so does everything that cannot be read.

    Args:
        run: The run folder.
        folder: Its folder of exports.
        reports: What lies in it.
        keep_last: How many of the newest ``checkpoint_N.pth`` stay as they are.

    Returns:
        The plan, by step.
    """
    whole = sorted((saved for saved in reports if saved.nbytes and not saved.fault), key=lambda saved: saved.step)
    newest = {saved.name for saved in [each for each in whole if each.kind == "checkpoint"][-max(keep_last, 1) :]}
    newest |= {saved.name for saved in whole[-1:]}
    older = [saved for saved in whole if saved.name not in newest and not saved.needed and not saved.is_link]
    found = []
    for saved in older:
        path = run / f"{saved.name}.pth"
        is_exported = saved.export == _EXACT
        if is_exported:
            found.append(Removal(path, saved.nbytes, "checkpoint", f"{folder.name}/{saved.name} has the same weights"))
        elif saved.optimizer_bytes:
            reason = "the weights stay; a resume from it would start with fresh moments"
            found.append(Removal(path, saved.optimizer_bytes, "optimizer", reason))
        if saved.export and not is_exported:
            reason = f"can be made again from {path.name}"
            found.append(Removal(folder / saved.name, saved.export_bytes, "export", reason))
    return found


def copy_of_best(run: Path, full: Sequence[Saved], *, broken: set[str]) -> list[Removal]:
    """Return ``best_model.pth`` if ``save_best_model`` has copied it from ``best_model_N.pth``.

    With ``save_all_best`` it stays a copy: the Trainer then writes the next best model into it, and so into the file
    that it would be linked to (`trainer.io.save_best_model`).
    """
    shortcut = run / SHORTCUT
    best = [saved for saved in full if saved.kind == "best_model"]
    if not best or best[-1].name in broken or not shortcut.is_file() or shortcut.is_symlink() or _keeps_all_best(run):
        return []
    status, original = shortcut.stat(), best[-1].path.stat()
    linked = (status.st_dev, status.st_ino) == (original.st_dev, original.st_ino) and status.st_ino != 0
    if status.st_size != original.st_size or linked:
        return []
    return [Removal(shortcut, status.st_size, "copy", f"becomes a link to {best[-1].path.name}, its original")]


def _keeps_all_best(run: Path) -> bool:
    try:
        return bool(read_json_object(run / CONFIG_FILE).get("save_all_best"))
    except ConfigError:
        return False
