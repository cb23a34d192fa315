"""Trainer checkpoints of an XTTS that is complete in itself, with 2 layers of 8 channels and a small decoder: 0.3 MB.

The decoder and the speaker encoder have sizes fixed in coqui-tts, which would make every file 0.1 GB: `small_decoder`
makes `verify` expect smaller ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.files import TRAINER_CONFIG, vocabulary
from xtts_export_callback.schedule import RESUME_KEY
from xtts_export_callback.verification import expected

TOKENS, WIDTH, LAYERS = 6, 8, 2
ARGS = {
    "gpt_layers": LAYERS,
    "gpt_n_model_channels": WIDTH,
    "gpt_n_heads": 2,
    "gpt_max_audio_tokens": 5,
    "gpt_max_text_tokens": 4,
    "gpt_number_text_tokens": TOKENS,
    "gpt_num_audio_tokens": 7,
    "gpt_use_perceiver_resampler": True,
    "decoder_input_dim": WIDTH,
    "d_vector_dim": 4,
}
_SMALL = {"_UP_CHANNELS": 32, "_SPEAKER_FILTERS": (8, 8, 8, 8), "_SPEAKER_ATTENTION": 2, "_SPEAKER_WIDTH": 4}


_REAL = {name: getattr(expected, name) for name in _SMALL}


@contextmanager
def small_decoder() -> Iterator[None]:
    """Have `verify` expect the small decoder and speaker encoder."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _SMALL.items():
            patch.setattr(expected, name, value)
        yield


@contextmanager
def real_decoder() -> Iterator[None]:
    """Undo `small_decoder` for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _REAL.items():
            patch.setattr(expected, name, value)
        yield


def small_state(step: int = 1000) -> dict[str, Any]:
    """What the Trainer saves, for the small model; call it within `small_decoder`."""
    config = json.loads(TRAINER_CONFIG.read_text(encoding="utf-8"))
    config["model_args"].update(ARGS)
    generator = torch.Generator().manual_seed(step)
    model = {}
    for name, shape in expected.expected_tensors(ARGS, TOKENS).items():
        is_counter = name.endswith("num_batches_tracked")
        model[f"xtts.{name}"] = torch.tensor(step) if is_counter else torch.randn(shape, generator=generator)
    model["dvae.codebook.embed"] = torch.randn(4, 4, generator=generator)
    model["torch_mel_spectrogram_dvae.mel_stft.spectrogram.window"] = torch.ones(4)
    trained = [tensor for name, tensor in model.items() if name.startswith("xtts.gpt.")]
    state = {
        number: {"step": torch.tensor(float(step)), "exp_avg": tensor * 0.1, "exp_avg_sq": tensor * tensor}
        for number, tensor in enumerate(trained)
    }
    return {
        "config": config,
        "model": model,
        "optimizer": [{"state": state, "param_groups": [{"lr": 5e-6, "params": list(state)}]}],
        "scheduler": [{"last_epoch": 1}],
        "scaler": None,
        "step": step,
        "epoch": step // 500,
        "date": "January 15, 2024",
        "model_loss": {"train_loss": 1.4, "eval_loss": 1.5},
    }


def without_optimizer(state: dict[str, Any]) -> dict[str, Any]:
    """The same as the callback saves it where optimizer state is not kept."""
    return {**state, "optimizer": [], "scheduler": [], RESUME_KEY: {"learning_rates": [[5e-6]], "schedule": []}}


def write_small(path: Path, state: dict[str, Any] | None = None, *, tokens: int = TOKENS) -> Path:
    """Save a checkpoint as the Trainer does, with a vocabulary beside it and named in its config.

    Args:
        path: The file; ``checkpoint_N.pth`` gets the step N.
        state: What to save; by default `small_state`.
        tokens: Size of the vocabulary.
    """
    step = path.stem.rpartition("_")[2]
    state = state or small_state(int(step) if step.isdigit() else 1000)
    path.parent.mkdir(parents=True, exist_ok=True)
    vocab = path.parent / "vocab.json"
    vocab.write_text(json.dumps(vocabulary(tokens)), encoding="utf-8")
    state["config"]["model_args"]["tokenizer_file"] = str(vocab)
    with path.open("wb") as file:
        torch.save(state, file)
    return path
