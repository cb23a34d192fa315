"""Merged numbers against a reference of higher precision, over random models and recipes."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.generated import SPECIFICATION, bits
from tests.models.least import EMBEDDING, StateDict, load, recipe, save_all, state_dict
from xtts_export_callback import average_checkpoints, merge_checkpoints
from xtts_export_callback.checkpoint import Tensor
from xtts_export_callback.tensors.tensor import ArrayStorage
from xtts_export_callback.tensors.weighted_sum import WeightedSum

pytestmark = pytest.mark.usefixtures("least_models")

_MANTISSA = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24, torch.float64: 53}
_SMALLEST_EXPONENT = {torch.float16: -14, torch.bfloat16: -126, torch.float32: -126, torch.float64: -1022}
_ROUNDING = 2.0**-50
_METHODS = ("linear", "task_arithmetic", "interpolate")


@pytest.fixture(autouse=True)
def _without_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers do not depend on the disk, and waiting for it makes hundreds of examples slow."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Case(NamedTuple):
    """Models of one structure, and what to do with them."""

    models: list[StateDict]
    base: StateDict
    recipe: dict[str, Any]


@st.composite
def layouts(draw: st.DrawFn) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, kind of view and shape of each tensor; what is ``tied`` is the tensor before it under another name."""
    found: list[tuple[str, str, tuple[int, ...]]] = []
    for number in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["plain", "transposed", "strided", "expanded", "tied" if found else "plain"]))
        shape = found[-1][2] if kind == "tied" else draw(st.tuples(st.integers(0, 4), st.integers(1, 5)))
        found.append((f"gpt.gpt.h.{number}.weight", kind, shape))
    return found


def build(layout: list[tuple[str, str, tuple[int, ...]]], dtype: torch.dtype, seed: int) -> StateDict:
    generator = torch.Generator().manual_seed(seed)
    model: StateDict = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in state_dict(seed % 1000).items()
        if not name.startswith("gpt.gpt.h.")
    }
    last = model[EMBEDDING]
    for name, kind, (rows, columns) in layout:
        if kind != "tied":
            scale = 10.0 ** int(torch.randint(-6, 3, (), generator=generator))
            last = (torch.randn((2 * rows, columns), generator=generator, dtype=torch.float64) * scale).to(dtype)
            if kind == "transposed":
                last = last[:rows].clone().reshape(columns, rows).t()
            elif kind == "strided":
                last = last[::2]
            elif kind == "expanded":
                last = last[:1].expand(rows, columns)
            else:
                last = last[:rows].clone()
        model[name] = last
    return model


_WEIGHTS = st.floats(-2, 4).map(lambda value: round(value, 3))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    layout = draw(layouts())
    count = draw(st.integers(2, 4))
    dtypes = draw(st.lists(st.sampled_from(list(_MANTISSA)), min_size=count + 1, max_size=count + 1))
    seeds = draw(st.lists(st.integers(0, 2**31), min_size=count + 1, max_size=count + 1))
    *models, base = [build(layout, dtype, seed) for dtype, seed in zip(dtypes, seeds, strict=True)]

    def settings_of(method: str) -> dict[str, Any]:
        weights = draw(st.lists(_WEIGHTS, min_size=count, max_size=count).filter(lambda found: abs(sum(found)) > 0.2))
        numbers: dict[str, Any] = {"method": method, "weights": weights}
        if method != "linear":
            numbers["scale"] = draw(st.floats(0, 1).map(lambda value: round(value, 2)))
        return numbers

    keys = settings_of(draw(st.sampled_from(_METHODS)))
    rules: list[dict[str, Any]] = []
    if draw(st.booleans()):
        rules.append({"match": "gpt.gpt.h.**", **settings_of(draw(st.sampled_from(_METHODS)))})
    if draw(st.booleans()):
        rules.append({"match": "decoder", "take": draw(st.sampled_from(["a", "b", "base"]))})
    if rules:
        keys["rules"] = rules
    dtype = draw(st.sampled_from([None, "float32", "float16", "bfloat16"]))
    if dtype is not None:
        keys["dtype"] = dtype
    return Case(models, base, keys)


def exact_coefficients(numbers: dict[str, Any]) -> list[np.longdouble]:
    """The formulas of the papers, for the models and the base."""
    weights = np.array(numbers["weights"], np.longdouble)
    weights /= weights.sum()
    if numbers["method"] == "linear":
        return [*weights, np.longdouble(0)]
    scale = np.longdouble(numbers["scale"])
    return [*(scale * weights), 1 - scale]


def settings_for(name: str, keys: dict[str, Any]) -> dict[str, Any]:
    for rule in keys.get("rules", []):
        is_meant = name.startswith("gpt.gpt.h." if rule["match"] == "gpt.gpt.h.**" else "hifigan_decoder.waveform")
        if is_meant:
            return rule  # type: ignore[no-any-return]
    return keys


def half_unit(values: np.ndarray[Any, Any], dtype: torch.dtype) -> np.ndarray[Any, Any]:
    """Half a unit in the last place of ``dtype`` at each value."""
    _, exponents = np.frexp(values.astype(np.float64))
    lowest = np.maximum(exponents - 1, _SMALLEST_EXPONENT[dtype])
    return np.ldexp(1.0, lowest - _MANTISSA[dtype])


