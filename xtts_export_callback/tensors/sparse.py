"""Matrices whose smallest weights are zero: magnitude pruning (Han et al., 2015, https://arxiv.org/abs/1506.02626)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from xtts_export_callback.tensors.dtypes import to_float64
from xtts_export_callback.tensors.tensor import ArrayStorage, Storage, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xtts_export_callback.tensors.tensor import Reader


class Sparse(Storage):
    """The elements of a matrix, the smallest of them zero. The matrix is held in memory while it is read.

    Attributes:
        total: Sum of the squares of all elements; 0 until the matrix is read.
        dropped: Sum of the squares of those that became zero.
    """

    def __init__(self, tensor: Tensor, sparsity: float) -> None:
        """Describe ``tensor``, floating-point, with a share ``sparsity`` of its elements zero, rounded down."""
        self.tensor = tensor
        self.base = tensor.storage  # names the file in messages
        self.nbytes = tensor.nbytes
        self.total = self.dropped = 0.0
        self._count = int(sparsity * tensor.numel)
        self._lock = threading.Lock()

    def reader(self) -> Reader:
        """See `Storage.reader`."""
        import numpy as np

        bits = self.tensor.read().reshape(-1).copy()
        squares = np.square(to_float64(bits, self.tensor.dtype))
        smallest = np.argpartition(squares, max(self._count - 1, 0))[: self._count]
        with self._lock:
            self.total, self.dropped = float(squares.sum()), float(squares[smallest].sum())
        bits[smallest] = 0
        return ArrayStorage(bits.data.cast("B")).reader()


def sparsify(tensor: Tensor, sparsity: float) -> Tensor:
    """Return a matrix with its smallest elements zero; nothing is read yet. See `Sparse`."""
    return Tensor.contiguous(Sparse(tensor, sparsity), tensor.dtype, tensor.shape)


def relative_loss(matrices: Iterable[Sparse]) -> float:
    """Return the length of what became zero, relative to that of the matrices, which have been read."""
    found = list(matrices)
    total = sum(matrix.total for matrix in found)
    return float((sum(matrix.dropped for matrix in found) / total) ** 0.5) if total else 0.0
