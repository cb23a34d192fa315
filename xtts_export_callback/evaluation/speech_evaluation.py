"""Measure the speech of all candidates, models or recordings, and keep what was measured."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.evaluation.candidates import swap_weights
from xtts_export_callback.evaluation.choose import check_rule, ranked
from xtts_export_callback.evaluation.measures import Measures
from xtts_export_callback.evaluation.recordings import find_recordings, measure_recordings
from xtts_export_callback.evaluation.results import EVALUATION_FILE, RULE, Evaluation, Sentence
from xtts_export_callback.evaluation.sentences import sentences_of_file, sentences_of_run, voice_of_run
from xtts_export_callback.evaluation.sound import RATE, read_sound, write_sound
from xtts_export_callback.evaluation.speaking_model import speaking_model
from xtts_export_callback.evaluation.speech import SpeechPlan, measure_speech, not_measured
from xtts_export_callback.evaluation.voices import encoder_of, reference, resemblyzer
from xtts_export_callback.extras import require
from xtts_export_callback.files.atomic import whole_file
from xtts_export_callback.files.json_file import read_json_object
from xtts_export_callback.files.paths import expanded

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from xtts_export_callback.evaluation.candidates import Source
    from xtts_export_callback.evaluation.measures import Reference

    Progress = Callable[[int, int], None]
    """Takes the number of clips done, of all candidates, and how many there are."""

REFERENCE_FILE = "reference.wav"
_MOST_TEXTS = 10
"""Sentences taken from an evaluation split, where the run has no test sentences."""


@dataclass(frozen=True)
class SpeechOptions:
    """What users say about an evaluation of speech; see `plan_speech` for what is taken by default.

    Attributes:
        sentences: File with a sentence in each line.
        voice: Recording of the voice.
        language: Language of sentences that have none of their own.
        seeds: How often each sentence is said.
        asr: Folder of a faster-whisper model.
    """

    sentences: Path | None = None
    voice: Path | None = None
    language: str = "en"
    seeds: int = 1
    asr: str | None = None


def plan_speech(options: SpeechOptions, config: Path | None, samples: Sequence[Mapping[str, Any]] = ()) -> SpeechPlan:
    """Decide what every candidate says, and with whose voice.

    Args:
        options: What the user says. By default the sentences are the run's test sentences, or else texts of the
            evaluation split; the voice is that of the first test sentence, or else of the split's first clip.
        config: The ``config.json`` of the run.
        samples: The evaluation split, as ``TTS.tts.datasets.load_tts_samples`` returns it.

    Raises:
        ConfigError: When there is no sentence or no voice.
        MissingExtraError: When packages of the extra are missing.
    """
    require("speech", "evaluate --speech")
    run = read_json_object(config) if config is not None else {}
    if options.seeds < 1:
        msg = f"--seeds {options.seeds}: expected at least 1; choose a larger number"
        raise ConfigError(msg)
    texts = [Sentence(str(one["text"]), str(one.get("language") or options.language)) for one in samples[:_MOST_TEXTS]]
    sentences = (
        sentences_of_file(options.sentences, options.language) if options.sentences else sentences_of_run(run) or texts
    )
    named = voice_of_run(run) or (samples[0]["audio_file"] if samples else None)
    voice = options.voice or (expanded(named) if named else None)
    if not sentences:
        msg = "--speech: the run has no test sentences and no evaluation split; name --sentences FILE"
        raise ConfigError(msg)
    if voice is None or not voice.is_file():
        msg = (
            f"--voice: expected the recording of a voice, found {voice or 'none in the run'}; name a wav of 3 s or more"
        )
        raise ConfigError(msg)
    return SpeechPlan(sentences, voice, Measures(options.asr), options.seeds)


def with_speech(
    evaluation: Evaluation,
    sources: Sequence[Source],
    plan: SpeechPlan,
    folder: Path,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
    forecast: Callable[[float, int], None] | None = None,
) -> Evaluation:
    """Have the candidates speak that have not spoken yet, one model in memory, and rank all.

    Args:
        evaluation: What is known so far.
        sources: The files of the candidates.
        plan: What they say.
        folder: The evaluation's folder; it is written after each candidate, and at the end, also of Ctrl-C.
        device: Where the model runs; the measures run on the CPU.
        progress: Called with the clips done and their number over all candidates.
        forecast: Called before the first sentence, with the seconds that it will take and the number of clips.

    Raises:
        OutputExistsError: When the folder holds speech of other sentences, seeds or another voice.
        CheckpointError, ConfigError, IncompatibleError: When a candidate or the voice cannot be used.
    """
    settings = {
        "sentences": [[one.text, one.language] for one in plan.sentences],
        "seeds": plan.seeds,
        "voice": hashlib.sha256(plan.voice.read_bytes()).hexdigest(),
        "recogniser": plan.measures.recogniser,
    }
    evaluation = _with_settings(evaluation, settings, folder)
    evaluation = replace(
        evaluation,
        sentences=plan.sentences,
        voice=_keep_voice(plan.voice, folder),
        not_measured=_noted(evaluation.not_measured, not_measured(plan.sentences, plan.measures)),
    )
    paths = {source.candidate.fingerprint: source.path for source in sources}
    missing = [one for one in evaluation.candidates if one.speech is None and one.fingerprint in paths]
    if not missing:
        return ranked(evaluation)
    advance = _counter(progress, len(missing) * plan.clips)
    model = speaking_model(paths[missing[0].fingerprint], device)
    if forecast is not None:
        forecast(len(missing) * plan.forecast(model), len(missing) * plan.clips)
    try:
        for one in missing:
            swap_weights(model, paths[one.fingerprint])
            speech, samples = measure_speech(model, one.name, plan, folder, progress=advance)
            spoken = [
                replace(each, speech=speech, samples=samples) if each is one else each for each in evaluation.candidates
            ]
            evaluation = replace(evaluation, candidates=spoken)
            evaluation.write(folder)
    finally:  # Ctrl-C keeps what is measured
        evaluation = ranked(evaluation)
        evaluation.write(folder)
    return evaluation


def evaluate_recordings(  # noqa: PLR0913 - options of one command
    folder: str | os.PathLike[str],
    *,
    sentences: str | os.PathLike[str] | None = None,
    voice: str | os.PathLike[str] | None = None,
    encoder: str | os.PathLike[str] | None = None,
    language: str = "en",
    asr: str | None = None,
    output: str | os.PathLike[str] | None = None,
    by: Sequence[str] = RULE,
    force: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure recordings that are there, of any program, and rank the candidates that they are of.

    Args:
        folder: A folder of recordings for each candidate; see `find_recordings`.
        sentences: File with their texts, a sentence in each line.
        voice: Recording of the voice to compare with.
        encoder: Inference folder or checkpoint of an XTTS whose speaker encoder compares voices; by default
            Resemblyzer does, where it is installed.
        language: Language of the texts.
        asr: Folder of a faster-whisper model.
        output: Folder for ``evaluation.json``; recordings that lie elsewhere are copied into it.
        by: The measures that decide, in their order.
        force: Replace an ``evaluation.json``.
        progress: Called with the clips done and their number.

    Returns:
        The evaluation, best first.

    Raises:
        ConfigError: When recordings, texts or the voice cannot be used.
        MissingExtraError: When packages of the extra are missing.
        OutputExistsError: When ``output`` holds an evaluation, and ``force`` is not given.
    """
    rule = check_rule(by)
    require("speech", "evaluate --wavs")
    kept = expanded(output) if output is not None else None
    if kept is not None and (kept / EVALUATION_FILE).exists() and not force:
        msg = f"{kept / EVALUATION_FILE}: exists already; name another --output or replace it with --force"
        raise OutputExistsError(msg)
    found = find_recordings(expanded(folder), sentences=expanded(sentences) if sentences else None, language=language)
    measures = Measures(asr)
    compared, reason = _voice_of_recordings(expanded(voice) if voice else None, expanded(encoder) if encoder else None)
    advance = _counter(progress, found.clips)
    candidates = [
        measure_recordings(found, name, measures, output=kept, reference=compared, progress=advance)
        for name in found.by_candidate
    ]
    evaluation = ranked(
        Evaluation(
            candidates,
            rule=rule,
            sentences=found.sentences,
            voice=_keep_voice(expanded(voice), kept) if voice and kept else None,
            not_measured=[*not_measured(found.sentences, measures), *reason],
        )
    )
    if kept is not None:
        evaluation.write(kept)
    return evaluation


