"""Matrices in int8: how far from the weight, which scale is whose, and that nothing is lost the second time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.models.generated import SPECIFICATION
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.tensors.dtypes import BY_NAME, from_float32
from xtts_export_callback.tensors.quantize import dequantize, quantize, read_float32
from xtts_export_callback.tensors.tensor import ArrayStorage, Tensor

Float32 = npt.NDArray[np.float32]

SHAPES = arrays.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)
MATRICES = arrays.arrays(np.float32, SHAPES, elements=st.floats(-(2.0**100), 2.0**100, width=32))


def tensor_of(values: Float32, dtype: str = "float32") -> Tensor:
    bits = from_float32(values.reshape(-1), BY_NAME[dtype])
    return Tensor.contiguous(ArrayStorage(np.ascontiguousarray(bits).data.cast("B")), dtype, values.shape)


def parts_of(values: Float32, dimension: int) -> tuple[Float32, Float32]:
    integers, scale = quantize("w", tensor_of(values), dimension)
    return integers.read(), scale.read()


@given(matrix=MATRICES, dimension=st.integers(0, 1))
@SPECIFICATION
def test_a_weight_comes_back_within_half_a_scale(matrix: Float32, dimension: int) -> None:
    integers, scale = quantize("w", tensor_of(matrix), dimension)
    back = dequantize(integers, scale).read().astype(np.float64)
    steps = np.broadcast_to(scale.read().astype(np.float64), matrix.shape)
    assert (np.abs(back - matrix) <= steps * (0.5 + 1e-4) + 1e-37).all()  # float32 rounds the quotient and the product


@given(matrix=MATRICES, dimension=st.integers(0, 1))
@SPECIFICATION
def test_what_is_restored_is_the_integer_times_its_scale_rounded_once(matrix: Float32, dimension: int) -> None:
    integers, scale = quantize("w", tensor_of(matrix), dimension)
    exact = integers.read().astype(np.float64) * scale.read().astype(np.float64)  # 8 and 24 bits fit into 53
    assert np.array_equal(dequantize(integers, scale).read(), exact.astype(np.float32))


@given(matrix=MATRICES, dimension=st.integers(0, 1))
@SPECIFICATION
def test_a_restored_matrix_is_quantized_to_the_same_parts_without_computing(matrix: Float32, dimension: int) -> None:
    integers, scale = quantize("w", tensor_of(matrix), dimension)
    assert quantize("w", dequantize(integers, scale), dimension) == (integers, scale)


@given(matrix=MATRICES, dimension=st.integers(0, 1))
@SPECIFICATION
def test_restored_values_from_another_file_are_quantized_to_the_same_integers(matrix: Float32, dimension: int) -> None:
    integers, scale = parts_of(matrix, dimension)
    once = integers.astype(np.float32) * scale
    again, its_scale = parts_of(once, dimension)
    assert np.array_equal(again, integers)
    assert np.allclose(again * its_scale, once, rtol=1e-6)


@given(matrix=MATRICES, dimension=st.integers(0, 1))
@SPECIFICATION
def test_integers_are_symmetric_and_the_largest_of_a_channel_is_127(matrix: Float32, dimension: int) -> None:
    integers, _ = parts_of(matrix, dimension)
    others = tuple(axis for axis in range(matrix.ndim) if axis != dimension)
    largest = np.abs(integers.astype(np.int16)).max(axis=others)
    channel = np.abs(matrix).max(axis=others)
    assert (largest[channel > 1e-30] == 127).all()
    assert largest.max() <= 127


@pytest.mark.parametrize(("dimension", "shape"), [(0, (2, 1)), (1, (1, 3))])
def test_each_output_has_a_scale_along_the_dimension_of_the_outputs(dimension: int, shape: tuple[int, int]) -> None:
    matrix = np.array([[1, 20, 300], [-2, -40, 500]], np.float32)
    _, scale = parts_of(matrix, dimension)
    assert scale.shape == shape
    largest = np.abs(matrix).max(axis=1 - dimension, keepdims=True)
    assert np.array_equal(scale, largest / np.float32(127))


@pytest.mark.parametrize("rows", [255, 256, 257, 600])
@pytest.mark.parametrize("dimension", [0, 1])
def test_matrices_of_more_rows_than_are_divided_at_a_time_are_whole(rows: int, dimension: int) -> None:
    matrix = np.random.default_rng(rows).standard_normal((rows, 3), np.float32)
    integers, scale = parts_of(matrix, dimension)
    assert np.array_equal(integers, np.rint(matrix / scale))


@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-38])
def test_a_channel_of_zeros_becomes_zeros_without_a_warning(tiny: float) -> None:
    integers, scale = parts_of(np.array([[tiny, -tiny], [1, 2]], np.float32), 0)
    assert np.array_equal(integers[0], [0, 0])
    assert scale[0] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", [0, 1])
def test_a_value_that_is_not_finite_is_refused_by_name(value: float, part: int) -> None:
    matrix = np.ones((3, 2), np.float32)
    matrix[2, 1] = value
    broken = quantize("gpt.mel_head.weight", tensor_of(matrix), 0)[part]
    with pytest.raises(CheckpointError, match=r"gpt\.mel_head\.weight: holds NaN or infinity"):
        broken.read()


def test_the_rows_of_a_restored_matrix_are_quantized_as_the_matrix_that_they_are() -> None:
    integers, scale = quantize("w", tensor_of(np.arange(12, dtype=np.float32).reshape(4, 3)), 1)
    whole = dequantize(integers, scale)
    rows = Tensor(whole.storage, whole.dtype, (2, 3), (3, 1), 3)
    found, its_scale = quantize("w", rows, 1)
    assert found.read().shape == (2, 3)
    assert np.allclose(found.read() * its_scale.read(), rows.read(), atol=0.05)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_types_are_quantized_as_the_float32_nearest_to_them(dtype: str) -> None:
    values = np.random.default_rng(0).standard_normal((4, 5), np.float32)
    if dtype == "float64":
        stored = Tensor.contiguous(ArrayStorage(values.astype(np.float64).data.cast("B")), dtype, values.shape)
    else:
        stored = tensor_of(values, dtype)
    integers, scale = quantize("w", stored, 0)
    expected = parts_of(read_float32(stored).copy(), 0)
    assert np.array_equal(integers.read(), expected[0])
    assert np.array_equal(scale.read(), expected[1])
