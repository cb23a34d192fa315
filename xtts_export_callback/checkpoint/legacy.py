"""Checkpoints from before torch 1.6, which are no zip archives: the one kind that is read through torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.dtypes import BY_NAME
from xtts_export_callback.checkpoint.tensor import ArrayStorage, Storage, Tensor, find_fault
from xtts_export_callback.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    import torch


def load_legacy(path: Path) -> Any:
    """Load a file in torch's old format.

    Args:
        path: The file.

    Returns:
        What it holds, with every tensor replaced by a `Tensor` over bytes in memory; shared storages stay shared.

    Raises:
        CheckpointError: When ``torch.load(weights_only=True)`` refuses it or it holds tensors of another kind than
            dense ones.
    """
    import torch

    try:
        return _Converter().convert(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises whatever the damage leads to
        msg = f"{path}: not a file of torch's old format that torch.load(weights_only=True) accepts ({_reason(error)})"
        raise CheckpointError(msg) from error


def _reason(error: Exception) -> str:
    """The one line of torch's message that says what is wrong, without the colours around its advice."""
    message = str(error).strip()
    _, _, detail = message.partition("WeightsUnpickler error: ")
    line = (detail or message).partition("\n")[0]
    return "".join(filter(str.isprintable, line))[:200] or type(error).__name__


class _Converter:
    """Replaces the tensors in a loaded file; what the file shares, itself included, stays shared."""

    def __init__(self) -> None:
        self._storages: dict[int, Storage] = {}
        self._done: dict[int, Any] = {}

    def convert(self, value: Any) -> Any:
        import torch

        if id(value) in self._done:
            return self._done[id(value)]
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            converted: dict[Any, Any] = {}
            self._done[id(value)] = converted
            converted.update((key, self.convert(item)) for key, item in value.items())
            return converted
        if isinstance(value, (list, tuple)):
            items: list[Any] = []
            self._done[id(value)] = items
            items.extend(self.convert(item) for item in value)
            return items
        return value

    def _tensor(self, value: torch.Tensor) -> Tensor:
        import torch

        name = str(value.dtype).removeprefix("torch.")
        if value.layout != torch.strided or name not in BY_NAME or value.is_conj() or value.is_neg():
            msg = f"a tensor of the unsupported kind {name}, {value.layout}"
            raise ValueError(msg)
        raw = value.untyped_storage()
        key = raw.data_ptr()
        if key not in self._storages:
            self._storages[key] = ArrayStorage(torch.empty(0, dtype=torch.uint8).set_(raw).numpy().data)
        offset = int(value.storage_offset())
        tensor = Tensor(self._storages[key], BY_NAME[name], tuple(value.shape), value.stride(), offset)
        fault = find_fault(tensor.storage, tensor.dtype, tensor.shape, tensor.stride, offset)
        if fault is not None:
            msg = f"a tensor with {fault}"
            raise ValueError(msg)
        return tensor
