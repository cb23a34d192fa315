"""Reading and writing checkpoints as mappings of names to tensors that have not been read yet.

numpy and the standard library only: opening a 5.58 GB checkpoint costs milliseconds and no memory to speak of, and no
file can run code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.reader import Checkpoint, open_checkpoint
from xtts_export_callback.tensors.tensor import Tensor

if TYPE_CHECKING:
    from xtts_export_callback.checkpoint.writer import write_pth, write_safetensors

__all__ = ["Checkpoint", "Tensor", "open_checkpoint", "write_pth", "write_safetensors"]


def __getattr__(name: str) -> Any:
    """The writer costs a third of the import, and looking at a file has no use for it."""
    if name in ("write_pth", "write_safetensors"):
        return getattr(importlib.import_module("xtts_export_callback.checkpoint.writer"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
