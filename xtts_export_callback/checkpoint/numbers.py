"""Numbers that a checkpoint holds as scalars of numpy or as tensors of one element."""

from __future__ import annotations

import struct
from typing import Any

from xtts_export_callback.checkpoint.placeholders import Global, Opaque
from xtts_export_callback.tensors.dtypes import to_float64
from xtts_export_callback.tensors.tensor import Tensor

_SCALARS = (Global("numpy.core.multiarray", "scalar"), Global("numpy._core.multiarray", "scalar"))
_DTYPE = Global("numpy", "dtype")
_ENCODE = Global("_codecs", "encode")  # how protocol 2 writes bytes
_FORMATS = {
    "b1": "?",
    "i1": "b",
    "u1": "B",
    "i2": "h",
    "u2": "H",
    "i4": "i",
    "u4": "I",
    "i8": "q",
    "u8": "Q",
    "f2": "e",
    "f4": "f",
    "f8": "d",
}


def numpy_number(value: Opaque) -> int | float | bool | None:
    """Return the number in a pickled scalar of numpy; None for anything else."""
    if value.callee not in _SCALARS or len(value.args) != 2:
        return None
    dtype, content = value.args
    if isinstance(content, Opaque) and content.callee == _ENCODE and len(content.args) == 2:
        text = content.args[0]
        is_latin = isinstance(text, str) and content.args[1] == "latin1" and all(ord(letter) < 256 for letter in text)
        content = text.encode("latin1") if is_latin else None
    if not isinstance(dtype, Opaque) or dtype.callee != _DTYPE or not isinstance(content, bytes) or not dtype.args:
        return None
    code = _FORMATS.get(dtype.args[0]) if isinstance(dtype.args[0], str) else None
    order = ">" if isinstance(dtype.state, tuple) and dtype.state[1:2] == (">",) else "<"
    if code is None or len(content) != struct.calcsize(order + code):
        return None
    number: int | float | bool = struct.unpack(order + code, content)[0]
    return number


def number_of(value: Any) -> Any:
    """Return the element of a one-element tensor; return any other value unchanged.

    Raises:
        CheckpointError: When the tensor is damaged.
    """
    if not isinstance(value, Tensor) or value.numel != 1 or value.dtype.name.startswith(("complex", "float8")):
        return value
    import numpy as np

    content = bytearray(value.nbytes)
    value.packed().reader()(memoryview(content))
    elements = np.frombuffer(content, value.dtype.numpy)
    return (to_float64(elements, value.dtype) if value.dtype.is_float else elements)[0].item()
