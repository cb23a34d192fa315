"""Generated models and files that the specifications of reading and writing share."""

from __future__ import annotations

import io
import math
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from xtts_export_callback.checkpoint import Tensor

SPECIFICATION = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""Settings for every property: the same examples each time, however slow the machine."""

StateDict: TypeAlias = dict[str, torch.Tensor]

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
LATER_INTEGERS = [getattr(torch, name) for name in ("uint16", "uint32", "uint64") if hasattr(torch, name)]  # torch 2.3
COMPLEX = [torch.complex64, torch.complex128]
DTYPES = [*FLOATS, *INTEGERS, *LATER_INTEGERS, *COMPLEX]

FILE_NAMES = ["checkpoint_1000.pth", "model.v2.0.3.pth", "best model.pth", "modèle.pth", "archive", "data.pkl.pth"]


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """A contiguous tensor of random bits, NaN payloads and all."""
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    bits = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    if dtype == torch.bool:
        bits &= 1
    return torch.from_numpy(bits).view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> bytes:
    """The elements in row-major order."""
    flat = tensor.detach().reshape(-1).clone(memory_format=torch.contiguous_format)  # also of one element with stride 0
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""


_SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
_SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES) -> torch.Tensor:
    """One tensor: plain, transposed, expanded, a slice or a window of a larger storage, a parameter ..."""
    dtype = draw(st.sampled_from(dtypes))
    base = random_tensor(dtype, draw(_SHAPES), draw(_SEEDS))
    kind = draw(st.sampled_from(["plain", "permuted", "expanded", "sliced", "strided", "windows", "0-d", "empty"]))
    if kind == "permuted":
        base = base.permute(draw(st.permutations(range(base.dim()))))
    elif kind == "expanded":
        base = base.unsqueeze(0).expand(draw(st.integers(0, 5)), *base.shape)
    elif kind == "sliced":
        base = random_tensor(dtype, (7, 5), draw(_SEEDS))[draw(st.integers(0, 6)) :, draw(st.integers(0, 4)) :]
    elif kind == "strided":
        base = random_tensor(dtype, (9, 4), draw(_SEEDS))[:: draw(st.integers(1, 4)), :: draw(st.integers(1, 3))]
    elif kind == "windows":
        base = random_tensor(dtype, (8,), draw(_SEEDS)).unfold(0, draw(st.integers(1, 5)), draw(st.integers(1, 3)))
    elif kind == "0-d":
        base = random_tensor(dtype, (3,), draw(_SEEDS))[draw(st.integers(0, 2))]
    elif kind == "empty":
        base = random_tensor(dtype, (4, 3), draw(_SEEDS))[2:2]
    wrapped = draw(st.sampled_from(["no", "no", "parameter", "attributes"]))
    if wrapped == "parameter":
        base = torch.nn.Parameter(base, requires_grad=dtype in FLOATS)
        if draw(st.booleans()):
            base.tag = "kept by torch"  # type: ignore[attr-defined]
    elif wrapped == "attributes":
        base.tag = ["kept by torch"]  # type: ignore[attr-defined]
    return base


@st.composite
def state_dicts(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES) -> StateDict:
    """A state_dict whose tensors may be tied, or views of each other's storage."""
    names = draw(st.lists(_NAMES, min_size=1, max_size=6, unique=True))
    model: StateDict = {}
    for name in names:
        earlier = list(model.values())
        how = draw(st.sampled_from(["own", "own", "tied", "view"])) if earlier else "own"
        if how == "own":
            model[name] = draw(tensors(dtypes))
            continue
        other = draw(st.sampled_from(earlier))
        is_view = how == "view" and other.dim() > 0
        model[name] = other.detach()[..., : draw(st.integers(0, 3))] if is_view else other
    return model


_NAMES = st.one_of(
    st.sampled_from(["xtts.gpt.wte.weight", "gpt.h.1.attn.bias", "model", "a/b", "data.pkl", "größe", "0", ""]),
    st.text("abcxyz._0123456789é", max_size=12),
)

documents: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.tuples(st.integers(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
"""Plain values as they stand beside a state_dict."""


def with_metadata(model: StateDict) -> OrderedDict[str, torch.Tensor]:
    """As ``Module.state_dict`` returns it."""
    ordered = OrderedDict(model)
    ordered._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    return ordered


def as_lists(value: Any) -> Any:
    """With lists for tuples, which is how documents are read."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def assert_same_model(found: Mapping[str, Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Same names in the same order, each with the same dtype, shape, strides, offset and bits; the same sharing."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        view = found[name]
        described = (view.dtype.name, view.shape, view.stride, view.offset)
        assert described == (
            str(tensor.dtype).removeprefix("torch."),
            tuple(tensor.shape),
            tensor.stride(),
            tensor.storage_offset(),
        )
        assert view.storage.nbytes == tensor.untyped_storage().nbytes()
        assert view.read().shape == view.shape
        assert view.read().tobytes() == bits(tensor), name
    storages = {name: id(view.storage) for name, view in found.items() if view.storage.nbytes}
    assert _sharing(storages) == sharing(expected)


def sharing(model: Mapping[str, torch.Tensor]) -> set[frozenset[str]]:
    """Which names have their storage in common."""
    storages = {name: tensor.untyped_storage() for name, tensor in model.items()}
    return _sharing({name: storage.data_ptr() for name, storage in storages.items() if storage.nbytes()})


def _sharing(storages: Mapping[str, int]) -> set[frozenset[str]]:
    return {frozenset(name for name in storages if storages[name] == storage) for storage in storages.values()}


def assert_same_values(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Same names, dtypes, shapes and bits, whatever the layout."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(found[name]) == bits(tensor), name


SAVES_WITHOUT_CHECKSUMS = hasattr(torch.serialization, "set_crc32_options")  # torch 2.6


@contextmanager
def no_checksums() -> Iterator[None]:
    """Have torch save without checksums, as some do to save time."""
    if not SAVES_WITHOUT_CHECKSUMS:
        pytest.skip("this torch saves with checksums only")
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(True)


def save_through_handle(value: Any, path: Path, **options: Any) -> None:
    """``torch.save`` to an open file: the records then lie under ``archive`` whatever the file is called."""
    with path.open("wb") as handle:
        torch.save(value, handle, **options)


def save_by_path_and_rename(value: Any, path: Path, **options: Any) -> None:
    """``torch.save`` under another name: the records keep it."""
    other = path.with_name("renamed_later.pth")
    torch.save(value, other, **options)
    other.replace(path)


WAYS_TO_SAVE: dict[str, Callable[..., None]] = {
    "by path": torch.save,
    "through a handle": save_through_handle,
    "renamed": save_by_path_and_rename,
}


def zip_of(records: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these records."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return out.getvalue()
