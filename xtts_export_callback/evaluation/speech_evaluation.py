"""Plan what models say, and measure the speech of all candidates, one model in memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.evaluation.candidates import swap_tensors, swap_weights
from xtts_export_callback.evaluation.choose import ranked, score_by
from xtts_export_callback.evaluation.kept_files import REFERENCE_FILE, keep_voice, refuse_foreign
from xtts_export_callback.evaluation.measures import Measures
from xtts_export_callback.evaluation.results import EVALUATION_FILE, RULE, Evaluation, Sentence
from xtts_export_callback.evaluation.sentences import sentences_of_file, sentences_of_run, voice_of_run
from xtts_export_callback.evaluation.soup import SOUP, is_ingredient, with_greedy_soup
from xtts_export_callback.evaluation.speaking_model import check_generation, speaking_model
from xtts_export_callback.evaluation.speech import SpeechPlan, counter, measure_speech, not_measured
from xtts_export_callback.extras import require
from xtts_export_callback.files.json_file import read_json_object
from xtts_export_callback.files.paths import expanded
from xtts_export_callback.inference_folder.provenance import PROVENANCE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xtts_export_callback.evaluation.candidates import Source
    from xtts_export_callback.evaluation.results import Candidate
    from xtts_export_callback.evaluation.speech import Progress
    from xtts_export_callback.merge.plan import Plan

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
    soup: Path | None = None,
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
        soup: Where the greedy soup by the measures of speech is to be written, if one is to be built; it speaks too.
        device: Where the model runs; the measures run on the CPU.
        progress: Called with the clips done and their number over all candidates.
        forecast: Called before the first sentence, with the seconds that it will take and the number of clips.

    Raises:
        OutputExistsError: When the folder holds speech of other sentences, seeds or another voice.
        CheckpointError, ConfigError, IncompatibleError: When a candidate or the voice cannot be used.
    """
    evaluation = _begun(evaluation, plan, folder)
    paths = {source.candidate.fingerprint: source.path for source in sources}
    usable = [one for one in evaluation.candidates if one.fingerprint in paths]
    missing = [one for one in usable if one.speech is None]
    if not missing and soup is None:
        return ranked(evaluation)
    evaluation.write(folder)  # so that the clips are known for ours
    models = len(missing) + (sum(map(is_ingredient, usable)) if soup is not None else 0)  # the trials, and the soup
    advance = counter(progress, models * plan.clips)
    check_generation()
    model = speaking_model(paths[usable[0].fingerprint], device)
    if forecast is not None:
        forecast(models * plan.forecast(model), models * plan.clips)

    def speak(one: Candidate, path: Path) -> None:
        nonlocal evaluation
        swap_weights(model, path)
        speech, samples = measure_speech(model, _clips_of(one, folder), plan, folder, progress=advance)
        spoken = replace(one, speech=speech, samples=samples)
        candidates = [spoken if each.name == one.name else each for each in evaluation.candidates]
        evaluation = replace(evaluation, candidates=candidates)
        evaluation.write(folder)

    def try_out(mean: Plan) -> dict[str, Any]:
        swap_tensors(model, mean.tensors, Path(mean.recipe.where))
        with TemporaryDirectory(prefix="xtts-export-") as temporary:
            speech, samples = measure_speech(model, SOUP, plan, Path(temporary), progress=advance)
        return {"speech": speech, "samples": samples}

    try:
        for one in missing:
            speak(one, paths[one.fingerprint])
        if soup is not None:
            rule = [name for name in evaluation.rule if name != "loss"] or list(RULE[:-1])
            evaluation = with_greedy_soup(evaluation, sources, try_out, soup, score=score_by(rule), force=True)
            for one in evaluation.candidates:
                if one.name == SOUP and soup.is_dir():  # the clips of its trial are gone
                    speak(replace(one, speech=None, samples=[]), soup)
    finally:  # Ctrl-C keeps what is measured
        evaluation = ranked(evaluation)
        evaluation.write(folder)
    return evaluation


def _begun(evaluation: Evaluation, plan: SpeechPlan, folder: Path) -> Evaluation:
    """Note what is said, and refuse a folder that holds other speech or other files."""
    settings = {
        "sentences": [[one.text, one.language] for one in plan.sentences],
        "seeds": plan.seeds,
        "voice": hashlib.sha256(plan.voice.read_bytes()).hexdigest(),
        "recogniser": plan.measures.recogniser,
    }
    evaluation = _with_settings(evaluation, settings, folder)
    clips = [f"{_clips_of(one, folder)}/0_0.wav" for one in evaluation.candidates]
    refuse_foreign(folder, [*clips, REFERENCE_FILE], plan.voice)
    return replace(
        evaluation,
        sentences=plan.sentences,
        voice=keep_voice(plan.voice, folder),
        not_measured=_noted(evaluation.not_measured, not_measured(plan.sentences, plan.measures)),
    )


def _clips_of(candidate: Candidate, folder: Path) -> str:
    """Return the name of the folder of a candidate's clips, which is not that of a model that lies there."""
    return f"{candidate.name}-clips" if (folder / candidate.name / PROVENANCE_FILE).is_file() else candidate.name


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
