"""Rounding to the types of a model: once, to nearest, ties to even, against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.generated import SPECIFICATION
from xtts_export_callback.tensors.dtypes import BY_NAME, BY_STORAGE, CASTS, from_float32, from_float64, to_float64


class Format(NamedTuple):
    """A binary floating-point format.

    Attributes:
        precision: Bits of the significand, the hidden one included.
        emin: Exponent of the smallest normal number, 2**emin.
        emax: Exponent of the largest binade.
    """

    precision: int
    emin: int
    emax: int


FORMATS = {"float32": Format(24, -126, 127), "float16": Format(11, -14, 15), "bfloat16": Format(8, -126, 127)}


def rounded(value: float, form: Format) -> float:
    """``value`` rounded to nearest with ties to even, in exact arithmetic."""
    if math.isnan(value) or math.isinf(value) or value == 0:
        return value
    magnitude = abs(Fraction(value))
    exponent = max(math.frexp(value)[1] - 1, form.emin)
    unit = Fraction(2) ** (exponent - form.precision + 1)
    nearest = round(magnitude / unit) * unit  # Python rounds halves to even
    largest = (2 - Fraction(2) ** (1 - form.precision)) * Fraction(2) ** form.emax
    return math.copysign(math.inf if nearest > largest else float(nearest), value)


def is_same(first: float, second: float) -> bool:
    """Equal, with the sign of zero and NaN for NaN."""
    both_nan = math.isnan(first) and math.isnan(second)
    return both_nan or (first == second and math.copysign(1, first) == math.copysign(1, second))


def assert_rounds_exactly(values: list[float], name: str) -> None:
    array = np.array(values, np.float64)
    found = to_float64(from_float64(array, BY_NAME[name]), BY_NAME[name]).tolist()
    expected = [rounded(value, FORMATS[name]) for value in values]
    wrong = [case for case in zip(values, found, expected, strict=True) if not is_same(case[1], case[2])]
    assert not wrong, f"{len(wrong)} wrong, the first {wrong[0]}"


def near(value: float) -> list[float]:
    """A value, its two neighbours in float64, and the negatives of all three."""
    three = [math.nextafter(value, -math.inf), value, math.nextafter(value, math.inf)]
    return [*three, *(-one for one in three)]


@given(values=st.lists(st.floats(width=64), min_size=1, max_size=50))
@settings(SPECIFICATION, max_examples=100)
@pytest.mark.parametrize("name", FORMATS)
def test_any_value_is_rounded_to_the_nearest(name: str, values: list[float]) -> None:
    assert_rounds_exactly(values, name)


@given(
    values=st.lists(
        st.builds(
            lambda significand, exponent, nudge: (significand + nudge) * 2.0**exponent,
            st.integers(1, 2**25),
            st.integers(-160, 140),
            st.sampled_from([0.0, 0.5, 0.5 - 2**-25, 0.5 + 2**-25, 2**-25, 1 - 2**-25]),
        ),
        min_size=1,
        max_size=50,
    )
)
@settings(SPECIFICATION, max_examples=100)
@pytest.mark.parametrize("name", FORMATS)
def test_a_value_on_or_beside_a_tie_is_rounded_to_the_nearest(name: str, values: list[float]) -> None:
    assert_rounds_exactly(values, name)


@pytest.mark.parametrize("name", FORMATS)
def test_the_limits_of_a_type_are_rounded_exactly(name: str) -> None:
    form = FORMATS[name]
    smallest = 2.0 ** (form.emin - form.precision + 1)
    largest = (2 - 2.0 ** (1 - form.precision)) * 2.0**form.emax
    overflow = (2 - 2.0**-form.precision) * 2.0**form.emax
    interesting = [
        0.0,
        smallest,
        smallest / 2,
        smallest * 1.5,
        2.0**form.emin,
        largest,
        overflow,
        2.0 ** (form.emax + 1),
    ]
    values = [one for value in interesting for one in near(value)]
    assert_rounds_exactly([*values, math.inf, -math.inf, math.nan, 1e308, -1e308, 5e-324], name)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_tie_between_neighbours_goes_to_the_even_one(name: str) -> None:
    bits = np.arange(np.float16(np.inf).view(np.uint16) if name == "float16" else 0x7F80, dtype=np.uint16)
    values = to_float64(bits.view(BY_NAME[name].numpy), BY_NAME[name])
    middles = (values[:-1] + values[1:]) / 2  # exact: float64 has the bits to spare
    even = np.where(bits[:-1] % 2 == 0, bits[:-1], bits[1:])
    for sign, sign_bit in ((1.0, 0), (-1.0, 0x8000)):
        for beside, expected in (
            (middles, even),
            (np.nextafter(middles, 0), bits[:-1]),
            (np.nextafter(middles, np.inf), bits[1:]),
            (values[:-1], bits[:-1]),
        ):
            found = from_float64(sign * beside, BY_NAME[name]).view(np.uint16)
            assert np.array_equal(found, expected | np.uint16(sign_bit))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_half_precision_value_survives_the_way_through_float64(name: str) -> None:
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    values = to_float64(bits.view(BY_NAME[name].numpy), BY_NAME[name])
    expected = torch.from_numpy(bits.view(np.int16)).view(getattr(torch, name)).double().numpy()
    np.testing.assert_array_equal(values, expected)
    back = from_float64(values, BY_NAME[name]).view(np.uint16)
    is_number = ~np.isnan(values)
    assert np.array_equal(back[is_number], bits[is_number])
    assert np.isnan(to_float64(back.view(BY_NAME[name].numpy), BY_NAME[name])[~is_number]).all()


@pytest.mark.parametrize("name", CASTS)
def test_rounding_keeps_the_shape(name: str) -> None:
    for shape in ((), (0,), (2, 0, 3), (2, 3)):
        assert from_float64(np.zeros(shape), BY_NAME[name]).shape == shape


@pytest.mark.parametrize("name", FORMATS)
def test_overflow_and_underflow_pass_without_a_warning(name: str) -> None:
    with np.errstate(all="raise"):
        found = from_float64(np.array([1e300, -1e300, 1e-300, np.nan]), BY_NAME[name])
    assert np.isinf(to_float64(found, BY_NAME[name])[:2]).all()


def test_the_table_agrees_with_torch() -> None:
    known = [dtype for dtype in BY_NAME.values() if hasattr(torch, dtype.name)]  # torch 2.1 lacks some
    for dtype in known:
        torch_type = getattr(torch, dtype.name)
        assert torch_type.itemsize == dtype.itemsize == np.dtype(dtype.numpy).itemsize
        assert torch_type.is_floating_point == dtype.is_float or "float8" in dtype.name
    for storage, dtype in BY_STORAGE.items():
        assert getattr(torch, storage)._dtype == getattr(torch, dtype.name)


@given(st.lists(st.floats(width=32, allow_subnormal=True), min_size=1, max_size=50))
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_from_float32_is_from_float64_of_the_same_numbers(name: str, numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    direct = from_float32(values, BY_NAME[name])
    assert np.array_equal(direct.view(np.uint8), from_float64(values.astype(np.float64), BY_NAME[name]).view(np.uint8))
