"""The hash of a file's tensors depends on every byte, name, type and shape of them, and on nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.models.generated import StateDict
from xtts_export_callback.checkpoint import open_checkpoint, write_pth, write_safetensors
from xtts_export_callback.checkpoint.fingerprint import content_digest
from xtts_export_callback.verification.contents import content_faults

SIZE = 3000


def model() -> StateDict:
    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(SIZE, generator=generator)
    tied = torch.randn(20, generator=generator)
    return {"empty": torch.zeros(0, 3), "whole": whole, "tied": tied, "too": tied, "view": whole.view(30, 100)[3:9].t()}


def written(folder: Path, state: StateDict, suffix: str = ".pth") -> tuple[Path, str | None]:
    """A file of ours with these tensors, and the hash that was taken while it was written."""
    source, target = folder / "source.pth", folder / f"target{suffix}"
    torch.save({"model": state}, source)
    digests: dict[int, bytes] = {}
    with open_checkpoint(source) as checkpoint:
        if suffix == ".pth":
            write_pth(target, {"model": checkpoint.tensors}, force=True, digests=digests)
        else:
            write_safetensors(target, checkpoint.tensors, {}, force=True, digests=digests)
    with open_checkpoint(target) as found:
        return target, content_digest(found.stored, digests)


def read(path: Path) -> str | None:
    """The hash of a file's tensors, as `verify` takes it."""
    digests: dict[int, bytes] = {}
    with open_checkpoint(path) as checkpoint:
        content_faults(checkpoint, digests=digests)
        return content_digest(checkpoint.stored, digests)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_was_written_is_what_is_read(tmp_path: Path, suffix: str) -> None:
    path, taken = written(tmp_path, model(), suffix)
    assert taken is not None
    assert read(path) == taken


def test_an_equal_model_has_an_equal_hash(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert written(tmp_path / "a", model())[1] == written(tmp_path / "b", model())[1]


OTHER: Mapping[str, StateDict] = {
    "name": {"a": torch.ones(6)},
    "shape": {"w": torch.ones(2, 3)},
    "type": {"w": torch.ones(6).view(torch.int32)},
    "order": {"w": torch.arange(6.0).reshape(2, 3).t()},
    "value": {"w": torch.tensor([1.0, 1, 1, 1, 1, -1])},
}


@pytest.mark.parametrize("kind", OTHER)
def test_another_model_has_another_hash(tmp_path: Path, kind: str) -> None:
    assert written(tmp_path, {"w": torch.ones(6)})[1] != written(tmp_path, OTHER[kind])[1]


@given(position=st.integers(0, 4 * SIZE - 1), bit=st.integers(0, 7))
def test_every_bit_counts(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int) -> None:
    path, taken = written(tmp_path_factory.mktemp("bit"), {"whole": model()["whole"]}, ".safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) - 4 * SIZE + position] ^= 1 << bit
    path.write_bytes(content)
    assert read(path) not in (taken, None)


def test_a_tensor_that_nobody_read_leaves_no_hash(tmp_path: Path) -> None:
    path, _ = written(tmp_path, model())
    with open_checkpoint(path) as checkpoint:
        assert content_digest(checkpoint.stored, {}) is None
