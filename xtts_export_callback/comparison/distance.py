"""Distances between tensors, in float64, block by block.

Everything is derived from sums that are taken once over both tensors, so that a part's figures are those of all its
elements together, not means of its tensors' figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xtts_export_callback.files.threads import thread_pool
from xtts_export_callback.tensors.dtypes import to_float64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    import numpy.typing as npt

    from xtts_export_callback.tensors.dtypes import DType
    from xtts_export_callback.tensors.tensor import Tensor

_ELEMENTS = 1 << 16  # in float64 three blocks of them stay in a core's cache
_OPAQUE = ("complex64", "complex128", "float8_e4m3fn", "float8_e5m2")


@dataclass
class Difference:
    """How far B is from A over some elements. Add two to get that over both.

    Attributes:
        elements: Number of elements compared.
        changed: How many have another value in B. NaN counts as equal to NaN.
        nonfinite: How many are NaN or infinite in A or B; they enter `changed` but none of the sums.
        square_a: Sum of a*a.
        square_difference: Sum of (b-a)*(b-a).
        product: Sum of a*(b-a).
        largest: Largest absolute b-a.
        largest_in: The tensor where that is.
        unmeasured: Dtypes that have no distance (complex and 8-bit floats) and whose elements are not all the same.
        is_identical: Whether A and B hold the same bits in the same dtype.
        is_counter: Whether this is a tensor of integers, whose distance would drown that of the weights: a sum of
            several differences leaves it out of everything but `elements`, `changed` and `is_identical`.
    """

    elements: int = 0
    changed: int = 0
    nonfinite: int = 0
    square_a: float = 0.0
    square_difference: float = 0.0
    product: float = 0.0
    largest: float = 0.0
    largest_in: str = ""
    unmeasured: tuple[str, ...] = ()
    is_identical: bool = True
    is_counter: bool = False

    def add(self, other: Difference) -> None:
        """Extend this to the elements of ``other``."""
        self.elements += other.elements
        self.changed += other.changed
        self.is_identical &= other.is_identical
        self.unmeasured = tuple(sorted({*self.unmeasured, *other.unmeasured}))
        if other.is_counter and not self.is_counter:
            return
        self.nonfinite += other.nonfinite
        self.square_a += other.square_a
        self.square_difference += other.square_difference
        self.product += other.product
        if other.largest > self.largest:
            self.largest, self.largest_in = other.largest, other.largest_in

    @property
    def relative_l2(self) -> float:
        """``|B-A| / |A|`` (Euclidean norms); infinite where A is zero and B is not.

        NaN where no element that changed is finite in both, and where a norm is too large for float64.
        """
        if self.changed and self.nonfinite == self.elements:
            return math.nan
        return _ratio(math.sqrt(self.square_difference), math.sqrt(self.square_a))

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between A and B; None where one of them is zero."""
        square_b = self.square_a + 2 * self.product + self.square_difference
        return _cosine(self.square_a + self.product, self.square_a, square_b)

    @property
    def difference_cosine(self) -> float | None:
        """Cosine of the angle between A and B-A: -1 where the change only shrinks A, 1 where it only grows it.

        0 where it turns A, as the changes of fine-tuning mostly do; None where nothing changed or A is zero.
        """
        return _cosine(self.product, self.square_a, self.square_difference)

    @property
    def changed_share(self) -> float:
        """Share of elements that have another value, 0 to 1."""
        return self.changed / self.elements if self.elements else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The figures, for JSON."""
        return {
            "identical": self.is_identical,
            "relative_l2": self.relative_l2,
            "cosine": self.cosine,
            "difference_cosine": self.difference_cosine,
            "changed_share": self.changed_share,
            "changed": self.changed,
            "elements": self.elements,
            "largest_change": self.largest,
            "largest_change_in": self.largest_in or None,
            "nonfinite": self.nonfinite,
            "unmeasured_dtypes": list(self.unmeasured),
        }


def differences(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], progress: Callable[[int], None] | None = None
) -> dict[str, Difference]:
    """Compare tensors by name, two at a time.

    Args:
        a: Tensors by name.
        b: Tensors of the same names and shapes.
        progress: Called with the number of bytes of ``a`` done since the last call, from any thread.

    Returns:
        The difference of each, in the order of ``a``.

    Raises:
        CheckpointError: When a file turns out to be damaged.
    """

    def work(name: str) -> Difference:
        return _difference(name, a[name], b[name], progress)

    with thread_pool() as pool:
        return dict(zip(a, pool.map(work, a), strict=True))


def total(found: Iterable[Difference]) -> Difference:
    """The difference over all elements of several."""
    result = Difference()
    for item in found:
        result.add(item)
    return result


def _difference(name: str, a: Tensor, b: Tensor, progress: Callable[[int], None] | None) -> Difference:
    """Compare two tensors of one shape."""
    import numpy as np

    is_counter = not (a.dtype.is_float or b.dtype.is_float)
    result = Difference(is_identical=a.dtype == b.dtype, is_counter=is_counter)
    readers = [tensor.packed().reader() for tensor in (a, b)]
    buffers = [np.empty(min(_ELEMENTS, a.numel) * tensor.dtype.itemsize, np.uint8) for tensor in (a, b)]
    for start in range(0, a.numel, _ELEMENTS):
        count = min(_ELEMENTS, a.numel - start)
        parts = []
        for tensor, fill, buffer in zip((a, b), readers, buffers, strict=True):
            part = buffer[: count * tensor.dtype.itemsize]
            fill(memoryview(part.data))
            parts.append(part)
        same = a.dtype == b.dtype and bool(np.array_equal(_words(parts[0]), _words(parts[1])))
        block = _compare_block(parts[0], a.dtype, parts[1], b.dtype, same=same)
        block.largest_in = name
        block.is_identical, block.is_counter = same, is_counter
        result.add(block)
        if progress is not None:
            progress(count * a.dtype.itemsize)
    return result


def _words(part: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """The same bytes in steps of eight where that works out, which compares several times faster."""
    import numpy as np

    return part.view(np.uint64) if part.size % 8 == 0 else part


def _compare_block(
    a_bytes: npt.NDArray[np.uint8], a_type: DType, b_bytes: npt.NDArray[np.uint8], b_type: DType, *, same: bool
) -> Difference:
    import numpy as np

    if opaque := {a_type.name, b_type.name} & {*_OPAQUE}:  # told apart, not measured
        elements = a_bytes.size // a_type.itemsize
        return Difference(elements) if same else Difference(elements, elements, unmeasured=tuple(sorted(opaque)))
    a = values_of(a_bytes, a_type)
    result = Difference(elements=a.size, square_a=dot(a, a))
    if same and math.isfinite(result.square_a):
        return result
    b = values_of(b_bytes, b_type)
    difference = np.subtract(b, a, out=b) if math.isfinite(result.square_a) else np.full(a.size, np.nan)
    result.square_difference = dot(difference, difference)
    if not math.isfinite(result.square_difference):  # something is NaN or infinite, or overflows
        return _compare_nonfinite(a, values_of(b_bytes, b_type))
    result.product = dot(a, difference)
    result.changed = int(np.count_nonzero(difference))
    result.largest = max(float(difference.max()), -float(difference.min()))
    return result


def _compare_nonfinite(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> Difference:
    """The same for blocks with NaN or infinity, which are counted and left out of the sums."""
    import numpy as np

    usable = np.isfinite(a) & np.isfinite(b)
    result = Difference(elements=a.size, nonfinite=int(a.size - np.count_nonzero(usable)))
    result.changed = int(np.count_nonzero((a != b) & ~(np.isnan(a) & np.isnan(b))))
    a, b = a[usable], b[usable]
    with np.errstate(over="ignore"):
        difference = b - a
    result.square_a, result.square_difference = dot(a, a), dot(difference, difference)
    result.product = dot(a, difference)
    result.largest = float(np.max(np.abs(difference), initial=0.0))
    return result


def values_of(data: npt.NDArray[np.uint8], dtype: DType) -> npt.NDArray[np.float64]:
    """The values of elements read from a file, in float64."""
    import numpy as np

    bits = data.view(dtype.numpy)
    return to_float64(bits, dtype) if dtype.is_float else bits.astype(np.float64)


def dot(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Sum of a*b. Not ``np.dot``, for which BLAS starts threads of its own that only get in the way of ours."""
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.einsum("i,i->", a, b))


def _ratio(change: float, size: float) -> float:
    if change == 0:
        return 0.0
    if not (math.isfinite(change) and math.isfinite(size)):
        return math.nan
    return change / size if size else math.inf


def _cosine(product: float, square_a: float, square_b: float) -> float | None:
    if square_a <= 0 or square_b <= 0 or not all(map(math.isfinite, (product, square_a, square_b))):
        return None
    return max(-1.0, min(1.0, product / math.sqrt(square_a) / math.sqrt(square_b)))
