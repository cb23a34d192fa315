"""Trainer checkpoints of an XTTS that is complete in itself, with 2 layers of 8 channels and a small decoder: 0.3 MB.

Their decoder and speaker encoder are those of `small_decoder`, which every test expects that trains no real model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.files import TRAINER_CONFIG, vocabulary
from tests.models.small_decoder import ARGS, TOKENS
from xtts_export_callback.run.lr_schedule import RESUME_KEY
from xtts_export_callback.xtts.expected_shapes import expected_tensors


def small_state(step: int = 1000, args: dict[str, Any] = ARGS) -> dict[str, Any]:
    """What the Trainer saves, for the small model; call it where `small_decoder` is expected."""
    config = json.loads(TRAINER_CONFIG.read_text(encoding="utf-8"))
    config["model_args"].update(args)
    generator = torch.Generator().manual_seed(step)
    model = {}
    for name, shape in expected_tensors(args, TOKENS).items():
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


def with_older_names(state: dict[str, Any]) -> dict[str, Any]:
    """The same with the names that ``torch.nn.utils.weight_norm`` gives, as in checkpoints of 2023."""
    older = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    model = {}
    for name, tensor in state["model"].items():
        module, _, last = name.rpartition(".parametrizations.")
        model[f"{module}.{older[f'parametrizations.{last}']}" if module else name] = tensor
    assert model.keys() != state["model"].keys()
    return {**state, "model": model}


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
