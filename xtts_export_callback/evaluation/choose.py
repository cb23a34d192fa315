"""Rank candidates by a stated rule, with ties named as ties, and say why in a sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.intervals import FEWEST, is_lower

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from xtts_export_callback.evaluation.results import Candidate, Evaluation, Sample

    Clips = dict[Hashable, float]
    """The value of each clip of a candidate; the lower the better."""


@dataclass(frozen=True)
class Measure:
    """Something that candidates are ranked by.

    Attributes:
        what: Its name in sentences.
        worse: What the worse candidate has.
        clips: Its value for each clip of a candidate, the lower the better; empty where it is not measured.
        sign: -1 where a higher value is better, and is shown.
    """

    what: str
    worse: str
    clips: Callable[[Candidate], Clips]
    sign: int = 1


def _of_samples(value: Callable[[Sample], float | None]) -> Callable[[Candidate], Clips]:
    def clips(candidate: Candidate) -> Clips:
        found = {(sample.sentence, sample.seed): value(sample) for sample in candidate.samples}
        return {key: number for key, number in found.items() if number is not None}

    return clips


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _losses(candidate: Candidate) -> Clips:
    return dict(enumerate(candidate.loss.clips)) if candidate.loss else {}


MEASURES = {
    "faults": Measure("faults of a clip", "more faults", _of_samples(lambda sample: float(len(sample.faults)))),
    "errors": Measure("share of wrong characters", "more wrong characters", _of_samples(lambda s: s.characters_wrong)),
    "voice": Measure("similarity to the voice", "less of the voice", _of_samples(lambda s: _negative(s.voice)), -1),
    "naturalness": Measure("naturalness", "less natural", _of_samples(lambda s: _negative(s.naturalness)), -1),
    "loss": Measure("loss", "higher loss", _losses),
}
"""Every measure by its name in a rule."""


def check_rule(rule: Sequence[str]) -> list[str]:
    """Return a rule if it can be used.

    Raises:
        ConfigError: When it is empty, or names something that is not measured.
    """
    unknown = [name for name in rule if name not in MEASURES]
    if unknown or not rule or len(set(rule)) < len(rule):
        msg = f"--by {','.join(rule)}: expected some of {', '.join(MEASURES)}, each once, in the order that decides"
        raise ConfigError(msg)
    return list(rule)


def score_by(rule: Sequence[str]) -> Callable[[Candidate], tuple[float, ...]]:
    """Return a function that scores candidates by the means of a rule's measures, the lower the better."""
    return _Comparison([(name, MEASURES[name]) for name in check_rule(rule)]).means


def ranked(evaluation: Evaluation) -> Evaluation:
    """Rank the candidates of an evaluation.

    Of two candidates, the first measure of the rule that differs decides; a difference that may be chance does not
    count (`intervals.is_lower`). Candidates that nothing tells from the best one left are tied with it.

    Args:
        evaluation: What was measured. Its rule says what decides.

    Returns:
        The same with ranks, ties, reasons and the verdict, best first.
    """
    measures = [(name, MEASURES[name]) for name in check_rule(evaluation.rule)]
    compare = _Comparison(measures)
    measured = [one for one in evaluation.candidates if any(measure.clips(one) for _, measure in measures)]
    unmeasured = [replace(one, rank=None, tied_with=[], reason="not measured") for one in evaluation.candidates]
    remaining = sorted(measured, key=compare.means)
    placed: list[Candidate] = []
    above: list[Candidate] = []
    while remaining:
        best = _champion(remaining, compare)
        tied = [one for one in remaining if one is best or compare.winner(best, one) is None]
        for one in tied:
            names = [other.name for other in tied if other is not one]
            reason = _reason(one, best if one is not best else None, above, compare)
            placed.append(replace(one, rank=len(measured) - len(remaining) + 1, tied_with=names, reason=reason))
        remaining = [one for one in remaining if one not in tied]
        above = [best]
    done = {one.name for one in placed}
    others = [one for one in unmeasured if one.name not in done]
    return replace(evaluation, candidates=[*placed, *others], verdict=_verdict(placed, compare))


