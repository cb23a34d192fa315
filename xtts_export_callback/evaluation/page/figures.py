"""What the page says in figures: the table of candidates with their intervals, and the disk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from xtts_export_callback.evaluation.intervals import Interval
from xtts_export_callback.evaluation.plots import Axis, LossPoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from xtts_export_callback.evaluation.results import Candidate, Evaluation
    from xtts_export_callback.inspection.run import RunReport


class Measure(NamedTuple):
    """A column of the table.

    Attributes:
        key: Its name in the rule.
        title: What is measured.
        better: Which direction is better.
        spec: Format of the numbers.
        get: Its interval for a candidate.
    """

    key: str
    title: str
    better: str
    spec: str
    get: Callable[[Candidate], Interval | None]


def _faults(one: Candidate) -> Interval | None:
    if one.speech is None or not one.speech.faults.of:
        return None
    faults = one.speech.faults
    return _wilson(faults.clips_with_faults, faults.of)


def _loss(one: Candidate) -> Interval | None:
    return Interval(one.loss.mean, one.loss.low, one.loss.high) if one.loss else None


MEASURES = (
    Measure("faults", "Clips with faults", "lower is better", ".0%", _faults),
    Measure(
        "errors",
        "Characters wrong",
        "lower is better",
        ".1%",
        lambda one: one.speech.characters_wrong if one.speech else None,
    ),
    Measure("voice", "Voice", "higher is better", ".3f", lambda one: one.speech.voice if one.speech else None),
    Measure(
        "naturalness",
        "Naturalness (1 to 5)",
        "higher is better",
        ".2f",
        lambda one: one.speech.naturalness if one.speech else None,
    ),
    Measure("loss", "Loss", "lower is better", ".3f", _loss),
)


@dataclass(frozen=True)
class Cell:
    """A measure of a candidate: texts, and its interval in per cent of the column's range."""

    value: str
    interval: str
    low: float = 0.0
    mean: float = 0.0
    high: float = 0.0
    note: str = ""

    @property
    def is_drawn(self) -> bool:
        """Whether it has an interval to draw."""
        return bool(self.interval)


@dataclass(frozen=True)
class Row:
    """A candidate in the table, with a cell for each column; None where it was not measured."""

    candidate: Candidate
    rank: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class Table:
    """The candidates and what was measured of them.

    Attributes:
        measures: The columns that hold anything.
        rows: Best first.
        rule: What decides, in words.
    """

    measures: list[Measure]
    rows: list[Row]
    rule: str


def table_of(evaluation: Evaluation) -> Table:
    """Lay out the candidates of an evaluation."""
    candidates = evaluation.candidates
    measures = [measure for measure in MEASURES if any(measure.get(one) is not None for one in candidates)]
    columns = [_column(measure, candidates) for measure in measures]
    rows = [
        Row(
            one,
            "-" if one.rank is None else f"{one.rank}{'=' if one.tied_with else ''}",
            [cells[i] for cells in columns],
        )
        for i, one in enumerate(candidates)
    ]
    titles = {measure.key: measure.title.partition(" (")[0].lower() for measure in MEASURES}
    rule = ", then ".join(titles.get(key, key) for key in evaluation.rule)
    return Table(measures, rows, rule)


def _column(measure: Measure, candidates: list[Candidate]) -> list[Cell | None]:
    found = [measure.get(one) for one in candidates]
    ends = [end for one in found if one is not None for end in one if math.isfinite(end)]
    axis = Axis(min(ends), max(ends), margin=0.04) if ends else None
    return [_cell(measure, one, axis, candidate) for one, candidate in zip(found, candidates, strict=True)]


def _cell(measure: Measure, found: Interval | None, axis: Axis | None, candidate: Candidate) -> Cell | None:
    if found is None:
        return None
    if axis is None or not all(map(math.isfinite, found)):
        return Cell("not a number", "")
    value, low, high = (f"{number:{measure.spec}}" for number in found)
    note = ""
    if measure.key == "faults" and candidate.speech is not None:
        faults = candidate.speech.faults
        value = f"{faults.clips_with_faults} of {faults.of}"
        note = ", ".join(f"{count} with {kind}" for kind, count in faults.kinds.items())
    return Cell(value, f"{low} to {high}", axis.at(found.low), axis.at(found.mean), axis.at(found.high), note)


def _wilson(hits: int, of: int) -> Interval:
    """The 95 % interval of a share (Wilson 1927), which keeps its width where a bootstrap of no faults has none."""
    z, share = 1.959964, hits / of
    centre, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    low, high = ((centre + sign * half) / (1 + z * z / of) for sign in (-1, 1))
    return Interval(share, max(0.0, low), min(1.0, high))


def loss_points(evaluation: Evaluation | None, run: RunReport | None) -> list[LossPoint]:
    """Losses over steps: those measured on the same clips, or else those in the files of the Trainer."""
    measured = [(one, _loss(one)) for one in (evaluation.candidates if evaluation else [])]
    points = [LossPoint(one.name, one.steps, *loss) for one, loss in measured if loss is not None]
    if points or run is None:
        return points
    noted = [(saved, saved.eval_loss) for saved in run.checkpoints]
    return [LossPoint(saved.name, [saved.step], loss, loss, loss) for saved, loss in noted if loss is not None]


class DiskBar(NamedTuple):
    """A model on the disk: bytes of its full checkpoint, of its inference weights, and a remark."""

    name: str
    full: int
    slim: int
    note: str


@dataclass(frozen=True)
class Disk:
    """Sizes of models.

    Attributes:
        bars: A bar for each.
        total: Bytes of the whole run; 0 without one.
        freeable: Bytes that can be freed without loss.
        freeable_after_export: Further bytes after an export.
    """

    bars: list[DiskBar]
    total: int = 0
    freeable: int = 0
    freeable_after_export: int = 0

    def share(self, nbytes: int) -> float:
        """Width of a bar in per cent of the longest."""
        return round(100 * nbytes / max(bar.full + bar.slim for bar in self.bars), 2)


def disk_of(evaluation: Evaluation | None, run: RunReport | None) -> Disk | None:
    """Lay out sizes: of a run's files, or else of the candidates; None if nothing has a size."""
    if run is not None:
        bars = [
            DiskBar(
                saved.name, saved.nbytes, saved.export_bytes, f"needed: {saved.needed}" if saved.needed else saved.fault
            )
            for saved in run.checkpoints
        ]
        bars += [DiskBar(name, 0, nbytes, "") for name, nbytes in run.others.items()]
        sized = [bar for bar in bars if bar.full + bar.slim]
        return Disk(sized, run.nbytes, run.freeable, run.freeable_after_export) if sized else None
    sized = []
    for one in evaluation.candidates if evaluation else []:
        if one.bytes:
            is_full = one.kind == "checkpoint"
            sized.append(DiskBar(one.name, one.bytes if is_full else 0, 0 if is_full else one.bytes, ""))
    return Disk(sized) if sized else None
