"""Sounds of the page: loudness against the standard, lossless FLAC, equal loudness without clipping."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.page.sound import TARGET, common_target, loudness, read_sound


def sine(frequency: float, level: float, seconds: float, rate: int = 48_000) -> np.ndarray:
    return level * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def written(path: Path, samples: np.ndarray, rate: int = 24_000) -> Path:
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000, 44_100, 48_000])
def test_a_full_scale_sine_of_997_hz_has_the_loudness_that_the_standard_gives(rate: int) -> None:
    assert loudness(sine(997, 1.0, 3, rate), rate) == pytest.approx(-3.01, abs=0.05)  # BS.1770-4, annex 1


def test_silence_does_not_make_a_clip_quieter() -> None:
    tone = sine(997, 0.1, 3)
    padded = np.concatenate([np.zeros(96_000), tone, np.zeros(96_000)])

    assert loudness(padded, 48_000) == pytest.approx(loudness(tone, 48_000), abs=0.5)


@pytest.mark.parametrize("samples", [np.zeros(48_000), np.zeros(3)], ids=["a second", "three samples"])
def test_silence_has_no_loudness(samples: np.ndarray) -> None:
    assert loudness(samples, 48_000) == -math.inf


def test_the_embedded_clip_is_the_clip_bit_for_bit(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-9_000, 9_000, 5_000, dtype=np.int16)
    sound = read_sound(written(tmp_path / "a.wav", samples))

    assert sound is not None
    found, rate = soundfile.read(io.BytesIO(base64.b64decode(sound.data)), dtype="int16")
    assert rate == 24_000
    np.testing.assert_array_equal(found, samples)


def test_clips_play_equally_loud_and_none_clips(tmp_path: Path) -> None:
    levels = (0.001, 0.02, 0.9)
    tones = [read_sound(written(tmp_path / f"{i}.wav", sine(300, level, 2, 24_000))) for i, level in enumerate(levels)]
    sounds = [one for one in tones if one is not None]
    gains = [one.gain(TARGET) for one in sounds]

    played = [one.loudness + 20 * math.log10(gain) for one, gain in zip(sounds, gains, strict=True)]
    assert common_target(sounds) == TARGET
    assert played == pytest.approx([TARGET] * 3, abs=0.01)
    assert all(one.peak * gain <= 1 for one, gain in zip(sounds, gains, strict=True))


def test_a_spiky_clip_lowers_the_target_and_is_not_clipped(tmp_path: Path) -> None:
    samples = sine(300, 0.01, 2, 24_000)
    samples[20_000] = 0.9
    spiky = read_sound(written(tmp_path / "a.wav", samples))

    assert spiky is not None
    target = common_target([spiky])
    assert target < TARGET
    assert spiky.peak * spiky.gain(target) <= 1


def test_channels_are_mixed_and_an_empty_file_is_no_sound(tmp_path: Path) -> None:
    stereo = read_sound(written(tmp_path / "a.wav", np.stack([sine(300, 0.5, 1, 24_000)] * 2, axis=1)))

    assert stereo is not None and stereo.seconds == 1.0
    assert read_sound(written(tmp_path / "b.wav", np.zeros(0))) is None


@pytest.mark.parametrize("content", [None, b"", b"RIFF, or so it says"], ids=["missing", "empty", "garbage"])
def test_a_file_that_is_no_sound_is_named_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"a\.wav: cannot be read as sound") as caught:
        read_sound(path)
    assert "\n" not in str(caught.value)
