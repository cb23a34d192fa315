"""Small models to merge: the real names that matter, shapes and values as a test wants them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.files import vocabulary

EMBEDDING, HEAD, BIAS = "gpt.text_embedding.weight", "gpt.text_head.weight", "gpt.text_head.bias"
TOKENS = 4
WIDTH = 3

StateDict = dict[str, torch.Tensor]


def state_dict(seed: int = 0, *, tokens: int = TOKENS, **more: torch.Tensor) -> StateDict:
    """The fewest tensors that make an XTTS model, with random values, and others by name (``__`` for dots)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        EMBEDDING: normal(tokens, WIDTH),
        HEAD: normal(tokens, WIDTH),
        BIAS: normal(tokens),
        "gpt.mel_embedding.weight": normal(2, WIDTH),
        "gpt.gpt.h.1.attn.weight": normal(WIDTH, WIDTH),
        "gpt.gpt.h.11.attn.weight": normal(WIDTH, WIDTH),
        "gpt.conditioning_encoder.init.weight": normal(WIDTH),
        "gpt.conditioning_perceiver.latents": normal(WIDTH),
        "hifigan_decoder.waveform_decoder.conv_pre.weight": normal(2, 2),
        "hifigan_decoder.speaker_encoder.fc.weight": normal(2, 2),
        "hifigan_decoder.speaker_encoder.bn.num_batches_tracked": torch.tensor(100 + seed),
        **{name.replace("__", "."): tensor for name, tensor in more.items()},
    }


def save(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    step: int | None = None,
    vocab: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """Save a model with a config and a vocabulary that fits, each model in a folder of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = next(tensor.shape[0] for name, tensor in tensors.items() if name.endswith(EMBEDDING))
    content = vocab if vocab is not None else vocabulary(rows)
    (path.parent / "vocab.json").write_text(json.dumps(content), encoding="utf-8")
    torch.save({"model": dict(tensors), "config": {"model_args": {}}, "step": step, **fields}, path)
    return path


def save_all(folder: Path, models: Sequence[Mapping[str, torch.Tensor]]) -> list[Path]:
    """Save models as ``a/model.pth``, ``b/model.pth`` and so on, so that they are called a, b ..."""
    return [save(folder / chr(ord("a") + index) / "model.pth", model) for index, model in enumerate(models)]


def load(folder: Path) -> StateDict:
    """The weights in an inference folder, read by torch."""
    loaded: StateDict = torch.load(folder / "model.pth", weights_only=True)["model"]
    return loaded


def recipe(paths: Sequence[Path], **keys: Any) -> dict[str, Any]:
    """A recipe as a dict."""
    return {"models": [{"path": str(path)} for path in paths], **keys}
