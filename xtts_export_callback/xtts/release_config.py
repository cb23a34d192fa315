"""The config of the official release, for a file without one whose shapes are those of the release.

Shapes show every size but the number of attention heads. All models of 30 layers with 1024 channels come from the
release, by way of Coqui's recipe, and have its 16 heads.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from xtts_export_callback.xtts.loadable import guessed_args

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from xtts_export_callback.tensors.tensor import Tensor

RELEASE_PAGE = "https://huggingface.co/coqui/XTTS-v2/tree"
REVISIONS = {6153: "v2.0.2", 6681: "main"}
"""Where the files of a release lie, by the number of its text tokens."""

_SHAPE = {"gpt_layers": 30, "gpt_n_model_channels": 1024, "gpt_use_perceiver_resampler": True}
_CONFIG: dict[str, Any] = {
    "model": "xtts",
    "languages": [
        "en",
        "es",
        "fr",
        "de",
        "it",
        "pt",
        "pl",
        "tr",
        "ru",
        "nl",
        "cs",
        "ar",
        "zh-cn",
        "hu",
        "ko",
        "ja",
        "hi",
    ],
    "temperature": 0.75,
    "length_penalty": 1.0,
    "repetition_penalty": 5.0,
    "top_k": 50,
    "top_p": 0.85,
    "num_gpt_outputs": 1,
    "gpt_cond_len": 30,
    "gpt_cond_chunk_len": 4,
    "max_ref_len": 30,
    "sound_norm_refs": False,
    "audio": {"sample_rate": 22050, "output_sample_rate": 24000},
    "model_args": {
        "gpt_batch_size": 1,
        "enable_redaction": False,
        "kv_cache": True,
        "num_chars": 255,
        "gpt_max_prompt_tokens": 70,
        "gpt_n_heads": 16,
        "gpt_start_text_token": None,
        "gpt_stop_text_token": None,
        "gpt_code_stride_len": 1024,
        "gpt_use_masking_gt_prompt_approach": True,
        "input_sample_rate": 22050,
        "output_sample_rate": 24000,
        "output_hop_length": 256,
        "duration_const": 102400,
    },
}
"""What inference reads of ``config.json`` in coqui/XTTS-v2; the sizes come from the shapes."""


def config_from_shapes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the release's config with the sizes of a model; empty where the model is not one of the release's kind.

    Args:
        tensors: The inference model by bare names.
    """
    sizes = guessed_args(tensors)
    if any(sizes.get(key) != value for key, value in _SHAPE.items()) or None in sizes.values():
        return {}
    config = copy.deepcopy(_CONFIG)
    codes = sizes["gpt_num_audio_tokens"]  # the last two rows of the embedding start and stop a clip
    config["model_args"] |= {**sizes, "gpt_start_audio_token": codes - 2, "gpt_stop_audio_token": codes - 1}
    return config


def spoken_languages(config: dict[str, Any], tokens: Collection[str]) -> dict[str, Any]:
    """Leave only the languages that a vocabulary has a token for, such as ``[en]``; all of them where it has none."""
    there = [code for code in config["languages"] if f"[{code}]" in tokens]
    return {**config, "languages": there or config["languages"]}


def where_to_get(rows: int) -> str:
    """Say where the config and the vocabulary of a model with that many text tokens may be found."""
    revision = REVISIONS.get(rows)
    release = f", or, for the release's tokens, at {RELEASE_PAGE}/{revision}" if revision else ""
    return f"an export of the run that trained it holds both{release}"
