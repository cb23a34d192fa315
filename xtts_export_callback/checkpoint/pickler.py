"""Write pickles that name torch's rebuilding functions, without importing torch.

The counterpart of `unpickler` writes only plain values and tensors, so that ``torch.load(weights_only=True)`` accepts
the result. Opcodes of protocol 2, the one torch.save uses, from the standard library's ``pickletools``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from xtts_export_callback.tensors.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Placement: TypeAlias = Callable[[Tensor], tuple[Tensor, str]]

_BYTE, _UINT16, _INT32 = 0xFF, 0xFFFF, 1 << 31
_MAX_DEPTH = 100


class UnsupportedValueError(TypeError):
    """A value that is neither a tensor nor a JSON value."""


def dumps(document: dict[str, Any], place: Placement) -> bytes:
    """Pickle a document as ``torch.save`` does.

    Args:
        document: Nested dicts, lists and tuples of strings, numbers, booleans, None and `Tensor`.
        place: Returns, for each tensor, the tensor to write (a view of the storage that is written) and the key of
            that storage's record.

    Returns:
        The content of ``data.pkl``.

    Raises:
        UnsupportedValueError: For any other value.
    """
    out = bytearray(b"\x80\x02")
    _value(out, document, place, 0)
    out += b"."
    return bytes(out)


def _value(out: bytearray, value: Any, place: Placement, depth: int) -> None:
    if depth > _MAX_DEPTH:
        msg = "nested too deeply"
        raise UnsupportedValueError(msg)
    if value is None:
        out += b"N"
    elif isinstance(value, bool):
        out += b"\x88" if value else b"\x89"
    elif isinstance(value, int):
        _int(out, value)
    elif isinstance(value, float):
        out += b"G" + struct.pack(">d", value)
    elif isinstance(value, str):
        _text(out, value)
    elif isinstance(value, Tensor):
        _tensor(out, *place(value))
    elif isinstance(value, dict):
        out += b"}("
        for key, item in value.items():
            _value(out, key, place, depth + 1)
            _value(out, item, place, depth + 1)
        out += b"u"
    elif isinstance(value, (list, tuple)):
        out += b"](" if isinstance(value, list) else b"("
        for item in value:
            _value(out, item, place, depth + 1)
        out += b"e" if isinstance(value, list) else b"t"
    else:
        msg = f"{type(value).__name__} {value!r} is neither a tensor nor a plain value"
        raise UnsupportedValueError(msg)


def _int(out: bytearray, value: int) -> None:
    if 0 <= value <= _BYTE:
        out += b"K" + bytes((value,))
    elif 0 <= value <= _UINT16:
        out += b"M" + struct.pack("<H", value)
    elif -_INT32 <= value < _INT32:
        out += b"J" + struct.pack("<i", value)
    else:
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        out += b"\x8a" + bytes((len(data),)) + data


def _text(out: bytearray, value: str) -> None:
    data = value.encode("utf-8", "surrogatepass")
    out += b"X" + struct.pack("<I", len(data)) + data


def _tensor(out: bytearray, tensor: Tensor, key: str) -> None:
    """Call ``torch._utils._rebuild_tensor_v2``; types newer than typed storages need ``_rebuild_tensor_v3``."""
    typed = bool(tensor.dtype.storage)
    out += b"ctorch._utils\n_rebuild_tensor_v2\n((" if typed else b"ctorch._utils\n_rebuild_tensor_v3\n(("
    _text(out, "storage")
    out += f"ctorch\n{tensor.dtype.storage}\n".encode() if typed else b"ctorch.storage\nUntypedStorage\n"
    _text(out, key)
    _text(out, "cpu")
    _int(out, tensor.storage.nbytes // (tensor.dtype.itemsize if typed else 1))
    out += b"tQ"
    _int(out, tensor.offset)
    for numbers in (tensor.shape, tensor.stride):
        out += b"("
        for number in numbers:
            _int(out, number)
        out += b"t"
    out += b"\x89ccollections\nOrderedDict\n)R"
    if not typed:
        out += f"ctorch\n{tensor.dtype.name}\n".encode()
    out += b"tR"
