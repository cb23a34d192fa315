"""Measure a clip: where there is speech, which words, how natural, whose voice. Every model comes with a package."""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from xtts_export_callback.evaluation.faults import Codes, Heard, faults_of
from xtts_export_callback.evaluation.recogniser import Sphinx, Whisper
from xtts_export_callback.evaluation.sound import RATE, Segment
from xtts_export_callback.evaluation.words import Comparison, characters, compare

if TYPE_CHECKING:
    from typing import Any

    from xtts_export_callback.evaluation.sound import FloatArray

_MOS_SAMPLES = 122_880  # distillmos.sqa.SEQ_LEN, 7.68 s
_SHORTEST = RATE // 10
"""Shorter clips are padded with silence: the networks take no less."""


class Measured(NamedTuple):
    """The measures of a clip; None where one was not taken.

    Attributes:
        seconds: Its length.
        faults: Kinds of faults, see `faults_of`.
        characters_wrong: Share of the text's characters, from 0.
        heard: The words recognised.
        voice: Cosine of the voice's embedding with the reference's.
        naturalness: From 1, bad, to 5.
    """

    seconds: float
    faults: list[str]
    characters_wrong: float | None
    heard: str | None
    voice: float | None
    naturalness: float


class VoiceEncoder(Protocol):
    """Turns a clip into a vector of length 1 that says whose voice it is."""

    def __call__(self, sound: FloatArray) -> FloatArray:
        """Return the embedding of a clip at 16 kHz."""


class Reference(NamedTuple):
    """The voice to compare with.

    Attributes:
        encoder: The network.
        embedding: What it returned for the reference.
    """

    encoder: VoiceEncoder
    embedding: FloatArray


class Measures:
    """All measures of the extra ``speech``. Each model is loaded on first use, once, and runs on the CPU.

    Args:
        asr: Folder of a faster-whisper model; by default English is recognised by Sphinx, and nothing else.

    Attributes:
        recogniser: Name of what recognises words.
    """

    def __init__(self, asr: str | None = None) -> None:
        self._recogniser: Sphinx | Whisper = Sphinx() if asr is None else Whisper(asr)
        self.recogniser = "pocketsphinx" if asr is None else asr

    def recognises(self, language: str) -> bool:
        """Whether words are measured in a language."""
        return self._recogniser.knows(language)

    def measure(
        self,
        sound: FloatArray,
        text: str,
        language: str,
        *,
        codes: Codes | None = None,
        reference: Reference | None = None,
    ) -> Measured:
        """Measure a clip. The same clip has the same measures, whatever was measured before.

        Args:
            sound: float32 array of shape ``(samples,)`` at 16 kHz.
            text: What is to be said in it; without letters and digits, no words are compared.
            language: Code as XTTS has it.
            codes: What the model drew, if a model said it.
            reference: The voice to compare with.
        """
        seconds = len(sound) / RATE
        if len(sound) < _SHORTEST:
            sound = np.pad(sound, (0, _SHORTEST - len(sound)))
        expected = characters(text, language)
        heard = self._recogniser.hear(sound, language) if expected and self.recognises(language) else None
        comparison: Comparison | None = None
        if heard is not None:
            comparison = compare(expected, characters(heard, language))
        peak = float(np.abs(sound).max())
        clip = Heard(seconds, peak, self.speech(sound), len(expected), language, comparison, codes)
        return Measured(
            seconds=seconds,
            faults=faults_of(clip),
            characters_wrong=comparison.wrong if comparison is not None else None,
            heard=heard,
            voice=float(reference.encoder(sound) @ reference.embedding) if reference is not None else None,
            naturalness=self.naturalness(sound),
        )

    def speech(self, sound: FloatArray) -> list[Segment]:
        """Find speech with Silero's voice activity detector.

        Args:
            sound: float32 array of shape ``(samples,)`` at 16 kHz.

        Returns:
            Segments of at least 0.1 s, with at least 0.1 s between them. Nothing in noise and silence. Speech played
            backwards counts as speech.
        """
        import torch

        get_speech_timestamps, model = self._voice_activity
        with _warnings_of_others_ignored():
            found = get_speech_timestamps(torch.from_numpy(sound), model, min_speech_duration_ms=100)
        return [Segment(one["start"] / RATE, one["end"] / RATE) for one in found]

    def naturalness(self, sound: FloatArray) -> float:
        """Rate how natural a clip sounds, with DistillMOS.

        It hears noise, holes and distortion: eight clips of LJSpeech had 4.3 to 4.6, with noise at 10 dB 2.1 to 2.4,
        with a third of each 0.3 s silenced 1.2 to 1.6. It knows nothing of the text: clips that are cut off or say a
        part twice are rated as before. The network looks at 7.68 s and would fill a shorter clip with silence, for
        which it rated a clip of 1.9 s 2.8; such a clip is repeated instead, and has 4.4.

        Args:
            sound: float32 array of shape ``(samples,)`` at 16 kHz.

        Returns:
            From 1, bad, to 5.
        """
        import torch

        filled = np.tile(sound, -(-_MOS_SAMPLES // len(sound)))[:_MOS_SAMPLES] if len(sound) < _MOS_SAMPLES else sound
        with torch.inference_mode():
            return float(self._distillmos(torch.from_numpy(filled)[None]))

    @cached_property
    def _voice_activity(self) -> tuple[Any, Any]:
        import torch

        threads = torch.get_num_threads()
        with _warnings_of_others_ignored():
            from silero_vad import get_speech_timestamps, load_silero_vad

            torch.set_num_threads(threads)  # silero_vad.model sets it to 1 for the whole process
            return get_speech_timestamps, load_silero_vad()

    @cached_property
    def _distillmos(self) -> Any:
        with _warnings_of_others_ignored(), contextlib.redirect_stdout(io.StringIO()):  # it prints a path
            from distillmos import ConvTransformerSQAModel

            return ConvTransformerSQAModel().eval()


@contextlib.contextmanager
def _warnings_of_others_ignored() -> Any:
    """Keep to ourselves what torch says to the authors of these packages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
