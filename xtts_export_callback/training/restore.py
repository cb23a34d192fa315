"""Resumes a run from its newest whole checkpoint, and warns when the optimizer state is lost."""

from __future__ import annotations

import errno
import math
import os
from functools import partial
from pathlib import Path
from typing import Any

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.checkpoint.zip_reader import data_offset, read_directory
from xtts_export_callback.errors import ConfigError, DamagedError, XttsExportError
from xtts_export_callback.files.atomic import remove_leftovers
from xtts_export_callback.run.checkpoints import SHORTCUT, Saved, find_checkpoints
from xtts_export_callback.run.log import training_logger
from xtts_export_callback.run.lr_schedule import RESUME_KEY, restore_position
from xtts_export_callback.run.resume import by_age, our_choice
from xtts_export_callback.tensors.tensor import Tensor
from xtts_export_callback.training.hooks import is_main_process, place_of
from xtts_export_callback.training.log import guarded
from xtts_export_callback.xtts.state_dict import has_trainer_prefix

logger = training_logger()


def resume_from_whole(trainer: Any, run: Path) -> Any:
    """Have a Trainer resume from the newest whole checkpoint, and return the best loss that it has to know of, or None.

    Raises:
        ConfigError: As `choose_checkpoint`.
    """
    if is_main_process():  # brings back the older file of a save that never reached the disk
        guarded("clean-up of leftovers", partial(remove_leftovers, run))
    stock = place_of(trainer.args.restore_path)
    chosen = choose_checkpoint(run, stock, may_rename=is_main_process())
    if chosen == stock:
        return None
    trainer.args.restore_path = str(chosen)
    best = newest_best(run)
    if not place_of(trainer.args.best_path).exists():
        trainer.args.best_path = str(best or chosen)
    if best is None or not chosen.name.startswith("checkpoint"):
        return None
    return guarded(f"the loss of {best.name} is not known", partial(loss_of, best))


def newest_best(run: Path) -> Path | None:
    """Return the newest numbered best model of a run."""
    found = [saved.path for saved in find_checkpoints(run) if saved.kind == "best_model"]
    return found[-1] if found else None


def refuse_inference_model(restore_path: str | None) -> None:
    """Refuse to restore from an inference model, of which the Trainer would restore nothing.

    Raises:
        ConfigError: When the file's names lack the Trainer's prefix.
    """
    if not restore_path:
        return
    try:
        with open_checkpoint(restore_path) as checkpoint:
            restorable = has_trainer_prefix(checkpoint)
    except XttsExportError:
        return  # unreadable here, remote or damaged: the Trainer reports it in its own words
    if not restorable:
        msg = (
            f"{restore_path}: an inference model: its names lack the prefix 'xtts.', so the Trainer would restore 0 "
            f"layers and train from scratch; to fine-tune from it set model_args.xtts_checkpoint to this path and "
            "leave restore_path and continue_path empty"
        )
        raise ConfigError(msg)


def choose_checkpoint(run: Path, chosen: Path, *, may_rename: bool) -> Path:
    """Choose the checkpoint to resume from.

    Args:
        run: The run folder.
        chosen: What the Trainer has chosen by the number in its name.
        may_rename: Rename damaged files, so that no pattern of the Trainer matches them; only one of several
            processes may.

    Returns:
        ``chosen`` unless it is proved to be damaged: a file that cannot be read here or now is left to the Trainer.
        Instead of a damaged file, the newest other one; instead of a best model without optimizer state, the newest
        checkpoint that has it, if any.

    Raises:
        ConfigError: When every checkpoint is damaged.
    """
    others = [saved for saved in by_age(find_checkpoints(run)) if saved.path != chosen]
    shortcut = run / SHORTCUT  # a copy of the best model, which may be the only whole file
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
        msg = f"{run}: no whole checkpoint is left to resume from; damaged files are kept as damaged_*.broken"
        raise ConfigError(msg)
    if found.path != chosen:
        _say_why(chosen, found.path, is_damaged=damaged[files[chosen]])
    return found.path


def restore_from_weights(trainer: Any) -> None:
    """Restore learning rate and schedule from a checkpoint without optimizer state, and log it."""
    with open_checkpoint(place_of(trainer.args.restore_path)) as checkpoint:
        if checkpoint.document.get("optimizer"):
            return
        position = checkpoint.document.get(RESUME_KEY)
    rates = restore_position(position if isinstance(position, dict) else {}, trainer.optimizer, trainer.scheduler)
    shown = ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates)) or "as configured"
    logger.warning(
        " ! EXPORT : %s holds weights only: training resumes at step %i with learning rate %s and its place in the "
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
    """Convert a best loss of any Trainer to what `trainer.io.save_best_model` compares with the loss of an epoch.

    Older Trainers saved a plain number, and a save on Ctrl-C before the first loss has none; the
    comparison of either would end the training.

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
    """Whether a file has the optimizer state to resume with; a best model that cannot be read counts as having it.

    A checkpoint must state its step as well.
    """
    try:
        with open_checkpoint(saved.path) as checkpoint:
            document = checkpoint.document
            return bool(document.get("optimizer")) and ("step" in document or saved.kind == "best_model")
    except Exception:  # as `_reader_error`
        return saved.kind == "best_model"


def _is_damaged(path: Path) -> bool:
    """Whether a file is proved to be damaged: our reader proves it, and torch cannot read the file either."""
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
    """The error of our reader on a file, if any; it also checks the local header of each record."""
    try:
        with open_checkpoint(path) as checkpoint:
            if checkpoint.format == "pth" and checkpoint.file is not None:
                for record in read_directory(checkpoint.file).values():
                    data_offset(checkpoint.file, f"record {record.name}", record.header, record.nbytes)
    except Exception as error:  # the disk, or a fault of the reader: it must not end a training
        return error
    return None


def _torch_refuses(path: Path) -> bool:
    """Whether torch finds the file itself unreadable, not the disk or memory short; loads it as the Trainer will.

    A wrong checksum alone does not count: torch reads such a file, and the Trainer resumes from it.
    """
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        return error.errno == errno.EINVAL  # torch's error for a file that ends too early
    except MemoryError:
        return False
    except Exception as error:  # torch raises whatever the damage leads to
        return "allocate memory" not in str(error)
    return False


def _set_aside(path: Path) -> None:
    """Rename a damaged file, or the link to one; the target of the link stays unchanged."""
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
            "checkpoints to resume from the best model)",
            chosen.name,
            found.name,
        )
    logger.info(" > EXPORT : the run resumes from %s", found.name)
