"""The bytes that the writer makes: a change of them is a change of the file format, and not made by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xtts_export_callback.checkpoint import Tensor, write_pth, write_safetensors
from xtts_export_callback.tensors.tensor import ArrayStorage

GOLDEN = Path(__file__).parent / "golden"
TENSORS = {
    "gpt.weight": Tensor.contiguous(ArrayStorage(bytes(range(24))), "float32", (2, 3)),
    "gpt.half": Tensor.contiguous(ArrayStorage(b"\x00\x38\x00\xc0"), "float16", (2,)),
    "gpt.bfloat16": Tensor.contiguous(ArrayStorage(b"\x80\x3f\x40\x40"), "bfloat16", (2,)),
    "gpt.counter": Tensor.contiguous(ArrayStorage(bytes(8)), "int64", ()),
    "gpt.empty": Tensor.contiguous(ArrayStorage(b""), "float32", (0, 4)),
}
TENSORS["gpt.tied"] = TENSORS["gpt.weight"]
DOCUMENT: dict[str, Any] = {
    "config": {"languages": ["en", "de"], "lr": 1e-05, "nothing": None, "yes": True, "name": "Gr\u00f6\u00dfe"},
    "step": 1000,
    "model_loss": {"train_loss": 0.5, "eval_loss": None},
}


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_the_writer_makes_the_bytes_that_it_always_made(tmp_path: Path, name: str) -> None:
    if name == "model.pth":
        write_pth(tmp_path / name, {"model": TENSORS, **DOCUMENT})
    else:
        write_safetensors(tmp_path / name, TENSORS, DOCUMENT)

    assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()
