"""Compares the configuration and the vocabulary of two models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.xtts.assets import find_assets
from xtts_export_callback.xtts.model_config import clean_config, find_config, model_args
from xtts_export_callback.xtts.state_dict import TEXT_EMBEDDING
from xtts_export_callback.xtts.vocab import read_vocabulary

if TYPE_CHECKING:
    from xtts_export_callback.checkpoint import Checkpoint
    from xtts_export_callback.tensors.tensor import Tensor


# Fields of TrainerConfig, BaseTTSConfig and GPTArgs with paths of the training machine or options of the export,
# which say nothing about a model. An export fills in the number of text tokens.
_LOCAL_FIELDS = {
    *("output_path", "logger_uri", "datasets", "test_sentences", "restore_path", "github_branch", "phoneme_cache_path"),
    *("export", "trainer_args", "model"),
}
_LOCAL_ARGS = {
    *("tokenizer_file", "mel_norm_file", "dvae_checkpoint", "xtts_checkpoint", "gpt_checkpoint", "clvp_checkpoint"),
    *("decoder_checkpoint", "vocoder", "gpt_number_text_tokens"),
}


class Absent:
    """Stands for the value of a field that a config lacks, and differs from the string ``"(absent)"``."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = Absent()


def config_differences(a: Checkpoint, b: Checkpoint) -> dict[str, tuple[Any, Any]] | None:
    """Values in A and B, `ABSENT` where there is none, by field where they differ; None where one has no config.

    Raises:
        ConfigError: When a config beside a checkpoint is not a JSON object.
    """
    found = [find_config(checkpoint) for checkpoint in (a, b)]
    if not all(found):
        return None
    if any(config == clean_config(config, model_args(config).get("gpt_number_text_tokens", 0)) for config in found):
        found = [clean_config(config, 0) for config in found]  # one comes from an export, which has no other fields
    configs = [_flat(_without_local_fields(config)) for config in found]
    names = dict.fromkeys((*configs[0], *configs[1]))
    pairs = {name: (configs[0].get(name, ABSENT), configs[1].get(name, ABSENT)) for name in names}
    return {name: pair for name, pair in pairs.items() if not _same_value(*pair)}


def config_pair(pair: tuple[Any, Any]) -> dict[str, Any]:
    """Two values for JSON: ``{"a": ..., "b": ...}`` without the side that lacks the field."""
    return {side: value for side, value in zip("ab", pair, strict=True) if value is not ABSENT}


def _without_local_fields(config: dict[str, Any]) -> dict[str, Any]:
    args = {key: value for key, value in model_args(config).items() if key not in _LOCAL_ARGS}
    return {key: value for key, value in config.items() if key not in _LOCAL_FIELDS} | {"model_args": args}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _same_value(a: Any, b: Any) -> bool:
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def vocabulary_differences(
    a: tuple[Checkpoint, dict[str, Tensor]], b: tuple[Checkpoint, dict[str, Tensor]]
) -> dict[str, list[str]] | None:
    """Tokens ``only_a`` and ``only_b`` has and those ``moved`` to another row; None where a vocabulary is missing."""
    found = []
    for checkpoint, tensors in (a, b):
        try:
            if TEXT_EMBEDDING not in tensors:
                return None
            found.append(read_vocabulary(find_assets(checkpoint, tensors).vocab, str(checkpoint.path)).tokens)
        except ConfigError:
            return None
    mine, other = found
    return {
        "only_a": sorted(mine.keys() - other.keys(), key=mine.__getitem__),
        "only_b": sorted(other.keys() - mine.keys(), key=other.__getitem__),
        "moved": sorted((token for token, row in mine.items() if other.get(token, row) != row), key=mine.__getitem__),
    }
