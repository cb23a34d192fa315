"""Read recordings as the measures want them, and write clips."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xtts_export_callback.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]

RATE = 16_000
"""Samples per second of all measures: DistillMOS, Silero, Sphinx and H/ASP expect this rate."""


class Segment(NamedTuple):
    """A stretch of speech, in seconds from the start of the clip."""

    start: float
    end: float


def read_sound(path: Path) -> FloatArray:
    """Read a recording of any rate and any number of channels.

    Args:
        path: A file that libsndfile reads, such as wav or flac.

    Returns:
        float32 array of shape ``(samples,)`` at `RATE`, the mean of the channels.

    Raises:
        ConfigError: When the file cannot be read as sound or is empty.
    """
    import soundfile

    try:
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError, TypeError) as error:  # soundfile's own error is a RuntimeError
        msg = f"{path}: cannot be read as a recording ({' '.join(str(error).split()):.200}); name a wav file"
        raise ConfigError(msg) from error
    if len(sound) == 0 or not np.isfinite(sound).all():
        msg = (
            f"{path}: expected a recording, found {'no sound' if len(sound) == 0 else 'NaN or infinity'}; record again"
        )
        raise ConfigError(msg)
    return resampled(sound.mean(axis=1), rate)


def resampled(sound: FloatArray, rate: int) -> FloatArray:
    """Bring sound to `RATE`.

    Args:
        sound: float32 array of shape ``(samples,)``.
        rate: Its samples per second.
    """
    if rate == RATE:
        return sound
    import torch
    from torchaudio.functional import resample

    result: FloatArray = resample(torch.from_numpy(sound), rate, RATE).numpy()
    return result


def write_sound(path: Path, sound: FloatArray, rate: int) -> None:
    """Write a 16-bit wav file, clipped to [-1, 1].

    Args:
        path: The file, written in place.
        sound: Array of shape ``(samples,)``.
        rate: Samples per second.
    """
    import soundfile

    soundfile.write(path, np.clip(sound, -1.0, 1.0), rate, subtype="PCM_16", format="WAV")