def _voice_of_recordings(voice: Path | None, encoder: Path | None) -> tuple[Reference | None, list[str]]:
    """Return the voice to compare with, or why there is none."""
    if voice is None:
        return None, ["similarity to a voice: no reference was named; name one with --voice"]
    if encoder is not None:
        require("train", "--encoder")
        return reference(encoder_of(speaking_model(encoder)), voice), []
    known = resemblyzer()
    if known is None:
        how = "pip install --no-deps resemblyzer, or name an XTTS model with --encoder"
        return None, [f"similarity to a voice: no speaker encoder; {how}"]
    return reference(known, voice), []


def _with_settings(evaluation: Evaluation, settings: dict[str, Any], folder: Path) -> Evaluation:
    if evaluation.settings.get("speech", settings) != settings:
        msg = (
            f"{folder}: its {EVALUATION_FILE} is of other sentences, seeds, another voice or recogniser; "
            "name another --output, or --force"
        )
        raise OutputExistsError(msg)
    return replace(evaluation, settings={**evaluation.settings, "speech": settings})


def _noted(known: Sequence[str], new: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*known, *new]))


def _keep_voice(voice: Path, folder: Path) -> str:
    """Copy the reference into the evaluation's folder, as a mono wav at the rate of the measures."""
    folder.mkdir(parents=True, exist_ok=True)
    sound = read_sound(voice)
    with whole_file(folder / REFERENCE_FILE, force=True) as temporary:
        write_sound(temporary, sound, RATE)
    return REFERENCE_FILE


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    done = 0

    def advance(clips: int) -> None:
        nonlocal done
        done += clips
        if progress is not None:
            progress(done, total)

    return advance
