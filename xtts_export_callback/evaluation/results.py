"""What an evaluation found, and its file ``evaluation.json``."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.intervals import Interval
from xtts_export_callback.files.atomic import whole_file
from xtts_export_callback.files.json_file import read_json_object
from xtts_export_callback.inference_folder.provenance import created_now, versions_here

EVALUATION_FILE = "evaluation.json"
FORMAT = "xtts-export evaluation 1"
RULE = ("faults", "errors", "voice", "loss")
"""What decides, the first that differs: faults of a clip, characters wrong, similarity of the voice, loss."""


@dataclass(frozen=True)
class Loss:
    """The evaluation loss, as the Trainer computes it.

    Attributes:
        mean: Mean over the batches, the ``avg_loss`` of the Trainer's log; NaN if it is not finite.
        low: Lower end of the 95 % interval over clips.
        high: Upper end.
        parts: The means of the losses that it is the weighted sum of, such as ``loss_mel_ce``.
        clips: The share of each clip, in the order of the evaluation; their mean is ``mean``.
    """

    mean: float
    low: float
    high: float
    parts: dict[str, float] = field(default_factory=dict)
    clips: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Faults:
    """Clips with faults.

    Attributes:
        clips_with_faults: Number of clips with at least one.
        of: Number of clips.
        kinds: Number of clips by kind, such as ``"no stop token"``.
    """

    clips_with_faults: int
    of: int
    kinds: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Speech:
    """What was measured on the speech of a candidate; None where it was not.

    Attributes:
        faults: Clips with faults.
        characters_wrong: Wrong characters for each of the text, from 0.
        voice: Similarity to the reference voice, a cosine, at most 1.
        naturalness: From 1, bad, to 5, natural.
    """

    faults: Faults
    characters_wrong: Interval | None = None
    voice: Interval | None = None
    naturalness: Interval | None = None


@dataclass(frozen=True)
class Sample:
    """One sentence said by a candidate.

    Attributes:
        sentence: Index of the sentence in `Evaluation.sentences`.
        seed: Number of the seed.
        wav: File, relative to the evaluation's folder.
        seconds: Length.
        faults: Kinds of faults found in it.
        characters_wrong: See `Speech`.
        heard: What the recogniser heard.
        voice: See `Speech`.
        naturalness: See `Speech`.
    """

    sentence: int
    seed: int
    wav: str
    seconds: float
    faults: list[str] = field(default_factory=list)
    characters_wrong: float | None = None
    heard: str | None = None
    voice: float | None = None
    naturalness: float | None = None


@dataclass(frozen=True)
class Sentence:
    """A sentence to say, and its language code."""

    text: str
    language: str


@dataclass(frozen=True)
class Data:
    """The evaluation split: the names of its data sets, its number of clips."""

    dataset: str
    clips: int


@dataclass(frozen=True)
class Candidate:
    """A candidate and what was measured of it; None where nothing was.

    Attributes:
        name: Unique, and fit for a file name.
        kind: ``"checkpoint"``, ``"export"``, ``"average"``, ``"merge"`` or ``"recordings"``.
        steps: The steps of the checkpoints that it is made of.
        bytes: Size of its weights' file; 0 for recordings.
        fingerprint: Of its weights (`Checkpoint.fingerprint`), so that they are measured once.
        loss: The evaluation loss.
        speech: Measures over its samples.
        samples: Its clips, by sentence and seed.
        rank: From 1; candidates that are tied have the same.
        tied_with: Names of the others of that rank.
        reason: Why it stands where it stands, in a sentence.
    """

    name: str
    kind: str
    steps: list[int] = field(default_factory=list)
    bytes: int = 0
    fingerprint: str | None = None
    loss: Loss | None = None
    speech: Speech | None = None
    samples: list[Sample] = field(default_factory=list)
    rank: int | None = None
    tied_with: list[str] = field(default_factory=list)
    reason: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of candidates, best first.

    Attributes:
        candidates: The candidates.
        rule: The measures that decide, in their order; see `RULE`.
        verdict: The result in a sentence.
        data: What the loss was measured on.
        sentences: What the candidates said.
        voice: File of the reference voice, relative to the evaluation's folder.
        not_measured: What was not measured, and why.
        notes: What was made beside the measuring, such as a greedy soup.
        settings: What the numbers depend on beside the candidates; others are not comparable with them.
        created: UTC time.
        versions: Versions of the packages.
    """

    candidates: list[Candidate]
    rule: list[str] = field(default_factory=lambda: list(RULE))
    verdict: str = ""
    data: Data | None = None
    sentences: list[Sentence] = field(default_factory=list)
    voice: str | None = None
    not_measured: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=created_now)
    versions: dict[str, str] = field(default_factory=versions_here)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``evaluation.json`` holds: JSON types, null for what is not finite."""
        return {"format": FORMAT, **_plain(self)}

    def write(self, folder: Path) -> Path:
        """Write ``evaluation.json`` into a folder, whole or not at all, in place of an older one.

        Returns:
            The file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / EVALUATION_FILE
        with whole_file(path, force=True) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return path


def read_evaluation(folder: Path) -> Evaluation:
    """Read the ``evaluation.json`` of a folder.

    Raises:
        ConfigError: When it cannot be read, is of another format, or a value is not what it should be.
    """
    path = folder / EVALUATION_FILE
    found = read_json_object(path)
    if found.pop("format", None) != FORMAT:
        msg = f"{path}: expected the format {FORMAT!r}; run xtts-export evaluate with another --output"
        raise ConfigError(msg)
    evaluation: Evaluation = _read(Evaluation, found, f"{path}: ")
    return evaluation


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Interval):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read(kind: Any, value: Any, where: str) -> Any:
    """Return a value from JSON as an annotation says; null is NaN where a number is needed."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _read(arguments[0], value, where)
    if kind is float and (value is None or type(value) in (int, float)):
        return math.nan if value is None else float(value)
    if origin is list and isinstance(value, list):
        return [_read(arguments[0], item, f"{where}{index}.") for index, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _read(arguments[1], item, f"{where}{key}.") for key, item in value.items()}
    if (kind is Interval or dataclasses.is_dataclass(kind)) and isinstance(value, dict):
        return _read_object(kind, value, where)
    if kind is Any or (isinstance(kind, type) and type(value) is kind):
        return value
    expected = getattr(origin or kind, "__name__", str(kind))
    msg = f"{where.removesuffix('.')}: expected {expected}, found {value!r:.80}; correct it or name another --output"
    raise ConfigError(msg)


def _read_object(kind: Any, found: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    values = {key: _read(hint, found[key], f"{where}{key}.") for key, hint in hints.items() if key in found}
    try:
        return kind(**values)
    except TypeError as error:  # a field without a default is missing
        msg = f"{where.removesuffix('.').removesuffix(': ')}: {error}; correct it or name another --output"
        raise ConfigError(msg) from error
