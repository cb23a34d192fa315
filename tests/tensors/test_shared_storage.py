"""Equal tensors of a file are stored once, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from xtts_export_callback.checkpoint import Tensor, open_checkpoint, write_safetensors
from xtts_export_callback.tensors.shared_storage import tie_equal
from xtts_export_callback.tensors.tensor import BLOCK


def groups(tensors: dict[str, Tensor]) -> list[list[str]]:
    """Names of the tensors that share a storage, each group that has more than one."""
    found: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        found.setdefault(id(tensor.storage), []).append(name)
    return [names for names in found.values() if len(names) > 1]


def model() -> dict[str, torch.Tensor]:
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    return {
        "a": weight,
        "equal": weight.clone(),
        "tied": weight,
        "another": weight + 1,
        "another shape": weight.clone().reshape(4, 3),
        "another type": weight.clone().view(torch.int32),
        "same beginning": torch.cat([weight[:2], weight[:1]]),
        "transposed": weight.clone().t(),
    }


@pytest.mark.parametrize("file_format", ["pth", "safetensors"])
def test_tensors_of_the_same_type_shape_and_elements_are_tied(tmp_path: Path, file_format: str) -> None:
    torch.save({"model": model()}, tmp_path / "model.pth")
    with open_checkpoint(tmp_path / "model.pth") as checkpoint:
        if file_format == "safetensors":
            write_safetensors(tmp_path / "model.safetensors", checkpoint.tensors, {})
    with open_checkpoint(tmp_path / f"model.{file_format}") as checkpoint:
        tied = tie_equal(checkpoint.tensors)
        assert list(tied) == list(checkpoint.tensors)
        assert [sorted(names) for names in groups(tied)] == [["a", "equal", "tied"]]
        for name, tensor in checkpoint.tensors.items():
            assert tied[name].read().tobytes() == tensor.read().tobytes()


def test_tensors_that_differ_in_their_last_element_alone_are_not_tied(tmp_path: Path) -> None:
    long = torch.zeros(BLOCK // 4 + 1)
    other = long.clone()
    other[-1] = 1
    save_file({"a": long, "b": long.clone(), "c": other}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert [sorted(names) for names in groups(tie_equal(checkpoint.tensors))] == [["a", "b"]]


def test_a_view_of_a_part_of_a_storage_stays_as_it_is(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    torch.save({"model": {"part": whole[:3], "its copy": whole[:3].clone()}}, tmp_path / "model.pth")
    with open_checkpoint(tmp_path / "model.pth") as checkpoint:
        assert tie_equal(checkpoint.tensors) == checkpoint.tensors


def test_tensors_without_elements_are_no_trouble(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(0), "b": torch.zeros(0)}}, tmp_path / "model.pth")
    with open_checkpoint(tmp_path / "model.pth") as checkpoint:
        assert list(tie_equal(checkpoint.tensors)) == ["a", "b"]
