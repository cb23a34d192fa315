"""Chooses the training clip that is the best reference of its voice: long, clearly recorded, and full of speech."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xtts_export_callback.errors import ConfigError, MissingExtraError
from xtts_export_callback.evaluation.measures import Measures
from xtts_export_callback.evaluation.sound import RATE, read_sound
from xtts_export_callback.extras import require
from xtts_export_callback.inference_folder.voice import GOOD_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xtts_export_callback.evaluation.sound import FloatArray

_MOST_HEARD = 60
"""Clips that are read in full: the longest of those of a good length."""
_LEAST_SPEECH = 0.7  # of a clip; 0.8 to 0.95 in LJSpeech
_QUIETEST, _LOUDEST = -32.0, -10.0  # dB of full scale, RMS of the whole clip
_CLIPPED = 0.999
_FRAME = RATE // 50  # 20 ms
_PAUSE = 30.0  # dB below the loudest frames


def best_clip(paths: Iterable[Path]) -> Path:
    """Return the clip with the most seconds of speech among those with few pauses and a good level.

    Args:
        paths: The clips; WAVs of 6 to 30 s among them are considered.

    Raises:
        ConfigError: When there is none.
    """
    shortest, longest = GOOD_SECONDS
    lengths = {path: _seconds(path) for path in dict.fromkeys(paths) if path.suffix.lower() == ".wav"}
    fitting = [path for path, seconds in lengths.items() if shortest <= seconds <= longest]
    if not fitting:
        msg = (
            f"none of {len(lengths)} training clips is a WAV of {shortest:g} to {longest:g} s; name one (export.voice)"
        )
        raise ConfigError(msg)
    heard = sorted(fitting, key=lambda path: -lengths[path])[:_MOST_HEARD]
    speech = _speech_measure()
    return max(heard, key=lambda path: _worth(path, speech))


def _seconds(path: Path) -> float:
    import soundfile

    try:
        return float(soundfile.info(path).duration)
    except (OSError, RuntimeError):  # removed meanwhile, or no sound; soundfile's own error is a RuntimeError
        return 0.0


def _worth(path: Path, speech: Callable[[FloatArray], float]) -> tuple[bool, bool, float]:
    try:
        sound = read_sound(path)
    except ConfigError:
        return False, False, 0.0
    seconds = speech(sound)
    level = 20 * np.log10(max(float(np.sqrt(np.mean(sound**2))), 1e-9))
    is_clear = _QUIETEST <= level <= _LOUDEST and float(np.abs(sound).max()) < _CLIPPED
    return is_clear, seconds * RATE >= _LEAST_SPEECH * len(sound), seconds


def _speech_measure() -> Callable[[FloatArray], float]:
    """Return what measures the seconds of speech in a clip: voice activity, or else energy."""
    try:
        require("speech", "finding speech", "torch", "silero_vad", "pocketsphinx")
    except MissingExtraError:
        return _loud_seconds
    measures = Measures()
    return lambda sound: sum(segment.end - segment.start for segment in measures.speech(sound))


def _loud_seconds(sound: FloatArray) -> float:
    frames = sound[: len(sound) // _FRAME * _FRAME].reshape(-1, _FRAME)
    levels = 20 * np.log10(np.maximum(np.sqrt(np.mean(frames**2, axis=1)), 1e-9))
    return float(np.sum(levels > np.quantile(levels, 0.95) - _PAUSE) * _FRAME / RATE)
