"""Read and write checkpoints as mappings of names to tensors that have not been read yet.

Only numpy and the standard library are used: opening a 5.58 GB checkpoint takes milliseconds and hardly any memory, and
no file can run code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.reader import Checkpoint, open_checkpoint
from xtts_export_callback.tensors.tensor import Tensor

if TYPE_CHECKING:
    from xtts_export_callback.checkpoint.writer import write_pth, write_safetensors, write_zip

__all__ = ["Checkpoint", "Tensor", "open_checkpoint", "write_pth", "write_safetensors", "write_zip"]


def __getattr__(name: str) -> Any:
    """Import the writer on first use: it takes a third of the import time, and reading does not need it."""
    if name in ("write_pth", "write_safetensors", "write_zip"):
        return getattr(importlib.import_module("xtts_export_callback.checkpoint.writer"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
