"""Measure recordings that are there: a folder of wavs for each candidate, and no model."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.results import EVALUATION_FILE, Candidate, read_evaluation
from xtts_export_callback.evaluation.sentences import sentences_of_file, sentences_of_metadata
from xtts_export_callback.evaluation.sound import read_sound
from xtts_export_callback.evaluation.speech import sample, summary
from xtts_export_callback.files.atomic import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from xtts_export_callback.evaluation.measures import Measures, Reference
    from xtts_export_callback.evaluation.results import Sentence

_SUFFIXES = (".wav", ".flac")
METADATA = "metadata.csv"


class Recording(NamedTuple):
    """A recording of a sentence: the index of the sentence, the seed or take, and the file."""

    sentence: int
    seed: int
    path: Path

    @property
    def copy_name(self) -> str:
        """Name of a copy in the folder of its candidate."""
        return f"{self.sentence}_{self.seed}{self.path.suffix.lower()}"


class Recordings(NamedTuple):
    """What all candidates recorded.

    Attributes:
        sentences: The sentences.
        by_candidate: The recordings of each candidate, by sentence and seed.
    """

    sentences: list[Sentence]
    by_candidate: dict[str, list[Recording]]

    @property
    def clips(self) -> int:
        """Number of recordings of all candidates."""
        return sum(map(len, self.by_candidate.values()))


def find_recordings(folder: Path, *, sentences: Path | None = None, language: str = "en") -> Recordings:
    """Find the recordings of candidates and the texts that they belong to.

    Args:
        folder: A folder with a folder of wav or flac files for each candidate, the same names in each. With a
            ``metadata.csv``, a file has the name in its first column; without, ``SENTENCE.wav`` or
            ``SENTENCE_SEED.wav``, both numbers from 0, as `measure_speech` names its clips.
        sentences: A file with a sentence in each line; by default the ``metadata.csv`` or the ``evaluation.json`` in
            the folder.
        language: Language of the texts, where they have none of their own.

    Raises:
        ConfigError: When there are no recordings or texts, a file belongs to no text, or candidates have others.
    """
    if not folder.is_dir():
        msg = f"{folder}: expected a folder with a folder of recordings for each candidate; check the path"
        raise ConfigError(msg)
    texts = _texts(folder, sentences, language)
    index = {name: number for number, name in enumerate(texts)}
    files = {
        entry.name: [path for path in sorted(entry.iterdir()) if path.suffix.lower() in _SUFFIXES]
        for entry in sorted(folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }
    found = {name: sorted(_recording(path, index) for path in paths) for name, paths in files.items() if paths}
    if not found:
        msg = f"{folder}: expected a folder with wav or flac files for each candidate, found none; check the path"
        raise ConfigError(msg)
    _check_same(folder, found)
    return Recordings(list(texts.values()), found)


def _texts(folder: Path, sentences: Path | None, language: str) -> dict[str, Sentence]:
    """Return the sentences by the names that recordings of them have."""
    if sentences is None and (folder / METADATA).is_file():
        return sentences_of_metadata(folder / METADATA, language)
    if sentences is not None:
        listed = sentences_of_file(sentences, language)
    elif (folder / EVALUATION_FILE).is_file():
        listed = read_evaluation(folder).sentences
    else:
        msg = f"{folder}: has no {METADATA} with the texts of the recordings; add one or name --sentences FILE"
        raise ConfigError(msg)
    return {str(number): one for number, one in enumerate(listed)}


def _recording(path: Path, index: Mapping[str, int]) -> Recording:
    name, _, seed = path.stem.rpartition("_")
    if path.stem in index:
        return Recording(index[path.stem], 0, path)
    if name in index and seed.isdecimal():
        return Recording(index[name], int(seed), path)
    shown = ", ".join(list(index)[:3])
    msg = f"{path}: belongs to none of the {len(index)} texts ({shown}, ...); name it after one, or NAME_SEED"
    raise ConfigError(msg)


def _check_same(folder: Path, found: Mapping[str, list[Recording]]) -> None:
    """Refuse candidates that did not record the same: their means could not be compared."""
    clips = {name: {one[:2]: one.path.name for one in recordings} for name, recordings in found.items()}
    for name, there in clips.items():
        for other in clips.values():
            missing = [file for key, file in other.items() if key not in there]
            if missing:
                msg = (
                    f"{folder / name}: has no {missing[0]}, which another candidate has; record it or remove the other"
                )
                raise ConfigError(msg)
        if len(there) < len(found[name]):
            msg = f"{folder / name}: has two recordings of one sentence and seed; remove one"
            raise ConfigError(msg)


def measure_recordings(
    recordings: Recordings,
    name: str,
    measures: Measures,
    *,
    output: Path | None = None,
    reference: Reference | None = None,
    progress: Callable[[int], None] | None = None,
) -> Candidate:
    """Measure what a candidate recorded.

    Args:
        recordings: From `find_recordings`.
        name: The candidate.
        measures: The measures to take.
        output: The evaluation's folder; recordings outside it are copied to ``NAME/SENTENCE_SEED.wav`` in it.
        reference: The voice to compare with.
        progress: Called with the number of clips done since the last call.

    Raises:
        ConfigError: When a recording cannot be read.
    """
    samples = []
    for one in recordings.by_candidate[name]:
        text = recordings.sentences[one.sentence]
        measured = measures.measure(read_sound(one.path), text.text, text.language, reference=reference)
        kept = str(one.path) if output is None else _kept(one.path, output, f"{name}/{one.copy_name}")
        samples.append(sample(one.sentence, one.seed, kept, measured))
        if progress is not None:
            progress(1)
    return Candidate(name, "recordings", speech=summary(samples), samples=samples)


def _kept(path: Path, output: Path, name: str) -> str:
    """Return the path of a recording in the evaluation's folder, where it is copied if it lies elsewhere."""
    if path.resolve().is_relative_to(output.resolve()):
        return path.resolve().relative_to(output.resolve()).as_posix()
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output / name, force=True) as temporary:
        shutil.copyfile(path, temporary)
    return name