def _champion(remaining: Sequence[Candidate], compare: _Comparison) -> Candidate:
    """The first by its means that none of the others beats; where they beat each other in a circle, one of them."""
    best = remaining[0]
    for _ in remaining:
        challenger = next((one for one in remaining if compare.winner(best, one) is one), None)
        if challenger is None:
            break
        best = challenger
    return best


class _Comparison:
    """Compares candidates by a rule, each pair once."""

    def __init__(self, measures: Sequence[tuple[str, Measure]]) -> None:
        self._measures = measures
        self._known: dict[tuple[str, str], tuple[Candidate, Measure] | None] = {}

    def means(self, one: Candidate) -> tuple[float, ...]:
        """Means by the rule, for sorting; what is not measured or not finite comes last."""
        found = [mean_of(measure.clips(one)) for _, measure in self._measures]
        return tuple(mean if math.isfinite(mean) else math.inf for mean in found)

    def decision(self, one: Candidate, other: Candidate) -> tuple[Candidate, Measure] | None:
        """Return the better one and the measure that says so; None for a tie."""
        key = (one.name, other.name)
        if key not in self._known:
            self._known[key] = self._known[key[::-1]] = self._decide(one, other)
        return self._known[key]

    def winner(self, one: Candidate, other: Candidate) -> Candidate | None:
        """Return the better one; None for a tie."""
        found = self.decision(one, other) if one is not other else None
        return found[0] if found else None

    def _decide(self, one: Candidate, other: Candidate) -> tuple[Candidate, Measure] | None:
        for _, measure in self._measures:
            here, there = measure.clips(one), measure.clips(other)
            common = [key for key in here if key in there]
            pairs = [here[key] for key in common], [there[key] for key in common]
            if is_lower(*pairs):
                return one, measure
            if is_lower(*pairs[::-1]):
                return other, measure
        return None

    def shared(self, one: Candidate) -> tuple[Measure, int]:
        """The last measure of the rule that a candidate has, which decides its order in a tie, and its clips."""
        return [(measure, len(clips)) for _, measure in self._measures if (clips := measure.clips(one))][-1]


def mean_of(clips: Clips) -> float:
    """Return the mean over clips; NaN without any."""
    return sum(clips.values()) / len(clips) if clips else math.nan


def _reason(one: Candidate, tied_with: Candidate | None, above: Sequence[Candidate], compare: _Comparison) -> str:
    if tied_with is not None:
        return f"not told apart from {tied_with.name}"
    for better in above:
        decided = compare.decision(better, one)
        if decided is not None:
            _, measure = decided
            values = [measure.sign * mean_of(measure.clips(each)) for each in (one, better)]
            return f"{measure.worse} than {better.name}: {_shown(values[0])} against {_shown(values[1])}"
    return "best by the rule" if not above else f"below {above[0].name}"


def _shown(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not a number"


def _verdict(placed: Sequence[Candidate], compare: _Comparison) -> str:
    """The result in a sentence."""
    if not placed:
        return "Nothing was measured."
    first = [one for one in placed if one.rank == 1]
    measure, clips = compare.shared(first[0])
    if len(placed) == 1:
        return f"Only {first[0].name} was measured."
    few = f"; {clips} clips cannot tell candidates apart, {FEWEST} are needed" if clips < FEWEST else ""
    if len(first) == 1:
        decided = compare.decision(first[0], placed[1])
        why = f"; the next, {placed[1].name}, has {decided[1].worse}" if decided else ""
        return f"{first[0].name} is the best of {len(placed)}{why}."
    lowest = min(first, key=lambda one: mean_of(measure.clips(one)))
    extreme = "highest" if measure.sign < 0 else "lowest"
    who = "All" if len(first) == len(placed) else f"The first {len(first)} of {len(placed)}"
    tie = f"{who} are tied: no difference between them is more than chance{few}."
    return f"{tie} {lowest.name} has the {extreme} {measure.what}."
