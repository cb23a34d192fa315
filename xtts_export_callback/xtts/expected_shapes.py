"""The tensors that ``Xtts.load_state_dict(strict=True)`` expects, computed from a config without importing TTS.

Follows ``TTS.tts.models.xtts.Xtts.init_models``, ``TTS.tts.layers.xtts.gpt.GPT``, ``HifiDecoder``,
``HifiganGenerator``, ``ResNetSpeakerEncoder`` and ``PerceiverResampler``; a test compares the result with the
real model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtts_export_callback.xtts.architecture import Architecture

    Shapes = dict[str, tuple[int, ...]]

_MAX_SIZE = 1_000_000
_MAX_LAYERS = 1_000  # each is a dozen names; the released models have 30
_MAY_BE_OPEN = ("gpt_max_audio_tokens", "gpt_max_text_tokens")  # -1: no learned positions
_MEL_CHANNELS = 80
_CONDITIONING_BLOCKS = 6
_NORM_GROUPS = (32, 16, 8, 4)  # ``TTS.tts.layers.tortoise.arch_utils.normalization``
_PERCEIVER_LAYERS, _PERCEIVER_LATENTS, _PERCEIVER_WIDTH, _PERCEIVER_MULTIPLIER = 2, 32, 8 * 64, 4
_PROMPT_POSITIONS = 24 * 9  # XTTS v1
_UP_CHANNELS, _UP_KERNELS, _RESBLOCK_KERNELS, _RESBLOCK_CONVS = 512, (16, 16, 4, 4), (3, 7, 11), 3
_SPEAKER_BLOCKS, _SPEAKER_FILTERS, _SPEAKER_REDUCTION = (3, 4, 6, 3), (32, 64, 128, 256), 8
_SPEAKER_MELS, _SPEAKER_WINDOW, _SPEAKER_FFT, _SPEAKER_ATTENTION, _SPEAKER_WIDTH = 64, 400, 512, 128, 512
_MEL_EXTRA, _TEXT_EXTRA = 3, 2

DEFAULTS: dict[str, Any] = {
    "gpt_layers": 30,
    "gpt_n_model_channels": 1024,
    "gpt_n_heads": 16,
    "gpt_max_prompt_tokens": 70,
    "gpt_max_audio_tokens": 605,
    "gpt_max_text_tokens": 402,
    "gpt_num_audio_tokens": 8194,
    "gpt_use_perceiver_resampler": False,
    "decoder_input_dim": 1024,
    "d_vector_dim": 512,
    "cond_d_vector_in_each_upsampling_layer": True,
}
"""Defaults of ``XttsArgs`` for fields that a config leaves out."""


def expected_tensors(args: dict[str, Any], text_tokens: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of an inference model.

    Args:
        args: ``config["model_args"]``.
        text_tokens: Rows of the text embedding, which the config of a release leaves open.

    Raises:
        ValueError: When no model can be built from ``args``, naming the field, its value and what it should be.
    """
    known = _settings(args)
    shapes: Shapes = {"mel_stats": (_MEL_CHANNELS,)}
    shapes |= _prefixed("gpt.", _gpt(known, text_tokens))
    decoder = _hifigan(known["decoder_input_dim"], known["d_vector_dim"], each=known[_EACH])
    shapes |= _prefixed("hifigan_decoder.waveform_decoder.", decoder)
    shapes |= _prefixed("hifigan_decoder.speaker_encoder.", _speaker_encoder())
    return shapes


