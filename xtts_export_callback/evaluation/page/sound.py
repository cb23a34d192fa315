"""Sounds as the page holds them: lossless, measured for equal loudness, with their outline."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xtts_export_callback.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[np.float64]

TARGET = -23.0
"""Loudness of every clip in LUFS, the programme loudness of EBU R 128."""
_LEAST_TARGET = -30.0
_BARS = 120  # of an outline
_BLOCK, _HOP = 0.4, 0.1  # seconds
_ABSOLUTE_GATE, _RELATIVE_GATE = -70.0, -10.0


@dataclass(frozen=True)
class Sound:
    """A clip.

    Attributes:
        data: FLAC, 16 bits, mono, in base64. Chromium, Firefox and Safari decode FLAC; it adds no artefact to what is
            judged and, unlike MP3, no delay.
        seconds: Length.
        loudness: In LUFS; minus infinity for silence.
        peak: Largest magnitude, 1 for full scale.
        outline: Largest magnitude of each of `_BARS` equal parts.
    """

    data: str
    seconds: float
    loudness: float
    peak: float
    outline: tuple[float, ...]

    def gain(self, target: float) -> float:
        """The factor that brings the clip to a loudness, or as near to it as full scale allows; 1 for silence."""
        if not math.isfinite(self.loudness):
            return 1.0
        return float(min(10 ** ((target - self.loudness) / 20), 1 / self.peak))


def read_sound(path: Path) -> Sound | None:
    """Read a sound file.

    Returns:
        The clip; None if the file holds no sample.

    Raises:
        ConfigError: When it cannot be read.
    """
    import numpy as np
    import soundfile

    try:
        channels, rate = soundfile.read(path, dtype="float64", always_2d=True)
    except (OSError, RuntimeError) as error:  # soundfile's own errors are RuntimeErrors
        msg = f"{path}: cannot be read as sound ({error}); run xtts-export evaluate again"
        raise ConfigError(msg) from error
    samples = np.clip(np.nan_to_num(channels.mean(axis=1)), -1, 1)
    if not len(samples):
        return None
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
    magnitudes = np.abs(samples)
    return Sound(
        base64.b64encode(buffer.getvalue()).decode("ascii"),
        len(samples) / rate,
        loudness(samples, rate),
        float(magnitudes.max()),
        tuple(float(part.max()) if len(part) else 0.0 for part in np.array_split(magnitudes, _BARS)),
    )


def common_target(sounds: Iterable[Sound]) -> float:
    """The loudness that all clips reach without clipping: `TARGET`, or lower where a clip is spiky."""
    reachable = [one.loudness - 20 * math.log10(one.peak) for one in sounds if math.isfinite(one.loudness)]
    return max(_LEAST_TARGET, min([TARGET, *reachable]))


def loudness(samples: Samples, rate: int) -> float:
    """Return the integrated loudness in LUFS (ITU-R BS.1770-4: K weighting, blocks of 0.4 s, two gates).

    Args:
        samples: One channel, shape ``[n]``, 1 for full scale.
        rate: Samples a second.

    Returns:
        The loudness; minus infinity where every block is below the absolute gate.
    """
    import numpy as np

    energy = np.concatenate([[0.0], np.cumsum(_k_weighted(samples, rate) ** 2)])
    length = min(len(samples), round(_BLOCK * rate))
    starts = np.arange(0, len(samples) - length + 1, max(1, round(_HOP * rate)))
    blocks = np.maximum(energy[starts + length] - energy[starts], 0) / length
    audible = blocks[blocks > _energy(_ABSOLUTE_GATE)]
    if not len(audible):
        return -math.inf
    return _lufs(audible[audible > _energy(_lufs(audible) + _RELATIVE_GATE)])


def _lufs(blocks: Samples) -> float:
    return -0.691 + 10 * math.log10(float(blocks.mean()))


def _energy(lufs: float) -> float:
    return float(10 ** ((lufs + 0.691) / 10))


def _k_weighted(samples: Samples, rate: int) -> Samples:
    """Filter with the shelf and the high pass of BS.1770, for any rate (formulas: libebur128, ``ebur128_init_filter``).

    By their responses in the frequency domain, since numpy has no recursive filter.
    """
    import numpy as np

    size = 1 << (len(samples) + rate // 4).bit_length()  # the tail of the high pass dies down in a quarter of a second
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(size))
    spectrum = np.fft.rfft(samples, size)
    for numerator, denominator in (_shelf(rate), _high_pass(rate)):
        spectrum *= _polynomial(numerator, delay) / _polynomial(denominator, delay)
    return np.fft.irfft(spectrum, size)[: len(samples)]


def _shelf(rate: int) -> tuple[list[float], list[float]]:
    quality, high = 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    middle = high**0.4996667741545416
    k = math.tan(math.pi * 1681.974450955533 / rate)
    numerator = [high + middle * k / quality + k * k, 2 * (k * k - high), high - middle * k / quality + k * k]
    return numerator, _denominator(k, quality)


def _high_pass(rate: int) -> tuple[list[float], list[float]]:
    k, quality = math.tan(math.pi * 38.13547087602444 / rate), 0.5003270373238773
    first = _denominator(k, quality)[0]
    return [first, -2 * first, first], _denominator(k, quality)


def _denominator(k: float, quality: float) -> list[float]:
    return [1 + k / quality + k * k, 2 * (k * k - 1), 1 - k / quality + k * k]


def _polynomial(coefficients: Sequence[float], x: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
    return coefficients[0] + coefficients[1] * x + coefficients[2] * x * x
