"""Models to merge: complete, of as few and as small tensors as can be, and others beside them as a test wants them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.files import vocabulary
from tests.models.small_decoder import REAL, expecting
from xtts_export_callback.xtts import expected_shapes
from xtts_export_callback.xtts.state_dict import bare_name

EMBEDDING, HEAD, BIAS = "gpt.text_embedding.weight", "gpt.text_head.weight", "gpt.text_head.bias"
TOKENS = 4
WIDTH = 3

COUNTER = "hifigan_decoder.speaker_encoder.bn1.num_batches_tracked"
ARGS = {
    "gpt_layers": 0,
    "gpt_n_model_channels": WIDTH,
    "gpt_n_heads": 1,
    "gpt_max_audio_tokens": -1,
    "gpt_max_text_tokens": -1,
    "gpt_num_audio_tokens": 2,
    "gpt_use_perceiver_resampler": True,
    "decoder_input_dim": 1,
    "d_vector_dim": 1,
    "cond_d_vector_in_each_upsampling_layer": False,
}
CONFIG: dict[str, Any] = {"model_args": ARGS}
_LEAST = {
    "_MEL_CHANNELS": 2,
    "_CONDITIONING_BLOCKS": 0,
    "_PERCEIVER_LAYERS": 0,
    "_PERCEIVER_LATENTS": 1,
    "_UP_CHANNELS": 4,
    "_UP_KERNELS": (),
    "_RESBLOCK_KERNELS": (),
    "_SPEAKER_BLOCKS": (0,),
    "_SPEAKER_FILTERS": (2,),
    "_SPEAKER_MELS": 8,
    "_SPEAKER_WINDOW": 2,
    "_SPEAKER_FFT": 2,
    "_SPEAKER_ATTENTION": 2,
    "_SPEAKER_WIDTH": 2,
}

StateDict = dict[str, torch.Tensor]


_BESIDE: dict[str, tuple[int, ...]] = {}
"""What the models of a test have beside what an XTTS has, which saving them makes known."""


@contextmanager
def least_models() -> Iterator[None]:
    """Have the package expect models of so few parts, and what a test puts beside them."""

    def expected(args: dict[str, Any], text_tokens: int) -> dict[str, tuple[int, ...]]:
        return {**REAL["expected_tensors"](args, text_tokens), **_BESIDE}

    with expecting({**REAL, **_LEAST, "expected_tensors": expected}):
        yield
    _BESIDE.clear()


def _shapes(tokens: int) -> dict[str, tuple[int, ...]]:
    with expecting({**REAL, **_LEAST}):
        return expected_shapes.expected_tensors(ARGS, tokens)


def state_dict(seed: int = 0, *, tokens: int = TOKENS, **more: torch.Tensor) -> StateDict:
    """A complete model with random values and two weights of layers, and others by name (``__`` for dots)."""
    generator = torch.Generator().manual_seed(seed)
    model = {name: torch.randn(shape, generator=generator) for name, shape in _shapes(tokens).items()}
    model |= {f"gpt.gpt.h.{layer}.attn.weight": torch.randn(WIDTH, WIDTH, generator=generator) for layer in (1, 11)}
    model |= {name: torch.tensor(7) for name in model if name.endswith("num_batches_tracked")}
    model[COUNTER] = torch.tensor(100 + seed)
    return {**model, **{name.replace("__", "."): tensor for name, tensor in more.items()}}


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
    known = _shapes(rows)
    named = {bare_name(name): tuple(tensor.shape) for name, tensor in tensors.items()}
    _BESIDE.update({name: shape for name, shape in named.items() if name not in known})
    torch.save({"model": dict(tensors), "config": CONFIG, "step": step, **fields}, path)
    return path


def save_all(folder: Path, models: Sequence[Mapping[str, torch.Tensor]]) -> list[Path]:
    """Save models as ``a/model.pth``, ``b/model.pth`` and so on, so that they are called a, b ..."""
    _BESIDE.clear()
    return [save(folder / chr(ord("a") + index) / "model.pth", model) for index, model in enumerate(models)]


def load(folder: Path) -> StateDict:
    """The weights in an inference folder, read by torch."""
    loaded: StateDict = torch.load(folder / "model.pth", weights_only=True)["model"]
    return loaded


def recipe(paths: Sequence[Path], **keys: Any) -> dict[str, Any]:
    """A recipe as a dict."""
    return {"models": [{"path": str(path)} for path in paths], **keys}
