"""Magnitude pruning: which elements become zero, how many, and what is said to be lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.models.generated import SPECIFICATION
from tests.tensors.test_quantize import Float32, tensor_of
from xtts_export_callback.tensors.quantize import read_float32
from xtts_export_callback.tensors.sparse import Sparse, relative_loss, sparsify

MATRICES = arrays.arrays(np.float32, (4, 5), elements=st.floats(0.5, 8, width=32), unique=True)
SHARES = st.floats(0, 0.99)


@given(matrix=MATRICES, signs=arrays.arrays(np.bool_, (4, 5)), share=SHARES)
@SPECIFICATION
def test_the_smallest_elements_are_zero_and_the_others_keep_their_bits(
    matrix: Float32, signs: np.ndarray, share: float
) -> None:
    matrix = np.where(signs, -matrix, matrix)
    found = sparsify(tensor_of(matrix), share).read()
    zero = found == 0
    assert zero.sum() == int(share * matrix.size)
    assert np.array_equal(found[~zero], matrix[~zero])
    assert np.abs(matrix[zero]).max(initial=0) <= np.abs(matrix[~zero]).min()


@given(matrix=MATRICES, share=SHARES)
@SPECIFICATION
def test_the_loss_is_the_length_of_the_change_relative_to_the_matrix(matrix: Float32, share: float) -> None:
    tensor = sparsify(tensor_of(matrix), share)
    change = matrix - tensor.read()
    assert isinstance(tensor.storage, Sparse)
    assert relative_loss([tensor.storage]) == pytest.approx(np.linalg.norm(change) / np.linalg.norm(matrix), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrower_types_stay_in_their_type(dtype: str) -> None:
    tensor = sparsify(tensor_of(np.array([[4, -1], [2, 3]], np.float32), dtype), 0.5)
    assert tensor.dtype.name == dtype
    assert np.array_equal(read_float32(tensor), [[4, 0], [0, 3]])


def test_matrices_of_zeros_lose_nothing() -> None:
    tensor = sparsify(tensor_of(np.zeros((2, 2), np.float32)), 0.5)
    tensor.read()
    assert isinstance(tensor.storage, Sparse)
    assert relative_loss([tensor.storage]) == relative_loss([]) == 0