@given(cases())
@settings(SPECIFICATION, max_examples=150)
def test_every_element_is_within_half_a_unit_of_the_exact_result(case: Case) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        *paths, base_path = save_all(folder, [*case.models, case.base])
        uses_base = "take: base" if any(rule.get("take") == "base" for rule in case.recipe.get("rules", [])) else ""
        methods = {case.recipe["method"], *(rule.get("method") for rule in case.recipe.get("rules", []))}
        if uses_base or methods & {"task_arithmetic", "interpolate"}:
            case.recipe["base"] = str(base_path)
        merge_checkpoints(recipe(paths, **case.recipe), folder / "merged")
        merged = load(folder / "merged")
    for name, result in merged.items():
        inputs = [model[name] for model in (*case.models, case.base)]
        if not result.is_floating_point():
            continue
        numbers = settings_for(name, case.recipe)
        if "take" in numbers:
            wanted = [float(label == numbers["take"]) for label in ("a", "b", "c", "d")[: len(case.models)]]
            factors = [np.longdouble(one) for one in (*wanted, float(numbers["take"] == "base"))]
        else:
            factors = exact_coefficients(numbers)
        terms = [
            factor * tensor.double().numpy().astype(np.longdouble)
            for factor, tensor in zip(factors, inputs, strict=True)
        ]
        exact = sum(terms[1:], start=terms[0])
        # float64 results are computed as differences, whose rounding is that of the inputs
        sizes = [np.abs(values) for values in (*terms, *(tensor.double().numpy() for tensor in inputs))]
        noise = sum(sizes[1:], start=sizes[0]).astype(np.float64) * _ROUNDING
        difference = np.abs(result.double().numpy().astype(np.longdouble) - exact).astype(np.float64)
        assert (difference <= half_unit(exact, result.dtype) * (1 + 1e-6) + noise).all(), name
        if case.recipe.get("dtype"):
            assert result.dtype == getattr(torch, case.recipe["dtype"])


@given(layouts(), st.sampled_from(list(_MANTISSA)), st.integers(0, 2**31), st.integers(2, 12), st.data())
@settings(SPECIFICATION, max_examples=80)
def test_the_mean_of_copies_is_the_input_bit_for_bit(
    layout: list[tuple[str, str, tuple[int, ...]]], dtype: torch.dtype, seed: int, copies: int, data: st.DataObject
) -> None:
    model = build(layout, dtype, seed)
    weights = data.draw(st.none() | st.lists(st.floats(0.01, 5), min_size=copies, max_size=copies))
    with tempfile.TemporaryDirectory() as name:
        (path,) = save_all(Path(name), [model])
        average_checkpoints([path] * copies, Path(name) / "mean", weights=weights)
        mean = load(Path(name) / "mean")
    assert {name: bits(tensor) for name, tensor in mean.items()} == {name: bits(model[name]) for name in model}


@pytest.mark.parametrize("odd", [1, 3, 5])
@pytest.mark.parametrize("count", [3, 5, 7, 49, 75])  # 49 and 75 times their float64 reciprocals are not 1
def test_a_mean_halfway_between_two_numbers_rounds_to_the_even_one(count: int, odd: int) -> None:
    half = 2.0**-24  # of what lies between two float32 numbers from 1 to 2
    values = [2.0] * (count - 3) + [3.0, 2 - (odd * count - 1) * half, 1 - half]
    tensors = [Tensor.contiguous(ArrayStorage(np.float32(value).tobytes()), "float32", (1,)) for value in values]
    mean = WeightedSum("mean", tensors, [1.0] * count, float(count), tensors[0].dtype)
    (result,) = Tensor.contiguous(mean, "float32", (1,)).read()
    assert math.fsum(values) == count * (2 - odd * half)
    assert result == 2 - 2 * round(odd / 2) * half


@given(layouts(), st.integers(0, 2**31))
@settings(SPECIFICATION, max_examples=30)
def test_ties_stay_ties_and_nothing_else_becomes_one(layout: list[tuple[str, str, tuple[int, ...]]], seed: int) -> None:
    models = [build(layout, torch.float32, seed + index) for index in range(2)]
    with tempfile.TemporaryDirectory() as name:
        average_checkpoints(save_all(Path(name), models), Path(name) / "mean")
        mean = load(Path(name) / "mean")

    def pointers(model: StateDict) -> dict[str, int]:
        return {name: tensor.untyped_storage().data_ptr() for name, tensor in model.items() if tensor.numel()}

    before, after = pointers(models[0]), pointers(mean)
    for one in before:
        for other in before:
            assert (before[one] == before[other]) == (after[one] == after[other])


