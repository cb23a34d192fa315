"""Checkpoints from before torch 1.6, which are no zip archives: the one kind that is read through torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.dtypes import BY_NAME
from xtts_export_callback.checkpoint.tensor import ArrayStorage, Storage, Tensor
from xtts_export_callback.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def load_legacy(path: Path) -> Any:
    """Load a file in torch's old format.

    Args:
        path: The file.

    Returns:
        What it holds, with every tensor replaced by a `Tensor` over bytes in memory; shared storages stay shared.

    Raises:
        CheckpointError: When ``torch.load(weights_only=True)`` refuses it.
    """
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises whatever the damage leads to
        reason = str(error).strip().partition("\n")[0]
        msg = f"{path}: neither a zip archive nor a file of torch's old format that torch.load accepts ({reason[:200]})"
        raise CheckpointError(msg) from error
    storages: dict[int, Storage] = {}

    def convert(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            raw = value.untyped_storage()
            key = raw.data_ptr()
            if key not in storages:
                storages[key] = ArrayStorage(memoryview(torch.empty(0, dtype=torch.uint8).set_(raw).numpy()))
            name = str(value.dtype).removeprefix("torch.")
            if name not in BY_NAME:
                msg = f"{path}: a tensor of the unsupported dtype {name}"
                raise CheckpointError(msg)
            return Tensor(storages[key], BY_NAME[name], tuple(value.shape), value.stride(), value.storage_offset())
        if isinstance(value, dict):
            return {key: convert(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [convert(item) for item in value]
        return value

    return convert(loaded)
