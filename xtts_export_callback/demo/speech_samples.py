"""Generates a small data set of speech-like recordings, for the demo and the tests.

Voiced sounds are a sum of harmonics of a gliding pitch, each as strong as the formants of its vowel make it (the
source-filter model of speech; formant frequencies after Peterson and Barney, 1952); fricatives and stops are shaped
noise. It does not sound like a person, but it has what a speech model looks at: pitch, formants, onsets, pauses, and
a matching text. It needs numpy only and gives the same bytes every time.
"""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 22050
"""Samples per second, the rate that XTTS trains at."""

SENTENCES = (
    "a small voice can say a lot.",
    "we sing and sit near the sea.",
    "the moon is low and the night is long.",
    "nine men sat on a wall.",
    "she sees a ship in the sun.",
    "you and i know the way home.",
    "a warm wind moves the leaves.",
    "listen to the rain on the roof.",
    "he ran over the old road.",
    "some words are easy to say.",
    "the sun rose over the hill.",
    "no one has seen this one before.",
)

_FloatArray = npt.NDArray[np.float64]

# Formant frequencies in Hz of the vowels, and of the consonants that are voiced throughout.
_FORMANTS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
    "l": (360, 1300, 2700),
    "m": (250, 1100, 2200),
    "n": (280, 1600, 2600),
    "r": (420, 1300, 1600),
    "v": (250, 1400, 2300),
    "w": (300, 650, 2200),
    "y": (270, 2100, 3000),
}
# Centre and width in Hz of the noise of the others.
_NOISE = {"s": (6500, 1500), "z": (6000, 1500), "f": (4500, 3000), "h": (1800, 1200), "c": (3500, 1500)}
_BURST = (2500, 2000)  # b d g j k p q t x
_FORMANT_WIDTH = 110.0
_HARMONICS = 32


def write_speech_dataset(folder: Path, *, clips: int = 12, seed: int = 0) -> Path:
    """Write a data set in the layout of LJSpeech: ``metadata.csv`` and ``wavs/*.wav``.

    Args:
        folder: The folder to write, created if missing.
        clips: Number of recordings, 16-bit mono of about 2 s each. With more clips than sentences, the
            sentences repeat with another pitch.
        seed: Seed of pitch and noise. The same seed gives the same bytes.

    Returns:
        ``folder``.
    """
    (folder / "wavs").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(clips):
        name, sentence = f"clip{number + 1:03d}", SENTENCES[number % len(SENTENCES)]
        write_wav(folder / "wavs" / f"{name}.wav", synthesize_sentence(sentence, seed=seed * 100_003 + number))
        lines.append(f"{name}|{sentence}|{sentence}\n")
    (folder / "metadata.csv").write_text("".join(lines), encoding="utf-8", newline="\n")
    return folder


def synthesize_sentence(text: str, *, seed: int = 0) -> _FloatArray:
    """Turn lower-case text into speech-like sound, letter by letter.

    Args:
        text: The sentence. Everything else than a letter becomes a pause.
        seed: Seed of the pitch and the noise.

    Returns:
        float64 array of shape ``(samples,)`` at 22,050 Hz, within [-1, 1].
    """
    rng = np.random.default_rng(seed)
    pitch = rng.uniform(95.0, 140.0)
    sounds = []
    for position, letter in enumerate(text.lower()):
        # Pitch falls along a sentence, by about a quarter.
        letter_pitch = pitch * (1.0 - 0.25 * position / len(text)) * rng.uniform(0.97, 1.03)
        sounds.append(_letter_sound(letter, letter_pitch, rng))
    sound = np.concatenate(sounds)
    return np.asarray(0.8 * sound / np.abs(sound).max())


def write_wav(path: Path, sound: _FloatArray, *, sample_rate: int = SAMPLE_RATE) -> None:
    """Write sound as a 16-bit mono wav file.

    Args:
        path: The file.
        sound: Array of shape ``(samples,)``, clipped to [-1, 1].
        sample_rate: Samples per second.
    """
    samples = np.round(np.clip(sound, -1.0, 1.0) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.tobytes())


def _letter_sound(letter: str, pitch: float, rng: np.random.Generator) -> _FloatArray:
    """Return the sound of one letter, 45 to 110 ms long, faded in and out."""
    if letter in _FORMANTS:
        seconds = 0.10 if letter in "aeiou" else 0.065
        sound = _voiced(np.array(_FORMANTS[letter], dtype=float), pitch, round(seconds * SAMPLE_RATE))
    elif letter.isalpha():
        centre, width = _NOISE.get(letter, _BURST)
        samples = round((0.08 if letter in _NOISE else 0.045) * SAMPLE_RATE)
        sound = 0.25 * _noise(centre, width, samples, rng)
    else:
        # A faint noise floor: pauses of exact zeros occur in no recording.
        return 0.002 * rng.standard_normal(round(0.07 * SAMPLE_RATE))
    fade = np.minimum(1.0, np.arange(len(sound)) / (0.01 * SAMPLE_RATE))
    return sound * fade * fade[::-1]


def _voiced(formants: _FloatArray, pitch: float, samples: int) -> _FloatArray:
    """Sum the harmonics of a slightly falling pitch (Hz), each weighted by the formants (Hz) near it."""
    gliding_pitch = pitch * np.linspace(1.02, 0.98, samples)
    phase = 2.0 * np.pi * np.cumsum(gliding_pitch) / SAMPLE_RATE
    number = np.arange(1, _HARMONICS + 1)[:, None]
    distance = (number * pitch - formants[None, :]) / _FORMANT_WIDTH
    resonance = (np.array([1.0, 0.6, 0.3]) / (1.0 + distance**2)).sum(axis=1, keepdims=True)
    # The glottal pulse loses about 6 dB an octave once it has left the lips.
    weights = (0.02 + resonance) / number
    return np.asarray((weights * np.sin(number * phase)).sum(axis=0))


def _noise(centre: float, width: float, samples: int, rng: np.random.Generator) -> _FloatArray:
    """Return noise of unit peak whose spectrum is a bell around ``centre`` of the given ``width`` (Hz)."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    bell = np.exp(-0.5 * ((np.fft.rfftfreq(samples, 1.0 / SAMPLE_RATE) - centre) / width) ** 2)
    sound = np.fft.irfft(spectrum * bell, n=samples)
    return np.asarray(sound / np.abs(sound).max())