def angle_between(one: torch.Tensor, other: torch.Tensor) -> float:
    first, second = one.double().flatten().numpy(), other.double().flatten().numpy()
    return math.acos(float(first @ second) / float(np.linalg.norm(first) * np.linalg.norm(second)))


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_slerp_is_shoemakes_formula_on_each_flattened_tensor(tmp_path: Path, t: float) -> None:
    models = [state_dict(seed) for seed in (1, 2)]
    merge_checkpoints(recipe(save_all(tmp_path, models), method="slerp", weights=[1 - t, t]), tmp_path / "merged")
    merged = load(tmp_path / "merged")
    for name, result in merged.items():
        if result.is_floating_point():
            one, other = (model[name].double() for model in models)
            angle = angle_between(one, other)
            expected = (math.sin((1 - t) * angle) * one + math.sin(t * angle) * other) / math.sin(angle)
            torch.testing.assert_close(result, expected.float(), rtol=2**-23, atol=1e-12)


def test_slerp_keeps_the_length_where_the_mean_shrinks_it(tmp_path: Path) -> None:
    models = [state_dict(0, gpt__a=torch.tensor([1.0, 0.0])), state_dict(0, gpt__a=torch.tensor([0.0, 1.0]))]
    merge_checkpoints(recipe(save_all(tmp_path, models), method="slerp"), tmp_path / "merged")
    torch.testing.assert_close(load(tmp_path / "merged")["gpt.a"], torch.full((2,), math.sqrt(0.5)))


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0, 0.0])
def test_slerp_of_parallel_opposite_and_zero_tensors_is_linear(tmp_path: Path, factor: float) -> None:
    one = torch.tensor([1.0, 2.0, 2.0])
    models = [state_dict(0, gpt__a=one), state_dict(0, gpt__a=factor * one)]
    merge_checkpoints(recipe(save_all(tmp_path, models), method="slerp", weights=[3, 1]), tmp_path / "merged")
    torch.testing.assert_close(load(tmp_path / "merged")["gpt.a"], (0.75 + 0.25 * factor) * one)


def ties_of_the_paper(
    base: torch.Tensor, models: list[torch.Tensor], weights: list[float], density: float, scale: float
) -> torch.Tensor:
    """Algorithm 1 of Yadav et al. in loops, with weights."""
    changes = []
    for model in models:
        change = (model.double() - base.double()).flatten().tolist()
        keep = math.ceil(density * len(change))
        smallest_kept = sorted(map(abs, change), reverse=True)[keep - 1]
        changes.append([value if abs(value) >= smallest_kept else 0.0 for value in change])
    merged = []
    for column in zip(*changes, strict=True):
        total = sum(weight * value for weight, value in zip(weights, column, strict=True))
        agreeing = [(weight, value) for weight, value in zip(weights, column, strict=True) if value * total > 0]
        mean = (
            sum(weight * value for weight, value in agreeing) / sum(weight for weight, _ in agreeing) if agreeing else 0
        )
        merged.append(mean)
    return base.double() + scale * torch.tensor(merged, dtype=torch.float64).reshape(base.shape)


@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.floats(0.05, 1.0).map(lambda value: round(value, 2)),
    st.floats(-1, 2).map(lambda value: round(value, 2)),
    st.data(),
)
@settings(SPECIFICATION, max_examples=60)
def test_ties_trims_elects_and_merges_as_in_its_paper(
    seed: int, count: int, density: float, scale: float, data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=count, max_size=count))
    models = [state_dict(seed + index) for index in range(count + 1)]
    with tempfile.TemporaryDirectory() as name:
        *paths, base = save_all(Path(name), models)
        keys = {"method": "ties", "base": str(base), "weights": weights, "density": density, "scale": scale}
        merge_checkpoints(recipe(paths, **keys), Path(name) / "merged")
        merged = load(Path(name) / "merged")
    for name, result in merged.items():
        if result.is_floating_point():
            expected = ties_of_the_paper(
                models[-1][name], [model[name] for model in models[:-1]], weights, density, scale
            )
            torch.testing.assert_close(result, expected.float(), rtol=2**-23, atol=1e-12)


def test_task_arithmetic_without_normalising_adds_the_task_vectors(tmp_path: Path) -> None:
    models = [state_dict(seed) for seed in range(3)]
    *paths, base = save_all(tmp_path, models)
    keys = {"method": "task_arithmetic", "base": str(base), "normalize": False, "scale": 0.4}
    merge_checkpoints(recipe(paths, **keys), tmp_path / "merged")
    merged = load(tmp_path / "merged")
    for name, result in merged.items():
        if result.is_floating_point():
            first, second, start = (model[name].double() for model in models)
            expected = start + 0.4 * ((first - start) + (second - start))
            torch.testing.assert_close(result, expected.float(), rtol=2**-22, atol=1e-12)


@pytest.mark.parametrize(("scale", "winner"), [(0.0, 1), (1.0, 0)])
def test_interpolating_all_the_way_gives_an_end_bit_for_bit(tmp_path: Path, scale: float, winner: int) -> None:
    models = [state_dict(seed) for seed in (1, 2)]
    path, base = save_all(tmp_path, models)
    merge_checkpoints(recipe([path], method="interpolate", base=str(base), scale=scale), tmp_path / "merged")
    merged = load(tmp_path / "merged")
    assert all(torch.equal(merged[name], models[winner][name]) for name in merged)
