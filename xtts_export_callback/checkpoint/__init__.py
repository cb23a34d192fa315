"""Reading and writing checkpoints as mappings of names to tensors that have not been read yet.

numpy and the standard library only: opening a 5.58 GB checkpoint costs milliseconds and no memory to speak of, and no
file can run code.
"""

from __future__ import annotations

from xtts_export_callback.checkpoint.read import Checkpoint, open_checkpoint
from xtts_export_callback.checkpoint.tensor import Tensor
from xtts_export_callback.checkpoint.write import write_pth, write_safetensors

__all__ = ["Checkpoint", "Tensor", "open_checkpoint", "write_pth", "write_safetensors"]