def _settings(args: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that decide shapes as Coqpit reads them: it truncates floats and refuses wrong types."""
    for key in (*_NUMBERS, *_FLAGS):
        value = args.get(key)
        is_right = isinstance(value, bool) if key in _FLAGS else _is_number(value)
        if value is not None and not is_right:
            raise UnlikelyConfigError(key, "true or false" if key in _FLAGS else "a whole number", value)
    known = {key: args.get(key, default) for key, default in DEFAULTS.items()}
    for key, value in known.items():
        if key in _FLAGS:
            known[key] = bool(value)
            continue
        least = -1 if key in _MAY_BE_OPEN else 0
        most = _MAX_LAYERS if key == "gpt_layers" else _MAX_SIZE
        if value is None or not least <= value <= most:
            raise UnlikelyConfigError(key, f"a whole number from {least} to {most}", value)
        known[key] = int(value)
    width, heads = known["gpt_n_model_channels"], known["gpt_n_heads"]
    if not heads or width % heads:
        divisor = f"a divisor of gpt_n_model_channels, {width}"
        raise UnlikelyConfigError(key="gpt_n_heads", expected=divisor, found=heads)
    return known


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value  # noqa: PLR0124 - no NaN


class UnlikelyConfigError(ValueError):
    """A field of ``model_args`` has a value that no model can have."""

    def __init__(self, key: str, expected: str, found: Any) -> None:
        super().__init__(f"model_args.{key} should be {expected}, found {str(found)[:40]}")


def args_from_shapes(architecture: Architecture, decoder_input: int, voice: int, *, each: bool) -> dict[str, Any]:
    """Derive ``model_args`` from the shapes of a model, for a file without a config."""
    return {
        "gpt_layers": architecture.layers,
        "gpt_n_model_channels": architecture.width,
        "gpt_max_audio_tokens": architecture.max_audio_tokens,
        "gpt_max_text_tokens": architecture.max_text_tokens,
        "gpt_num_audio_tokens": architecture.audio_tokens,
        "gpt_use_perceiver_resampler": architecture.perceiver,
        "decoder_input_dim": decoder_input,
        "d_vector_dim": voice,
        _EACH: each,
    }


_EACH = "cond_d_vector_in_each_upsampling_layer"
_FLAGS = ("kv_cache", "enable_redaction", "gpt_use_masking_gt_prompt_approach", "gpt_use_perceiver_resampler", _EACH)
_NUMBERS = (
    *(key for key, default in DEFAULTS.items() if not isinstance(default, bool)),
    *("gpt_batch_size", "num_chars", "gpt_number_text_tokens", "gpt_start_text_token", "gpt_stop_text_token"),
    *("gpt_start_audio_token", "gpt_stop_audio_token", "gpt_code_stride_len", "duration_const"),
    *("input_sample_rate", "output_sample_rate", "output_hop_length"),
)
"""The truth values and the numbers of ``XttsArgs``; Coqpit refuses a config in which one has another type."""


def _gpt(args: dict[str, Any], text_tokens: int) -> Shapes:
    width, audio_tokens = args["gpt_n_model_channels"], args["gpt_num_audio_tokens"]
    shapes: Shapes = {
        "text_embedding.weight": (text_tokens, width),
        "mel_embedding.weight": (audio_tokens, width),
        **_pair("text_head", (text_tokens, width)),
        **_pair("mel_head", (audio_tokens, width)),
        **_pair("final_norm", (width,)),
        **_pair("gpt.ln_f", (width,)),
        **_pair("conditioning_encoder.init", (width, _MEL_CHANNELS, 1)),
    }
    audio, text = args["gpt_max_audio_tokens"], args["gpt_max_text_tokens"]
    if audio != -1:  # it decides for both: ``TTS.tts.layers.tortoise.autoregressive.build_hf_gpt_transformer``
        if text == -1:
            raise UnlikelyConfigError(key="gpt_max_text_tokens", expected="a whole number from 0", found=text)
        shapes["mel_pos_embedding.emb.weight"] = (audio + _MEL_EXTRA, width)
        shapes["text_pos_embedding.emb.weight"] = (text + _TEXT_EXTRA, width)
    for layer in range(args["gpt_layers"]):
        shapes |= _prefixed(f"gpt.h.{layer}.", _gpt_layer(width))
    for block in range(_CONDITIONING_BLOCKS):
        if not any(width % groups == 0 for groups in _NORM_GROUPS):
            multiple = f"a multiple of {_NORM_GROUPS[-1]}"
            raise UnlikelyConfigError(key="gpt_n_model_channels", expected=multiple, found=width)
        prefix = f"conditioning_encoder.attn.{block}."
        shapes |= _pair(f"{prefix}norm", (width,))
        shapes |= _pair(f"{prefix}qkv", (3 * width, width, 1))
        shapes |= _pair(f"{prefix}proj_out", (width, width, 1))
    if args["gpt_use_perceiver_resampler"]:
        return shapes | _prefixed("conditioning_perceiver.", _perceiver(width))
    prompts: Shapes = {
        "prompt_embedding.weight": (audio_tokens, width),
        "prompt_pos_embedding.emb.weight": (_PROMPT_POSITIONS, width),
    }
    return shapes | prompts


def _gpt_layer(width: int) -> Shapes:
    """Return the shapes of ``transformers``' GPT2Block, whose Conv1D keeps weights as (inputs, outputs)."""
    shapes = {**_pair("ln_1", (width,)), **_pair("ln_2", (width,))}
    sizes = (
        ("attn.c_attn", width, 3 * width),
        ("attn.c_proj", width, width),
        ("mlp.c_fc", width, 4 * width),
        ("mlp.c_proj", 4 * width, width),
    )
    for name, inputs, outputs in sizes:
        shapes |= {f"{name}.weight": (inputs, outputs), f"{name}.bias": (outputs,)}
    return shapes


def _perceiver(width: int) -> Shapes:
    inner = int(width * _PERCEIVER_MULTIPLIER * 2 / 3)
    shapes: Shapes = {"latents": (_PERCEIVER_LATENTS, width), "norm.gamma": (width,)}
    for layer in range(_PERCEIVER_LAYERS):
        shapes |= {
            f"layers.{layer}.0.to_q.weight": (_PERCEIVER_WIDTH, width),
            f"layers.{layer}.0.to_kv.weight": (2 * _PERCEIVER_WIDTH, width),
            f"layers.{layer}.0.to_out.weight": (width, _PERCEIVER_WIDTH),
            **_pair(f"layers.{layer}.1.0", (2 * inner, width)),
            **_pair(f"layers.{layer}.1.2", (width, inner)),
        }
    return shapes


def _hifigan(inputs: int, voice: int, *, each: bool) -> Shapes:
    shapes = {**_pair("conv_pre", (_UP_CHANNELS, inputs, 7)), **_pair("cond_layer", (_UP_CHANNELS, voice, 1))}
    for up, kernel in enumerate(_UP_KERNELS):
        before, channels = _UP_CHANNELS >> up, _UP_CHANNELS >> (up + 1)
        # A transposed convolution keeps (inputs, outputs, kernel), and its norm is taken over the inputs.
        shapes |= {f"ups.{up}.bias": (channels,), **_weight_norm(f"ups.{up}", (before, channels, kernel))}
        if each:
            shapes |= _pair(f"conds.{up}", (channels, voice, 1))
        for number, size in enumerate(_RESBLOCK_KERNELS, up * len(_RESBLOCK_KERNELS)):
            convs = [f"convs{group}.{index}" for group in (1, 2) for index in range(_RESBLOCK_CONVS)]
            for conv in (f"resblocks.{number}.{conv}" for conv in convs):
                shapes |= {f"{conv}.bias": (channels,), **_weight_norm(conv, (channels, channels, size))}
    shapes["conv_post.weight"] = (1, _UP_CHANNELS >> len(_UP_KERNELS), 7)
    return shapes


def _speaker_encoder() -> Shapes:
    filters = _SPEAKER_FILTERS
    shapes = {**_pair("conv1", (filters[0], 1, 3, 3)), **_batch_norm("bn1", filters[0])}
    inputs = filters[0]
    for layer, (blocks, channels) in enumerate(zip(_SPEAKER_BLOCKS, filters, strict=True), 1):
        for block in range(blocks):
            prefix = f"layer{layer}.{block}."
            shapes |= {f"{prefix}conv1.weight": (channels, inputs, 3, 3), **_batch_norm(f"{prefix}bn1", channels)}
            shapes |= {f"{prefix}conv2.weight": (channels, channels, 3, 3), **_batch_norm(f"{prefix}bn2", channels)}
            squeezed = channels // _SPEAKER_REDUCTION
            shapes |= _pair(f"{prefix}se.fc.0", (squeezed, channels))
            shapes |= _pair(f"{prefix}se.fc.2", (channels, squeezed))
            if block == 0 and layer > 1:
                shapes[f"{prefix}downsample.0.weight"] = (channels, inputs, 1, 1)
                shapes |= _batch_norm(f"{prefix}downsample.1", channels)
            inputs = channels
    pooled = filters[-1] * _SPEAKER_MELS // 8
    shapes |= {
        "torch_spec.0.filter": (1, 1, 2),
        "torch_spec.1.spectrogram.window": (_SPEAKER_WINDOW,),
        "torch_spec.1.mel_scale.fb": (_SPEAKER_FFT // 2 + 1, _SPEAKER_MELS),
        **_pair("attention.0", (_SPEAKER_ATTENTION, pooled, 1)),
        **_batch_norm("attention.2", _SPEAKER_ATTENTION),
        **_pair("attention.3", (pooled, _SPEAKER_ATTENTION, 1)),
        **_pair("fc", (_SPEAKER_WIDTH, 2 * pooled)),
    }
    return shapes


def _pair(name: str, weight: tuple[int, ...]) -> Shapes:
    """Return weight and bias of a module with as many outputs as its weight has rows."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _weight_norm(name: str, weight: tuple[int, int, int]) -> Shapes:
    prefix = f"{name}.parametrizations.weight"
    return {f"{prefix}.original0": (weight[0], 1, 1), f"{prefix}.original1": weight}


def _batch_norm(name: str, channels: int) -> Shapes:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{vector}": (channels,) for vector in vectors}, f"{name}.num_batches_tracked": ()}


def _prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}
