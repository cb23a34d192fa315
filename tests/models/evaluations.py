"""A generated evaluation with real sounds: checkpoints, an average and an old voice, each with its own clear sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from xtts_export_callback.evaluation.intervals import interval
from xtts_export_callback.evaluation.results import Candidate, Data, Evaluation, Faults, Loss, Sample, Sentence, Speech

RATE = 24_000
SENTENCES = (
    "The rain had stopped, and the street was full of light.",
    "Please call Stella, and ask her to bring these things with her from the store.",
    "It takes a moment to hear the difference.",
    "Nobody had told them that the last train left at nine.",
    "Listen closely to the end of each sentence.",
)


def spoken(seconds: float, *, pitch: float, seed: int, level: float = 0.3, rate: int = RATE) -> np.ndarray:
    """A voice-like sound: harmonics that rise and fall in syllables, with a little breath."""
    time = np.arange(round(seconds * rate)) / rate
    random = np.random.default_rng(seed)
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.08 * np.sin(2 * np.pi * 0.7 * time + seed))) / rate
    tone = sum(np.sin(number * phase) / number**1.3 for number in range(1, 14))
    words = np.interp(
        time, np.arange(0, seconds + 1, 0.21), random.uniform(0.05, 1, len(np.arange(0, seconds + 1, 0.21)))
    )
    syllables = (0.25 + 0.75 * np.abs(np.sin(2 * np.pi * 2.3 * time + seed))) * words
    sound = (tone + 0.05 * random.standard_normal(len(time))) * syllables * np.minimum(1, (seconds - time) * 8)
    return level * sound / np.abs(sound).max()


def write_evaluation(folder: Path, *, candidates: int = 6, sentences: int = 3, seconds: float = 2.5) -> Evaluation:
    """Write an evaluation: checkpoints, and for the last two an average and the recordings of an older voice."""
    found = [_candidate(folder, index, candidates, sentences, seconds) for index in range(candidates)]
    soundfile.write(folder / "reference.wav", spoken(3, pitch=140, seed=9), RATE)
    evaluation = Evaluation(
        found,
        verdict="average_last_3 is the best of 6; the next, checkpoint_5000, has more wrong characters.",
        data=Data("my_voice", 48),
        sentences=[Sentence(text, "en") for text in SENTENCES[:sentences]],
        voice="reference.wav",
        not_measured=["characters wrong in cs: pocketsphinx hears English alone; name a model with --asr"],
        settings={"seed": 0},
    )
    evaluation.write(folder)
    return evaluation


def _candidate(folder: Path, index: int, candidates: int, sentences: int, seconds: float) -> Candidate:
    random = np.random.default_rng(index)
    is_average, is_old = index == 0, index == candidates - 1
    step = 1000 * (candidates - index)
    name = "average_last_3" if is_average else "old_voice" if is_old else f"checkpoint_{step}"
    (folder / name).mkdir(parents=True)
    samples = []
    for sentence in range(sentences):
        wav = f"{name}/{sentence}_0.wav"
        length = seconds + 0.13 * index + 0.4 * sentence
        sound = spoken(length, pitch=110 + 14 * index, seed=7 * sentence + index, level=0.05 + 0.1 * index)
        soundfile.write(folder / wav, sound, RATE)
        faults = ["no stop token", "speech after the text"] if index == candidates - 2 and sentence == 1 else []
        heard = SENTENCES[sentence].lower().strip(".") if index < 3 else "the rain had stopped and the street was"
        samples.append(
            Sample(sentence, 0, wav, length, faults, 0.02 + 0.03 * index, heard, 0.9 - 0.05 * index, 4.4 - 0.2 * index)
        )
    losses = list(1.5 + 0.06 * index + 0.1 * random.standard_normal(48))
    mean = interval(losses)
    assert mean is not None
    faulty = [sample for sample in samples if sample.faults]
    measures = [
        [getattr(sample, key) + 0.02 * random.standard_normal() for sample in samples]
        for key in ("characters_wrong", "voice", "naturalness")
    ]
    kinds = {kind: 1 for sample in faulty for kind in sample.faults}
    return Candidate(
        name,
        "average" if is_average else "recordings" if is_old else "checkpoint",
        [step - 3000, step - 2000, step - 1000] if is_average else [] if is_old else [step],
        0 if is_old else 1_857_209_972 if is_average else 5_576_650_782,
        loss=None if is_old else Loss(*mean, {"loss_mel_ce": mean.mean}, losses),
        speech=Speech(Faults(len(faulty), sentences, kinds), *map(interval, measures)),
        samples=samples,
        rank=min(index + 1, 2) if index < 3 else index + 1,
        tied_with=[f"checkpoint_{1000 * (candidates - 3 + index)}"] if index in (1, 2) else [],
        reason="best by the rule"
        if is_average
        else f"more wrong characters than average_last_3: {0.02 + 0.03 * index:.2f} against 0.02",
    )
