"""Find the Trainer's checkpoints in a run folder, and our exports beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from xtts_export_callback.checkpoint.reader import MODEL_NAMES, weights_in
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import read_json_object
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.xtts.model_config import CONFIG_FILE

DEFAULT_FOLDER = "inference"
SHORTCUT = "best_model.pth"
"""File name of the Trainer's second copy of its best model."""
RUNNING_MEAN = "running_mean"
_CHECKPOINT = re.compile(r"(checkpoint|best_model)_([0-9]+)")
_MEAN = re.compile(rf"({RUNNING_MEAN})_([0-9]+)")


class Saved(NamedTuple):
    """A checkpoint file of the Trainer or an export of one.

    Attributes:
        step: The number in its name.
        kind: ``"checkpoint"`` or ``"best_model"``.
        path: The file or folder.
    """

    step: int
    kind: str
    path: Path

    @property
    def name(self) -> str:
        """Name of its export."""
        return f"{self.kind}_{self.step}"


def is_run(path: Path) -> bool:
    """Whether a folder is a run of the Trainer: it has checkpoints, or it has their exports and is not a model."""
    if find_checkpoints(path):
        return True
    if not path.is_dir():
        return False
    folder = path / exports_folder(path)
    if not folder.is_dir() or any((path / name).is_file() for name in MODEL_NAMES):
        return False
    return weights_in(path) is None or bool(find_exports(folder))


def exports_folder(run: Path) -> str:
    """Return the name of a run's folder of exports: ``export.folder`` in its ``config.json``, or else ``"inference"``.

    Only a plain name is used: a config of others must not lead out of the run.
    """
    try:
        options: Any = read_json_object(run / CONFIG_FILE).get("export")
    except ConfigError:
        return DEFAULT_FOLDER
    folder = options.get("folder") if isinstance(options, dict) else None
    is_plain = isinstance(folder, str) and re.fullmatch(r"[^/\\\0]+", folder) and folder.strip(". ")
    return str(folder) if is_plain else DEFAULT_FOLDER


def refuse_folder_of_exports(path: Path) -> None:
    """Refuse a folder of exports, which is neither a run nor a model, and say what to name instead.

    Raises:
        ConfigError: When ``path`` is one.
    """
    exports = find_exports(path)
    if exports:
        run = f"the run {path.parent}, or " if is_run(path.parent) else ""
        msg = f"{path}: is a folder of exports, not a run or a model; name {run}one of them, such as {exports[-1].path}"
        raise ConfigError(msg)


def find_checkpoints(run: Path) -> list[Saved]:
    """Return the Trainer's numbered checkpoints at a run's root, by step, without ``best_model.pth``, a copy."""
    return _find(run, suffix=".pth")


def find_exports(folder: Path) -> list[Saved]:
    """Return our exports in a folder of exports, by step; other folders are left out."""
    return [saved for saved in _find(folder, suffix="") if read_provenance(saved.path) is not None]


def find_running_means(folder: Path) -> list[Saved]:
    """Return our exports of running means in a folder of exports, by step."""
    return [saved for saved in _find(folder, suffix="", names=_MEAN) if read_provenance(saved.path) is not None]


def holds_anything(folder: Path) -> bool:
    """Whether a folder of exports holds a model or any other visible entry."""
    return folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())


def _find(folder: Path, *, suffix: str, names: re.Pattern[str] = _CHECKPOINT) -> list[Saved]:
    found = []
    if not folder.is_dir():
        return []
    for entry in folder.iterdir():
        match = names.fullmatch(entry.name.removesuffix(suffix)) if entry.name.endswith(suffix) else None
        if match is not None and entry.is_dir() == (suffix == ""):
            found.append(Saved(int(match[2]), match[1], entry))
    return sorted(found)


def last_checkpoints(run: Path, count: int, *, folder: str | None = None, prefer_full: bool = False) -> list[Saved]:
    """Return the last checkpoints of a run by step, each from its most precise source.

    Args:
        run: The run folder.
        count: How many.
        folder: Name of the folder of exports in it; by default the one that the run's config names.
        prefer_full: Take the Trainer's own file where it exists: it also holds the DVAE.

    Returns:
        Oldest first. Otherwise, an export in float32 replaces its checkpoint (the same bits in a third of the size);
        one in half precision does so only where the full checkpoint is gone.

    Raises:
        ConfigError: When there are fewer; the message lists their steps.
    """
    best: dict[int, Saved] = {}
    exports = [saved for saved in find_exports(run / (folder or exports_folder(run))) if saved.kind == "checkpoint"]
    full = [saved for saved in find_checkpoints(run) if saved.kind == "checkpoint"]
    precise = [saved for saved in exports if (read_provenance(saved.path) or {}).get("dtype") == "float32"]
    for saved in (*exports, *precise, *full) if prefer_full else (*exports, *full, *precise):
        best[saved.step] = saved
    if count < 1:
        msg = f"{run}: --last should be at least 1, found {count}; choose a larger number"
        raise ConfigError(msg)
    if len(best) < count:
        there = ", ".join(str(step) for step in sorted(best)) or "none"
        msg = (
            f"{run}: expected at least {count} checkpoints, found {len(best)} (steps: {there}); choose a smaller --last"
        )
        raise ConfigError(msg)
    return [best[step] for step in sorted(best)[-count:]]
