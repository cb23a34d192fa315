"""Continuing a run: from its newest whole checkpoint, and without losing the optimizer state unnoticed."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from typing import Any

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.checkpoint.archive import data_offset, read_directory
from xtts_export_callback.checkpoint.tensor import Tensor
from xtts_export_callback.errors import ConfigError, DamagedError
from xtts_export_callback.next_resume import by_age, our_choice
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
        ``chosen`` unless it is proved to be damaged: what cannot be read here or now is left to the Trainer. In place
        of a damaged file the newest other one; in place of a best model without optimizer state the newest checkpoint
        with it, if there is one.

    Raises:
        ConfigError: When every checkpoint is damaged.
    """
    others = [saved for saved in by_age(find_checkpoints(run)) if saved.path != chosen]
    shortcut = run / SHORTCUT  # a copy of the best model, which may be all that is whole
    if os.path.lexists(shortcut) and shortcut != chosen:
        others.append(Saved(0, "best_model", shortcut))
    kind = "best_model" if chosen.name.startswith("best_model") else "checkpoint"
    candidates = [Saved(0, kind, chosen), *others]
    files = {saved.path: saved.path.resolve() for saved in candidates}  # one file may have two names
    damaged: dict[Path, bool] = {}

    def is_usable(saved: Saved) -> bool:
        file = files[saved.path]
        if file not in damaged:
            damaged[file] = _is_damaged(saved.path)
            if damaged[file] and may_rename:
                _set_aside(saved.path)
        return not damaged[file]

    found = our_choice(candidates, is_whole=is_usable, has_optimizer=_has_optimizer)
    if found is None:
        msg = f"{run}: no whole checkpoint is left to continue from; damaged files are kept as damaged_*.broken"
        raise ConfigError(msg)
    if found.path != chosen:
        _say_why(chosen, found.path, is_damaged=damaged[files[chosen]])
    return found.path


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
        trainer.total_steps_done or getattr(trainer, "restore_step", 0),  # trainer 0.0.36 takes it over only in `fit`
        shown,
    )


def loss_of(path: Path) -> Any:
    """``model_loss`` of a checkpoint, its tensors as numbers, or None."""
    with open_checkpoint(path) as checkpoint:
        loss = checkpoint.document.get("model_loss")
        return {name: _number(value) for name, value in loss.items()} if isinstance(loss, dict) else _number(loss)


def as_losses(loss: Any, *, is_evaluated: bool) -> dict[str, Any]:
    """A best loss of any Trainer as `trainer.io.save_best_model` compares it with the loss of an epoch.

    Older Trainers saved a plain number, and a save on Ctrl-C before the first loss has none; either would end the
    training at the comparison.

    Args:
        loss: ``trainer.best_loss``, or ``model_loss`` of a checkpoint.
        is_evaluated: Whether a plain number is the loss of an evaluation.
    """
    losses = loss if isinstance(loss, dict) else {"eval_loss" if is_evaluated else "train_loss": loss}
    train = _number(losses.get("train_loss"))
    return {**losses, "train_loss": math.inf if train is None else train, "eval_loss": _number(losses.get("eval_loss"))}


def _number(value: Any) -> float | None:
    try:
        return float(value.read() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # None, text, a tensor of several numbers
        return None


def _has_optimizer(saved: Saved) -> bool:
    """Whether to resume from a file as far as its optimizer goes; one that cannot be read is not given up for another.

    A checkpoint to go back to must say its step as well.
    """
    try:
        with open_checkpoint(saved.path) as checkpoint:
            document = checkpoint.document
            return bool(document.get("optimizer")) and ("step" in document or saved.kind == "best_model")
    except Exception:  # as `_reader_error`
        return saved.kind == "best_model"


def _is_damaged(path: Path) -> bool:
    """Whether a file is proved to be damaged: our reader has the proof, and torch cannot read the file either."""
    error = _reader_error(path)
    if error is None:
        return False
    found = str(error).removeprefix(f"{path}: ") or type(error).__name__
    if isinstance(error, DamagedError) and _torch_refuses(path):
        logger.error(" ! EXPORT : %s is damaged (%s)", path.name, found)
        return True
    logger.warning(" ! EXPORT : %s was not understood (%s); it is left as it is, for the Trainer to read", path, found)
    return False


def _reader_error(path: Path) -> Exception | None:
    """What our reader finds in a file, the local header of each record included."""
    try:
        with open_checkpoint(path) as checkpoint:
            if checkpoint.format == "pth" and checkpoint.file is not None:
                for record in read_directory(checkpoint.file).values():
                    data_offset(checkpoint.file, f"record {record.name}", record.header, record.nbytes)
    except Exception as error:  # the disk, or a fault of the reader: it must not end a training
        return error
    return None


def _torch_refuses(path: Path) -> bool:
    """Whether torch finds the file unreadable, rather than the disk or the memory; loads it just as the Trainer will.

    A wrong checksum alone is no reason: torch reads such a file, and the Trainer resumes from it.
    """
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        return error.errno == errno.EINVAL  # what torch makes of a file that ends too early
    except MemoryError:
        return False
    except Exception as error:  # torch raises whatever the damage leads to
        return "allocate memory" not in str(error)
    return False


def _set_aside(path: Path) -> None:
    """Rename a damaged file, or the link to one; what the link leads to stays as it is."""
    aside = path.with_name(f"damaged_{path.name}.broken")
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"damaged_{path.name}.{number}.broken")
    try:
        path.rename(aside)
    except OSError as error:
        logger.error(" ! EXPORT : %s could not be renamed (%s); move it out of the run folder", path, error.strerror)
    else:
        logger.error(" ! EXPORT : %s was renamed to %s", path.name, aside.name)


def _say_why(chosen: Path, found: Path, *, is_damaged: bool) -> None:
    if not is_damaged:
        logger.warning(
            " ! EXPORT : %s is newer but holds weights only; going back to %s keeps the optimizer state (remove the "
            "checkpoints to continue from the best model)",
            chosen.name,
            found.name,
        )
    logger.info(" > EXPORT : the run is continued from %s", found.name)
