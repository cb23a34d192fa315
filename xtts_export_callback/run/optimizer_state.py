"""Rewrite full checkpoints as weights: a third of the size, and a resume from them starts with fresh moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import open_checkpoint, write_pth
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.files.atomic import whole_file
from xtts_export_callback.run.lr_schedule import RESUME_KEY, position_in_document
from xtts_export_callback.tensors.tensor import skip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from xtts_export_callback.checkpoint.reader import Checkpoint

_PRIVATE = 0o600


def rewrite_as_weights(path: Path, *, newest: Path) -> int:
    """Rewrite one checkpoint once the newest is verified. Mode and owner of the file stay.

    Args:
        path: A full checkpoint of the Trainer.
        newest: The checkpoint that the next resume uses in its place; it must hold optimizer state.

    Returns:
        The bytes freed: 0 with nothing to drop.

    Raises:
        CheckpointError: When the newest checkpoint is not whole or holds no optimizer state; then nothing is rewritten.
    """
    with open_checkpoint(path) as checkpoint:
        if not checkpoint.document.get("optimizer") or checkpoint.others:  # unread records would be lost
            return 0
        before = checkpoint.nbytes
    _verify(newest)
    # Fails if the Trainer's retention has removed it meanwhile: renaming would bring it back.
    with whole_file(path, force=True, like=path) as temporary, open_checkpoint(path) as checkpoint:
        write_pth(temporary, _as_weights(checkpoint), mode=_PRIVATE)
    return before - path.stat().st_size


def _as_weights(checkpoint: Checkpoint) -> dict[str, Any]:
    """Do to a saved file what `trainer_state.weights_only` does to a state before the save."""
    document = checkpoint.document
    empty: dict[str, Any] = {"optimizer": [], "scheduler": [], "scaler": None}
    return {**document, "model": checkpoint.tensors, **empty, RESUME_KEY: position_in_document(document)}


def _verify(path: Path) -> None:
    """Read every tensor of a file, those of the optimizer included, and compare the checksums."""
    with open_checkpoint(path) as checkpoint:
        if not checkpoint.document.get("optimizer"):
            msg = f"{path}: the newest checkpoint holds no optimizer state, so older ones keep theirs"
            raise CheckpointError(msg)
        storages = {id(storage): storage for storage in _storages([checkpoint.tensors, checkpoint.document])}
        for storage in storages.values():
            skip(storage.reader(), storage.nbytes)


def _storages(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _storages(item)
    elif hasattr(value, "storage"):
        yield value.storage
