"""Recognise words offline: Sphinx for English, or a Whisper model that the user has."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from xtts_export_callback.errors import ConfigError, MissingExtraError
from xtts_export_callback.evaluation.sound import RATE

if TYPE_CHECKING:
    from xtts_export_callback.evaluation.sound import FloatArray


class Sphinx:
    """Pocketsphinx with the English model of its wheel.

    Its own errors are part of what it measures: of the characters of eight clean clips of LJSpeech it got 3 to 25 %
    wrong, 12 % in the mean, of five of LibriVox 8 to 31 %, worst for names and rare words. With noise at 10 dB it got
    57 to 78 % wrong. It tells candidates apart that say the same sentences, and does not measure how well a person
    would understand one. It takes a quarter of a clip's length on one core, two thirds in noise.
    """

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=RATE, loglevel="FATAL")

    def knows(self, language: str) -> bool:
        """Whether it recognises a language."""
        return language == "en"

    def hear(self, sound: FloatArray, language: str) -> str:  # noqa: ARG002 - the same for every recogniser
        """Return the words of a clip.

        Args:
            sound: float32 array of shape ``(samples,)`` at 16 kHz.
            language: ``"en"``.
        """
        peak = max(float(np.abs(sound).max()), 1e-9)
        samples = np.round(sound * (0.9 * 32767 / max(peak, 0.01))).astype("<i2")  # it hears little in a quiet clip
        self._decoder.reinit_feat()  # forgets what it learned of the channel from the clips before
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return str(found.hypstr) if found is not None else ""


class Whisper:
    """A model of faster-whisper on this disk, for every language that it knows; nothing is downloaded.

    Args:
        model: Folder of the model, or the name of one in the local cache of the Hugging Face Hub.

    Raises:
        MissingExtraError: When faster-whisper is not installed.
        ConfigError: When there is no such model.
    """

    def __init__(self, model: str) -> None:
        if importlib.util.find_spec("faster_whisper") is None:
            msg = "--asr needs faster-whisper, which is not installed; install it with pip install faster-whisper"
            raise MissingExtraError(msg)
        from faster_whisper import WhisperModel

        try:
            self._model: Any = WhisperModel(model, local_files_only=True)
        except Exception as error:  # of huggingface_hub, ctranslate2 or the system, by what is missing
            reason = " ".join(str(error).split())
            msg = f"--asr {model}: cannot be loaded ({reason:.200}); name the folder of a faster-whisper model"
            raise ConfigError(msg) from error

    def knows(self, language: str) -> bool:
        """Whether it recognises a language."""
        return language.split("-", maxsplit=1)[0] in self._model.supported_languages

    def hear(self, sound: FloatArray, language: str) -> str:
        """Return the words of a clip; see `Sphinx.hear`."""
        options = {"temperature": 0.0, "condition_on_previous_text": False}  # the same words each time
        segments, _ = self._model.transcribe(sound, language=language.split("-", maxsplit=1)[0], **options)
        return " ".join(segment.text.strip() for segment in segments)
