"""Continuing a run: from its newest whole checkpoint, and without losing the optimizer state unnoticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import CheckpointError, ConfigError
from xtts_export_callback.printable import training_logger
from xtts_export_callback.runs import SHORTCUT, Saved, find_checkpoints
from xtts_export_callback.schedule import RESUME_KEY, restore_position

logger = training_logger()


def choose_checkpoint(run: Path, chosen: Path, *, may_rename: bool) -> Path:
    """Which checkpoint to continue from.

    Args:
        run: The run folder.
        chosen: What the Trainer has chosen by the number in its name.
        may_rename: Set damaged files aside, under a name that no pattern of the Trainer matches; one process of
            several does.

    Returns:
        ``chosen`` when it is whole. In place of a damaged file the newest whole one; in place of a best model without
        optimizer state the newest checkpoint with it, if there is one: training some steps again is cheap beside
        losing the moments unnoticed.

    Raises:
        ConfigError: When no whole checkpoint is left.
    """
    candidates = _by_age(run)
    shortcut = run / SHORTCUT  # a copy of the best model, which may be all that is whole
    paths = [*(saved.path for saved in candidates), *([shortcut] if shortcut.is_file() else [])]
    damaged: set[Path] = set()
    current: Path | None = chosen
    while current is not None and (fault := _fault(current)):
        damaged.add(current.resolve())
        if may_rename:
            aside = _set_aside(current)
            logger.error(" ! EXPORT : %s is damaged (%s); it was renamed to %s", current.name, fault, aside.name)
        current = next((path for path in paths if path.resolve() not in damaged), None)
    if current is None:
        msg = f"{run}: no whole checkpoint is left to continue from; damaged files are kept as damaged_*.broken"
        raise ConfigError(msg)
    if current.name.startswith("best_model") and not has_optimizer(current):
        current = _with_optimizer(candidates, damaged, current)
    if current != chosen:
        logger.info(" > EXPORT : the run is continued from %s", current.name)
    return current


def has_optimizer(path: Path) -> bool:
    """Whether a checkpoint holds the state of an optimizer."""
    with open_checkpoint(path) as checkpoint:
        return bool(checkpoint.document.get("optimizer"))


def restore_from_weights(trainer: Any) -> None:
    """Bring learning rate and schedule to where a checkpoint without optimizer state was saved, and say so."""
    with open_checkpoint(trainer.args.restore_path) as checkpoint:
        if checkpoint.document.get("optimizer"):
            return
        position = checkpoint.document.get(RESUME_KEY)
    rates = restore_position(position if isinstance(position, dict) else {}, trainer.optimizer, trainer.scheduler)
    shown = ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates)) or "as configured"
    logger.warning(
        " ! EXPORT : %s holds weights only: training goes on at step %i with learning rate %s and its place in the "
        "schedule, but with fresh optimizer moments",
        Path(trainer.args.restore_path).name,
        trainer.total_steps_done,
        shown,
    )


def loss_of(path: Path) -> Any:
    """``model_loss`` of a checkpoint, or None."""
    with open_checkpoint(path) as checkpoint:
        return checkpoint.document.get("model_loss")


def _by_age(run: Path) -> list[Saved]:
    """Newest first; of two at one step the checkpoint, as `trainer.io.get_last_checkpoint` prefers it."""
    return sorted(find_checkpoints(run), key=lambda saved: (-saved.step, saved.kind != "checkpoint"))


def _fault(path: Path) -> str:
    try:
        with open_checkpoint(path) as checkpoint:
            return "" if "step" in checkpoint.document else "it does not say its step"
    except CheckpointError as error:
        return str(error).removeprefix(f"{path}: ")


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"damaged_{path.name}.broken")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"damaged_{path.name}.{number}.broken")
    return path.rename(aside)


def _with_optimizer(candidates: list[Saved], damaged: set[Path], best: Path) -> Path:
    for saved in candidates:
        path = saved.path
        if saved.kind == "checkpoint" and path.resolve() not in damaged and not _fault(path) and has_optimizer(path):
            logger.warning(
                " ! EXPORT : %s is newer but holds weights only; going back to %s keeps the optimizer state (remove "
                "the checkpoints to continue from the best model)",
                best.name,
                path.name,
            )
            return path
    return best
