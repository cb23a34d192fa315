"""Measure recordings of any program, and rank the candidates that they are of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.errors import OutputExistsError
from xtts_export_callback.evaluation.choose import check_rule, ranked
from xtts_export_callback.evaluation.kept_files import REFERENCE_FILE, keep_voice, refuse_foreign
from xtts_export_callback.evaluation.measures import Measures
from xtts_export_callback.evaluation.recordings import find_recordings, measure_recordings
from xtts_export_callback.evaluation.results import EVALUATION_FILE, RULE, Evaluation
from xtts_export_callback.evaluation.speaking_model import speaking_model
from xtts_export_callback.evaluation.speech import counter, not_measured
from xtts_export_callback.evaluation.voices import encoder_of, reference, resemblyzer
from xtts_export_callback.extras import require
from xtts_export_callback.files.paths import expanded

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from xtts_export_callback.evaluation.measures import Reference
    from xtts_export_callback.evaluation.speech import Progress


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
    if kept is not None:
        copies = [f"{name}/{one.copy_name}" for name, each in found.by_candidate.items() for one in each]
        refuse_foreign(kept, [*copies, *([REFERENCE_FILE] if voice else [])], expanded(voice) if voice else None)
    measures = Measures(asr)
    compared, reason = _voice_of_recordings(expanded(voice) if voice else None, expanded(encoder) if encoder else None)
    advance = counter(progress, found.clips)
    candidates = [
        measure_recordings(found, name, measures, output=kept, reference=compared, progress=advance)
        for name in found.by_candidate
    ]
    evaluation = ranked(
        Evaluation(
            candidates,
            rule=rule,
            sentences=found.sentences,
            voice=keep_voice(expanded(voice), kept) if voice and kept else None,
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
