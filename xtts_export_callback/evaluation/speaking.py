"""Have an ``Xtts`` say a sentence: with the same seed, the same sound; and what its GPT drew for it."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.faults import Codes
from xtts_export_callback.evaluation.words import characters, speaking_time
from xtts_export_callback.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from xtts_export_callback.evaluation.results import Sentence
    from xtts_export_callback.evaluation.sound import FloatArray

CODES_A_SECOND = 22_050 / 1024  # XttsArgs.input_sample_rate / gpt_code_stride_len
_TRIED_CODES = 12
_MEASURING = 0.6
"""Seconds that the measures take for each second of a clip, on one core of a server of 2023: 0.4 to 0.9."""


class Latents(NamedTuple):
    """A voice as the model takes it.

    Attributes:
        gpt_cond_latent: Tensor of shape [1, frames, channels].
        speaker_embedding: Tensor of shape [1, channels, 1].
    """

    gpt_cond_latent: Any
    speaker_embedding: Any


class Said(NamedTuple):
    """A sentence that a model said.

    Attributes:
        sound: float32 array of shape ``(samples,)``.
        rate: Samples per second, 24,000.
        codes: What its GPT drew.
    """

    sound: FloatArray
    rate: int
    codes: Codes


def voice_of_recording(model: Any, wav: Path) -> Latents:
    """Return the voice of a recording, as ``Xtts.synthesize`` takes it.

    Args:
        model: The ``Xtts``. The latents belong to its weights.
        wav: The recording, 3 s or longer.

    Raises:
        ConfigError: When it cannot be read or is too short.
    """
    settings = {key: model.config[key] for key in ("gpt_cond_len", "gpt_cond_chunk_len", "sound_norm_refs")}
    try:
        with quiet():
            latents = model.get_conditioning_latents(str(wav), max_ref_length=model.config.max_ref_len, **settings)
    except (OSError, RuntimeError, ImportError) as error:  # torchaudio, by its version
        reason = " ".join(str(error).split())
        msg = f"{wav}: cannot be used as a voice ({reason:.200}); name a recording of 3 s or more"
        raise ConfigError(msg) from error
    return Latents(*latents)


def voice_by_name(model: Any, speaker: str) -> Latents:
    """Return a voice of the ``speakers_xtts.pth`` that was loaded with a model.

    Raises:
        ConfigError: When there is none of that name; the message lists those that are there.
    """
    manager = getattr(model, "speaker_manager", None)
    voices = manager.speakers if manager is not None else {}
    if not voices.get(speaker):
        there = ", ".join(sorted(voices)[:60]) or "none, for there is no speakers_xtts.pth beside the weights"
        msg = f"--speaker {speaker}: no such voice (found: {there}); name one of these or a recording with --voice"
        raise ConfigError(msg)
    return Latents(*voices[speaker].values())


def say(model: Any, sentence: Sentence, voice: Latents, *, seed: int = 0, **options: Any) -> Said:
    """Have a model say a sentence, with the settings of its config.

    Args:
        model: The ``Xtts``, prepared for inference.
        sentence: The text, at most as long as the model's text positions, and its language.
        voice: The voice to say it with.
        seed: The same seed gives the same sound on the same machine. The caller's generators are left as they were.
        **options: Further arguments of ``Xtts.inference``.

    Raises:
        ConfigError: When the sentence is too long, or the model does not know the language.
    """
    import torch

    names = ("temperature", "length_penalty", "repetition_penalty", "top_k", "top_p")
    settings = {name: model.config[name] for name in names}
    cuda = [model.device] if model.device.type == "cuda" else []
    with quiet(), _drawn_codes(model) as drawn, torch.random.fork_rng(cuda), torch.inference_mode():
        torch.manual_seed(seed)
        try:
            spoken = model.inference(sentence.text, sentence.language, *voice, **settings, **options)
        except (AssertionError, KeyError, NotImplementedError) as error:
            # Xtts.inference asserts that the text is short enough; the tokenizer knows some languages
            reason = " ".join(str(error).split())
            msg = (
                f"{sentence.text!r:.60} in {sentence.language}: cannot be said ({reason:.120}); choose another sentence"
            )
            raise ConfigError(msg) from error
    sound: FloatArray = np.asarray(spoken["wav"], np.float32).reshape(-1)
    return Said(sound, int(model.config.audio.output_sample_rate), drawn[0])


def seconds_needed(model: Any, sentences: Sequence[Sentence], voice: Latents, *, measured: bool) -> float:
    """Estimate how long it takes to say sentences once, from the speed of a dozen codes.

    Args:
        model: The ``Xtts``.
        sentences: What it is to say.
        voice: The voice.
        measured: Whether the clips are measured too.

    Returns:
        Seconds for sentences spoken at a usual speed. A model that never stops takes up to ten times as long.
    """
    from transformers import LogitsProcessorList

    durations = []
    for _ in range(2):  # the first one also pays for what is made once
        started = time.perf_counter()
        soon = LogitsProcessorList([_StopSoon(model.gpt.stop_audio_token)])
        say(model, sentences[0], voice, logits_processor=soon)
        durations.append(time.perf_counter() - started)
    of_speech = sum(speaking_time(len(characters(one.text, one.language)), one.language) for one in sentences)
    return of_speech * (CODES_A_SECOND * durations[-1] / _TRIED_CODES + (_MEASURING if measured else 0.0))


class _StopSoon:
    """Leaves the stop token alone to be drawn after a dozen codes; a logits processor of transformers."""

    def __init__(self, stop: int) -> None:
        self._stop, self._left = stop, _TRIED_CODES

    def __call__(self, _: Any, scores: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            scores[:] = float("-inf")
            scores[:, self._stop] = 0.0
        return scores


@contextlib.contextmanager
def _drawn_codes(model: Any) -> Iterator[list[Codes]]:
    """Note the codes that ``Xtts.inference`` asks its GPT for and does not return."""
    generate = model.gpt.generate
    found: list[Codes] = []

    def noting(*args: Any, **kwargs: Any) -> Any:
        codes = generate(*args, **kwargs)
        drawn, stop = codes[0].tolist(), model.gpt.stop_audio_token
        end = drawn.index(stop) if stop in drawn else len(drawn)
        found.append(Codes(tuple(drawn[:end]), stop in drawn))
        return codes

    model.gpt.generate = noting
    try:
        yield found
    finally:
        del model.gpt.generate
