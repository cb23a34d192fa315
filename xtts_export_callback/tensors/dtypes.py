"""The element types of torch, and what numpy, safetensors and torch's pickles call them.

numpy has no bfloat16 and no 8-bit floats, so their elements are kept as unsigned integers with the same bits. Only the
functions below convert them to numbers and back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class DType(NamedTuple):
    """One element type.

    Attributes:
        name: What torch calls it, without ``torch.``.
        itemsize: Bytes an element takes.
        numpy: The numpy type that carries its bits.
        storage: The class in ``torch`` that a pickle names for its storages; empty where torch uses
            ``UntypedStorage`` (the types that came after torch 2.0, see ``torch.storage._new_dtypes``).
        safetensors: Its code in a safetensors header; empty where there is none.
        is_float: Whether it is a real floating-point type, the only kind that is cast or averaged.
    """

    name: str
    itemsize: int
    numpy: str
    storage: str
    safetensors: str
    is_float: bool


_TABLE = (
    DType("float64", 8, "<f8", "DoubleStorage", "F64", True),
    DType("float32", 4, "<f4", "FloatStorage", "F32", True),
    DType("float16", 2, "<f2", "HalfStorage", "F16", True),
    DType("bfloat16", 2, "<u2", "BFloat16Storage", "BF16", True),
    DType("int64", 8, "<i8", "LongStorage", "I64", False),
    DType("int32", 4, "<i4", "IntStorage", "I32", False),
    DType("int16", 2, "<i2", "ShortStorage", "I16", False),
    DType("int8", 1, "|i1", "CharStorage", "I8", False),
    DType("uint8", 1, "|u1", "ByteStorage", "U8", False),
    DType("bool", 1, "|b1", "BoolStorage", "BOOL", False),
    DType("complex64", 8, "<c8", "ComplexFloatStorage", "C64", False),
    DType("complex128", 16, "<c16", "ComplexDoubleStorage", "", False),
    DType("uint16", 2, "<u2", "", "U16", False),
    DType("uint32", 4, "<u4", "", "U32", False),
    DType("uint64", 8, "<u8", "", "U64", False),
    DType("float8_e4m3fn", 1, "|u1", "", "F8_E4M3", False),
    DType("float8_e5m2", 1, "|u1", "", "F8_E5M2", False),
    DType("float8_e4m3fnuz", 1, "|u1", "", "F8_E4M3FNUZ", False),
    DType("float8_e5m2fnuz", 1, "|u1", "", "F8_E5M2FNUZ", False),
    DType("float8_e8m0fnu", 1, "|u1", "", "F8_E8M0", False),
    DType("complex32", 4, "<u4", "", "", False),
    DType("bits1x8", 1, "|u1", "", "", False),
    DType("bits2x4", 1, "|u1", "", "", False),
    DType("bits4x2", 1, "|u1", "", "", False),
    DType("bits8", 1, "|u1", "", "", False),
    DType("bits16", 2, "<u2", "", "", False),
    DType("quint8", 1, "|u1", "QUInt8Storage", "", False),
    DType("qint8", 1, "|i1", "QInt8Storage", "", False),
    DType("qint32", 4, "<i4", "QInt32Storage", "", False),
    DType("quint4x2", 1, "|u1", "QUInt4x2Storage", "", False),
    DType("quint2x4", 1, "|u1", "QUInt2x4Storage", "", False),
)

BY_NAME = {dtype.name: dtype for dtype in _TABLE}
BY_STORAGE = {dtype.storage: dtype for dtype in _TABLE if dtype.storage}
BY_SAFETENSORS = {dtype.safetensors: dtype for dtype in _TABLE if dtype.safetensors}

_HALFWAY = 0x8000  # the lower half of a float32 halfway between two bfloat16

CASTS = ("float32", "float16", "bfloat16")
"""The types that an inference model can be cast to; XTTS reads each of them and computes in float32."""


def to_float64(bits: npt.NDArray[Any], dtype: DType) -> npt.NDArray[np.float64]:
    """Convert floating-point elements to their exact values.

    Args:
        bits: Elements as read from a file, any shape, of numpy type ``dtype.numpy``.
        dtype: Their type; ``dtype.is_float`` must hold.

    Returns:
        float64 array of the same shape. Every supported type converts without rounding.
    """
    import numpy as np

    with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
        if dtype.name == "bfloat16":  # the upper half of a float32
            return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return bits.astype(np.float64)


def from_float64(
    values: npt.NDArray[np.float64], dtype: DType, out: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Round values once, to nearest with ties to even.

    Args:
        values: float64 array, any shape. NaN and infinity stay; a value that is too large becomes infinity.
        dtype: The type to round to; ``dtype.is_float`` must hold.
        out: Array for the result, of numpy type ``dtype.numpy`` and the same shape; by default a new one.

    Returns:
        Array of numpy type ``dtype.numpy`` and the same shape.
    """
    import numpy as np

    if out is None:
        out = np.empty(values.shape, dtype.numpy)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if dtype.name == "bfloat16":
            out[...] = _bfloat16_of_float64(values.reshape(-1)).reshape(values.shape)
        else:
            np.copyto(out, values, casting="same_kind")
    return out


def from_float32(values: npt.NDArray[np.float32], dtype: DType) -> npt.NDArray[Any]:
    """Round float32 values with the same result as `from_float64`, but faster.

    Args:
        values: float32 array, any shape.
        dtype: The type to round to; ``dtype.is_float`` must hold.

    Returns:
        Array of numpy type ``dtype.numpy`` and the same shape.
    """
    import numpy as np

    if dtype.name == "bfloat16":
        return _bfloat16(np.ascontiguousarray(values).view(np.uint32))
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype.numpy)


def _bfloat16_of_float64(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint16]:
    """Round a flat array through float32; one in 65,536 lands halfway between two bfloat16 and is rounded exactly."""
    import numpy as np

    bits = values.astype(np.float32).view(np.uint32)
    result = _bfloat16(bits)
    (halfway,) = ((bits & np.uint32(0xFFFF)) == _HALFWAY).nonzero()
    if len(halfway):
        result[halfway] = _bfloat16(_round_to_odd(values[halfway]))
    return result


def _round_to_odd(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
    """Round to float32 bits, to odd.

    Rounding float64 to float32 and that to bfloat16 rounds twice and is off by one unit where the first lands on a
    tie. A first step to odd keeps the information which side of the tie the value was on (Boldo and Melquiond,
    "When double rounding is odd", 2005).
    """
    import numpy as np

    nearest = values.astype(np.float32)
    bits: npt.NDArray[np.uint32] = nearest.view(np.uint32).copy()
    back = nearest.astype(np.float64)
    inexact = (back != values) & np.isfinite(values)
    away = inexact & (np.abs(back) > np.abs(values))
    bits -= away.astype(np.uint32)  # the neighbour towards zero, also from infinity back to the largest finite
    bits |= inexact.astype(np.uint32)
    return bits


def _bfloat16(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
    """Round float32 bits to their upper halves, to nearest even; NaN stays NaN."""
    import numpy as np

    rounded = bits >> 16
    rounded &= np.uint32(1)
    rounded += np.uint32(_HALFWAY - 1)
    rounded += bits
    rounded >>= 16
    result: npt.NDArray[np.uint16] = rounded.astype(np.uint16)
    nan = np.isnan(bits.view(np.float32))
    if nan.any():
        result[nan] = (bits[nan] >> 16) | np.uint32(0x0040)
    return result
