"""Convert a model to the two folders that Auralis loads, renaming tensors and moving no bytes.

Facts from Auralis 0.2.8, ``auralis.models.xttsv2``: `XTTSv2Engine.__init__` (what the core file holds; it is loaded
strictly), `components.vllm_mm_gpt.XttsGPT.load_weights` (what the GPT file holds), `config` (fields of the configs) and
`config.tokenizer.XTTSTokenizerFast`. Auralis reads the code behind ``auto_map`` from its own repositories on the Hub.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.inference_folder.layouts import CORE_WEIGHTS, GPT_WEIGHTS
from xtts_export_callback.xtts.architecture import architecture_of
from xtts_export_callback.xtts.model_config import model_args
from xtts_export_callback.xtts.vocab import read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xtts_export_callback.tensors.tensor import Tensor
    from xtts_export_callback.xtts.assets import Assets

_Value = TypeVar("_Value")

# The first prefix that matches decides; a name with two targets goes into both files.
_GPT_RENAMES = (
    ("gpt.gpt.", "gpt."),
    ("gpt.mel_embedding.", "gpt.wte."),
    ("gpt.mel_pos_embedding.", "gpt.wpe."),
    ("gpt.mel_head.", "mel_head."),
    ("gpt.final_norm.", "final_norm."),
)
_IN_BOTH = "gpt.final_norm."
_HEAD_WIDTH = 64  # fixed in Auralis's converter
_DEFAULTS = {
    "input_sample_rate": 22050,
    "output_sample_rate": 24000,
    "output_hop_length": 256,
    "gpt_code_stride_len": 1024,
    "d_vector_dim": 512,
    "cond_d_vector_in_each_upsampling_layer": True,
}
"""Fields of ``XttsArgs`` that the core config repeats, with their defaults."""

_START, _STOP, _UNKNOWN, _PAD = "[START]", "[STOP]", "[UNK]", "[PAD]"
_GPT_CODE, _CORE_CODE = "AstraMindAI/xtts2-gpt", "AstraMindAI/xtts2"
_TOKENIZER_CODE = f"{_GPT_CODE}--tokenizer.XTTSTokenizerFast"


def convert(tensors: Mapping[str, Tensor], assets: Assets) -> tuple[dict[str, dict[str, Tensor]], dict[str, bytes]]:
    """Return what the folders hold.

    Args:
        tensors: The inference model by bare names.
        assets: Its config and vocabulary.

    Returns:
        The weights by the file that they go into, and the content of the other files.

    Raises:
        ConfigError: When the vocabulary lacks the tokens that begin and end a text.
    """
    gpt, core = split_weights(tensors)
    gpt_config = _gpt_config(tensors, assets.config)
    texts: dict[str, Any] = {
        "gpt/config.json": gpt_config,
        "gpt/tokenizer.json": tokenizer(assets.vocab),
        "gpt/tokenizer_config.json": {
            **_special_tokens(assets.vocab),
            "tokenizer_class": "XTTSTokenizerFast",
            "auto_map": {"AutoTokenizer": [_TOKENIZER_CODE, None]},
            "clean_up_tokenization_spaces": True,
        },
        "gpt/special_tokens_map.json": _special_tokens(assets.vocab),
        "core_xttsv2/config.json": _core_config(gpt_config, assets.config),
    }
    return {GPT_WEIGHTS: gpt, CORE_WEIGHTS: core}, {name: _as_json(value) for name, value in texts.items()}


def split_weights(tensors: Mapping[str, _Value]) -> tuple[dict[str, _Value], dict[str, _Value]]:
    """Return the weights of the GPT and of the rest, or anything else by their names, by Auralis's names.

    Example:
        ``gpt.gpt.h.0.ln_1.bias`` becomes ``gpt.h.0.ln_1.bias`` of the GPT, ``gpt.text_head.bias`` becomes
        ``text_head.bias`` of the rest. Conv1D weights keep their orientation.
    """
    gpt: dict[str, _Value] = {}
    core: dict[str, _Value] = {}
    for name, tensor in tensors.items():
        renamed = next((new + name[len(old) :] for old, new in _GPT_RENAMES if name.startswith(old)), None)
        if renamed is not None:
            gpt[renamed] = tensor
        if renamed is None or name.startswith(_IN_BOTH):
            core[name.removeprefix("gpt.")] = tensor
    return gpt, core


def tokenizer(vocab: bytes) -> dict[str, Any]:
    """Return the ``tokenizer.json`` of a vocabulary: its tokens and its own splitting, between start and stop.

    Auralis would split at white space (``WhitespaceSplit``); a vocabulary that splits otherwise was trained that way,
    and keeps it.

    Raises:
        ConfigError: When the vocabulary lacks the tokens that begin and end a text.
    """
    parsed, rows = _read(vocab)
    missing = [token for token in (_START, _STOP) if token not in rows]
    if missing:
        msg = f"vocab.json: has no token {missing[0]}, which Auralis puts around each text; use the training vocabulary"
        raise ConfigError(msg)
    ends = {token: {"id": token, "ids": [rows[token]], "tokens": [token]} for token in (_START, _STOP)}
    around = [{"SpecialToken": {"id": _START, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": _STOP, "type_id": 0}}]  # fmt: skip
    pair = [*around, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        **parsed,
        "pre_tokenizer": parsed.get("pre_tokenizer") or {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing", "single": around, "pair": pair, "special_tokens": ends},
    }


def _read(vocab: bytes) -> tuple[dict[str, Any], dict[str, int]]:
    vocabulary = read_vocabulary(vocab, "vocab.json")
    return vocabulary.parsed, vocabulary.tokens


def _special_tokens(vocab: bytes) -> dict[str, str]:
    """A token that is not in the vocabulary would be added to it, and its row is not in the text embedding."""
    _, rows = _read(vocab)
    tokens = {"bos_token": _START, "eos_token": _STOP, "unk_token": _UNKNOWN, "pad_token": _PAD}
    return {key: token if token in rows else _STOP for key, token in tokens.items()}


def _gpt_config(tensors: Mapping[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``XTTSGPTConfig``; every size comes from a shape, as a fine-tune may have changed it."""
    found = architecture_of(tensors)
    args = model_args(config)
    width, audio_tokens = found.width or 0, tensors["gpt.mel_head.weight"].shape[0]
    return {
        "model_type": "xtts_gpt",
        "architectures": ["XttsGPT"],
        "activation_function": "gelu_new",
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "hidden_size": width,
        "decoder_input_dim": width,
        "n_inner": 4 * width,
        "num_hidden_layers": found.layers,
        "num_attention_heads": args.get("gpt_n_heads") or max(1, width // _HEAD_WIDTH),
        "vocab_size": found.text_tokens,
        "number_text_tokens": found.text_tokens,
        "num_audio_tokens": audio_tokens,
        "start_audio_token": audio_tokens - 2,
        "stop_audio_token": audio_tokens - 1,
        "max_audio_tokens": found.max_audio_tokens,
        "gpt_max_audio_tokens": found.max_audio_tokens,
        "max_text_tokens": found.max_text_tokens,
        "max_prompt_tokens": args.get("gpt_max_prompt_tokens") or 70,
        "use_masking_gt_prompt_approach": True,
        "use_perceiver_resampler": True,
        "kv_cache": True,
        "enable_redaction": False,
        "reorder_and_upcast_attn": False,
        "scale_attn_by_inverse_layer_idx": False,
        "auto_map": {
            "AutoConfig": f"{_GPT_CODE}--gpt_config.XTTSGPTConfig",
            "AutoModelForCausalLM": f"{_GPT_CODE}--xtts2_gpt_modeling.XttsGPT",
            "AutoTokenizer": _TOKENIZER_CODE,
        },
    }


def _core_config(gpt_config: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``XTTSConfig``."""
    args = {**_DEFAULTS, **{key: value for key, value in model_args(config).items() if key in _DEFAULTS}}
    return {
        "model_type": "xtts",
        "architectures": ["Xtts"],
        **args,
        "decoder_input_dim": model_args(config).get("decoder_input_dim") or gpt_config["hidden_size"],
        "duration_const": 102400,
        "num_chars": 255,
        "tokenizer_file": "",
        "audio_config": {
            "sample_rate": args["input_sample_rate"],
            "output_sample_rate": args["output_sample_rate"],
            "mel_channels": 80,
            "hop_length": args["output_hop_length"],
            "win_length": 1024,
            "n_fft": 1024,
            "fmin": 0,
            "fmax": 8000,
            "power": 1.0,
            "mel_norms_file": None,
        },
        **({"languages": config["languages"]} if config.get("languages") else {}),
        "gpt": {"model_type": "xtts_gpt"},
        "gpt_config": gpt_config,
        "auto_map": {
            "AutoConfig": f"{_CORE_CODE}--xtts2_config.XTTSConfig",
            "AutoModelForCausalLM": f"{_CORE_CODE}--xtts2_modeling.Xtts",
            "AutoTokenizer": f"{_CORE_CODE}--tokenizer.XTTSTokenizerFast",
        },
    }


def described_args(config: dict[str, Any], core_config: dict[str, Any]) -> dict[str, Any]:
    """Return the ``model_args`` of the model that a pair of configs describes: of the GPT, and of the rest."""
    same = {
        "gpt_layers": "num_hidden_layers",
        "gpt_n_model_channels": "hidden_size",
        "gpt_n_heads": "num_attention_heads",
        "gpt_num_audio_tokens": "num_audio_tokens",
        "gpt_max_audio_tokens": "max_audio_tokens",
        "gpt_max_text_tokens": "max_text_tokens",
    }
    core = ("decoder_input_dim", "d_vector_dim", "cond_d_vector_in_each_upsampling_layer")
    return {
        "gpt_use_perceiver_resampler": True,
        **{name: config.get(field) for name, field in same.items()},
        **{name: core_config.get(name) for name in core},
    }


def _as_json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode()
