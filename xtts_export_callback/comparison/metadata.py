"""What differs between two models besides their weights: configuration and vocabulary."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from xtts_export_callback.assets import (
    _LOCAL_FIELDS,
    _LOCAL_MODEL_ARGS,
    clean_config,
    find_assets,
    read_json_object,
    vocab_tokens,
)
from xtts_export_callback.checkpoint.layout import TEXT_EMBEDDING
from xtts_export_callback.checkpoint.read import MODEL_NAMES
from xtts_export_callback.errors import ConfigError

if TYPE_CHECKING:
    from xtts_export_callback.checkpoint import Checkpoint
    from xtts_export_callback.checkpoint.tensor import Tensor


class Absent:
    """Stands for the value of a field that a config does not have; the string ``"(absent)"`` is another thing."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = Absent()


def config_differences(a: Checkpoint, b: Checkpoint) -> dict[str, tuple[Any, Any]] | None:
    """Values in A and B, `ABSENT` where there is none, by field where they differ; None where one has no config.

    Raises:
        ConfigError: When a config beside a checkpoint is no JSON object.
    """
    configs = []
    for checkpoint in (a, b):
        config = config_of(checkpoint)
        if not config:
            return None
        configs.append(_flat(_without_local_fields(config)))
    names = dict.fromkeys((*configs[0], *configs[1]))
    pairs = {name: (configs[0].get(name, ABSENT), configs[1].get(name, ABSENT)) for name in names}
    return {name: pair for name, pair in pairs.items() if not _same_value(*pair)}


def config_pair(pair: tuple[Any, Any]) -> dict[str, Any]:
    """Two values for JSON: ``{"a": ..., "b": ...}`` without the side that lacks the field."""
    return {side: value for side, value in zip("ab", pair, strict=True) if value is not ABSENT}


def _without_local_fields(config: dict[str, Any]) -> dict[str, Any]:
    """What an export blanks says nothing about a model, whether it is there or not."""
    cleaned = clean_config(config, 0)  # an export fills in the number of text tokens
    args = {key: value for key, value in cleaned["model_args"].items() if key not in _LOCAL_MODEL_ARGS}
    return {key: value for key, value in cleaned.items() if key not in _LOCAL_FIELDS} | {"model_args": args}


def config_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config in a checkpoint, or else the one beside a ``model.pth``; empty where there is none.

    Raises:
        ConfigError: When the one beside it is no JSON object.
    """
    inside = checkpoint.document.get("config")
    if isinstance(inside, dict) and inside:
        return inside
    beside = checkpoint.path.with_name("config.json")
    return read_json_object(beside) if checkpoint.path.name in MODEL_NAMES and beside.is_file() else {}


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
            content = find_assets(checkpoint, tensors).vocab_bytes if TEXT_EMBEDDING in tensors else None
        except ConfigError:
            content = None
        if content is None:
            return None
        found.append(vocab_tokens(content, str(checkpoint.path)))
    mine, other = found
    return {
        "only_a": sorted(mine.keys() - other.keys(), key=mine.__getitem__),
        "only_b": sorted(other.keys() - mine.keys(), key=other.__getitem__),
        "moved": sorted((token for token, row in mine.items() if other.get(token, row) != row), key=mine.__getitem__),
    }
