"""Find the config of a model, and reduce it to the fields that an inference folder carries."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import read_json_object
from xtts_export_callback.files.paths import can_be_path

if TYPE_CHECKING:
    from xtts_export_callback.checkpoint.reader import Checkpoint

CONFIG_FILE = "config.json"

# What Xtts, Synthesizer and the tokenizer read: the fields of TTS.tts.configs.xtts_config in TTS 0.22.0 and coqui-tts
# 0.24.2, 0.27.5 and 0.28.0 (up to 0.27 there is also `model_dir`, a path). All but `languages` are numbers and
# switches. Everything else in a training config (data sets, paths, loggers and their credentials, notes, the user's own
# fields) is left out.
CONFIG_NUMBERS = frozenset({
    "_supports_cloning",
    "temperature",
    "length_penalty",
    "repetition_penalty",
    "top_k",
    "top_p",
    "num_gpt_outputs",
    "gpt_cond_len",
    "gpt_cond_chunk_len",
    "max_ref_len",
    "sound_norm_refs",
})  # fmt: skip
"""Fields of ``XttsConfig``."""

ARGS_NUMBERS = frozenset({
    "gpt_batch_size",
    "enable_redaction",
    "kv_cache",
    "num_chars",
    "gpt_max_audio_tokens",
    "gpt_max_text_tokens",
    "gpt_max_prompt_tokens",
    "gpt_layers",
    "gpt_n_model_channels",
    "gpt_n_heads",
    "gpt_number_text_tokens",
    "gpt_start_text_token",
    "gpt_stop_text_token",
    "gpt_num_audio_tokens",
    "gpt_start_audio_token",
    "gpt_stop_audio_token",
    "gpt_code_stride_len",
    "gpt_use_masking_gt_prompt_approach",
    "gpt_use_perceiver_resampler",
    "input_sample_rate",
    "output_sample_rate",
    "output_hop_length",
    "decoder_input_dim",
    "d_vector_dim",
    "cond_d_vector_in_each_upsampling_layer",
    "duration_const",
})  # fmt: skip
"""Fields of ``XttsArgs``, the ``model_args``."""

AUDIO_NUMBERS = frozenset({"sample_rate", "output_sample_rate", "dvae_sample_rate"})
"""Fields of ``XttsAudioConfig``, the ``audio``."""

ARGS_PATHS = frozenset({"tokenizer_file", "gpt_checkpoint", "clvp_checkpoint", "decoder_checkpoint"})
"""Paths among the fields of ``XttsArgs``; an inference folder has them empty."""

_LANGUAGE = r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8}){0,2}"  # en, zh-cn, pt_BR, hi-Latn-IN
_LARGEST = 1 << 63


def find_config(checkpoint: Checkpoint, explicit: Path | None = None) -> dict[str, Any]:
    """Return the config of a model: the named file, or else the one in the checkpoint, or else the one beside it.

    Args:
        checkpoint: The model.
        explicit: A ``config.json`` to use in place of its own.

    Returns:
        The config, empty where there is none.

    Raises:
        ConfigError: When the chosen file is not a JSON object.
    """
    if explicit is not None:
        return read_json_object(explicit)
    inside = checkpoint.document.get("config")
    if isinstance(inside, dict) and inside:
        return inside
    beside = (place.with_name(CONFIG_FILE) for place in places(checkpoint.path))
    found = next((path for path in beside if path.exists()), None)
    return read_json_object(found) if found is not None else {}


def places(path: Path) -> list[Path]:
    """Return the path of a file and, if it is a link as in the hub's cache, the path of its target."""
    return [path, path.resolve()] if path.is_symlink() else [path]


def known_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the config as `find_config` does, but empty where the file beside the checkpoint cannot be read."""
    try:
        return find_config(checkpoint)
    except ConfigError:
        return {}


def model_args(config: Any) -> dict[str, Any]:
    """Return ``config["model_args"]``, empty where there is none."""
    return _section(config, "model_args")


def local_path(value: Any, trained_in: Path | None = None) -> Path | None:
    """Return a path in a config, None where it has no meaning here: a URL, a path of another system, a relative one.

    Args:
        value: The value in the config.
        trained_in: The folder that relative paths start from, where it is known. It is never the working directory of
            a command, even where a file of that name lies there.
    """
    if not isinstance(value, str) or not value or not can_be_path(value) or "://" in value:
        return None
    try:
        path = Path(value).expanduser()
    except RuntimeError:  # the home of a user of another machine
        return None
    if path.is_absolute():
        return path
    return trained_in / path if trained_in is not None else None


def clean_config(config: dict[str, Any], text_tokens: int) -> dict[str, Any]:
    """Reduce a config to what an inference folder carries: the fields that inference reads, without paths or texts.

    Args:
        config: The config of a Trainer checkpoint or of a release.
        text_tokens: Rows of the text embedding, which the config of a release may leave open.

    Returns:
        A new dict of numbers, switches and language codes.
    """
    cleaned: dict[str, Any] = {"model": "xtts", **_numbers(config, CONFIG_NUMBERS)}
    languages = config.get("languages")
    if isinstance(languages, list):
        cleaned["languages"] = [code for code in languages if isinstance(code, str) and re.fullmatch(_LANGUAGE, code)]
    if "audio" in config:
        cleaned["audio"] = _numbers(_section(config, "audio"), AUDIO_NUMBERS)
    args = model_args(config)
    cleaned["model_args"] = {
        **_numbers(args, ARGS_NUMBERS),
        **{name: "" if name == "tokenizer_file" else None for name in args if name in ARGS_PATHS},
        "gpt_number_text_tokens": text_tokens,
    }
    return cleaned


def _section(config: Any, name: str) -> dict[str, Any]:
    section = config.get(name) if isinstance(config, dict) else None
    return section if isinstance(section, dict) else {}


def _numbers(section: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    """Return the fields of these names that hold None, a switch or a number that JSON can hold."""
    return {name: value for name, value in section.items() if name in names and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < _LARGEST
    return value is None or type(value) is bool or (type(value) is float and math.isfinite(value))
