"""Have candidates say the same sentences, and measure what they say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xtts_export_callback.evaluation.intervals import interval
from xtts_export_callback.evaluation.results import Faults, Sample, Speech
from xtts_export_callback.evaluation.sound import read_sound, write_sound
from xtts_export_callback.evaluation.speaking import say, seconds_needed, voice_of_recording
from xtts_export_callback.evaluation.voices import encoder_of, reference
from xtts_export_callback.files.atomic import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from xtts_export_callback.evaluation.measures import Measured, Measures
    from xtts_export_callback.evaluation.results import Sentence

    Progress = Callable[[int, int], None]
    """Takes the number of clips done, of all candidates, and how many there are."""


@dataclass(frozen=True)
class SpeechPlan:
    """What every candidate says.

    Attributes:
        sentences: The sentences.
        voice: Recording of the voice to say them with, and to compare with.
        measures: The measures to take.
        seeds: How often each is said, with the seeds 0, 1, ...
    """

    sentences: list[Sentence]
    voice: Path
    measures: Measures
    seeds: int = 1

    @property
    def clips(self) -> int:
        """Number of clips of a candidate."""
        return len(self.sentences) * self.seeds

    def forecast(self, model: Any) -> float:
        """Estimate the seconds that one candidate takes, from the speed of a model; see `seconds_needed`."""
        latents = voice_of_recording(model, self.voice)
        return self.seeds * seconds_needed(model, self.sentences, latents, measured=True)


def measure_speech(
    model: Any, name: str, plan: SpeechPlan, output: Path, *, progress: Callable[[int], None] | None = None
) -> tuple[Speech, list[Sample]]:
    """Have a candidate say the sentences of a plan, keep the clips and measure them.

    Args:
        model: An ``Xtts`` with the candidate's weights, prepared for inference (``gpt.init_gpt_for_inference``).
        name: The candidate's name, for the folder of its clips.
        plan: What it says.
        output: The evaluation's folder. The clips are ``NAME/SENTENCE_SEED.wav`` in it, and replace those that are
            there.
        progress: Called with the number of clips done since the last call.

    Returns:
        The measures over all clips, and each clip, by sentence and seed.

    Raises:
        ConfigError: When the voice cannot be used or a sentence cannot be said.
    """
    latents = voice_of_recording(model, plan.voice)
    known = reference(encoder_of(model), plan.voice)
    samples = []
    (output / name).mkdir(parents=True, exist_ok=True)
    for number, sentence in enumerate(plan.sentences):
        for seed in range(plan.seeds):
            said = say(model, sentence, latents, seed=seed)
            wav = output / name / f"{number}_{seed}.wav"
            with whole_file(wav, force=True) as temporary:
                write_sound(temporary, said.sound, said.rate)
            measured = plan.measures.measure(
                read_sound(wav), sentence.text, sentence.language, codes=said.codes, reference=known
            )
            samples.append(sample(number, seed, f"{name}/{wav.name}", measured))
            if progress is not None:
                progress(1)
    return summary(samples), samples


def sample(sentence: int, seed: int, wav: str, measured: Measured) -> Sample:
    """Return a clip as the results have it.

    Args:
        sentence: Index of its sentence.
        seed: Its seed.
        wav: Its file, relative to the evaluation's folder.
        measured: Its measures.
    """
    return Sample(sentence=sentence, seed=seed, wav=wav, **measured._asdict())


def summary(samples: Sequence[Sample]) -> Speech:
    """Return the measures over the clips of a candidate; those that no clip has are None.

    Args:
        samples: The clips.
    """
    kinds = Counter(kind for one in samples for kind in one.faults)
    with_faults = sum(bool(one.faults) for one in samples)
    means = {
        name: interval([value for one in samples if (value := getattr(one, name)) is not None])
        for name in ("characters_wrong", "voice", "naturalness")
    }
    return Speech(Faults(with_faults, len(samples), dict(kinds)), **means)


def not_measured(sentences: Sequence[Sentence], measures: Measures) -> list[str]:
    """Say in which languages no words are measured, in a line each.

    Args:
        sentences: What the candidates say.
        measures: The measures.
    """
    unknown = sorted({one.language for one in sentences if not measures.recognises(one.language)})
    return [
        f"characters wrong in {language}: no recogniser knows it; name a faster-whisper model with --asr"
        for language in unknown
    ]


def counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Return a function that adds up clips and reports them.

    Args:
        progress: Called with the clips done and their number.
        total: Their number.
    """
    done = 0

    def advance(clips: int) -> None:
        nonlocal done
        done += clips
        if progress is not None:
            progress(done, total)

    return advance
