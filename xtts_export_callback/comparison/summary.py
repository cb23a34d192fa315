"""Describes a comparison in plain words."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from xtts_export_callback.xtts.components import BY_KEY, component_of
from xtts_export_callback.xtts.parts import part_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xtts_export_callback.comparison.distance import Difference
    from xtts_export_callback.comparison.models import ComparisonReport

_FEW = 3
_PLAIN = 0.0995  # from here on two digits need no decimal point
_LONG = 1e7  # from here on all digits are too many
_MOST, _EVEN = 0.8, 0.5  # this share of all change in less than that share of the layers is worth naming


def describe(report: ComparisonReport) -> str:
    """Describe a comparison in plain words. Layers are named where less than half of them hold 80 % of the change."""
    if not report.tensors:
        return "the files have no tensor of the same name and shape in common"
    components = report.components
    same = [BY_KEY[key].title for key, found in components.items() if found.is_identical]
    recast = [BY_KEY[key].title for key, found in components.items() if not found.is_identical and not found.changed]
    moved = {key: found for key, found in components.items() if found.changed}
    if len(same) == len(components):
        text = "all weights are bit-identical"
        return text if not report.differ else f"{text}, but other things differ"
    clauses = [f"{_list_of(same)} {_verb(same, 'is', 'are')} bit-identical"] if same else []
    clauses += [f"{_list_of(recast)} {_verb(recast, 'has', 'have')} equal values in another dtype"] if recast else []
    clauses += [_changed(key, found, report) for key, found in moved.items()]
    return "; ".join(clauses)


def _changed(key: str, found: Difference, report: ComparisonReport) -> str:
    """Describe how one component changed: the distance first, then what a distance does not show."""
    title = BY_KEY[key].title
    tensors = {name: item for name, item in report.changed_tensors.items() if component_of(name) == key}
    differ = _verb([title], "differs", "differ")
    texts = [_moved(key, found, report, tensors)] if found.square_difference else []
    integers = sum(item.changed for item in tensors.values() if item.is_counter and not item.unmeasured)
    if integers and not texts:
        texts.append(f"{differ} in {count(integers, 'integer')}")
    if found.unmeasured:
        types = " and ".join(found.unmeasured)
        texts.append(f"{differ} in values of {types}, for which no distance is measured")
    if found.nonfinite:
        where = f"in {places(name for name, item in tensors.items() if item.nonfinite)}" if key == "gpt" else ""
        values, verb = count(found.nonfinite, "value"), "is" if found.nonfinite == 1 else "are"
        texts.append(f"{values} {verb} NaN or infinite {where}".rstrip())
        if len(texts) == 1:
            holds = _verb([title], "holds", "hold")
            return f"the {title} {holds} {values} that {verb} NaN or infinite {where}".rstrip()
    return f"the {title} {', '.join(texts)}"


def _moved(key: str, found: Difference, report: ComparisonReport, tensors: dict[str, Difference]) -> str:
    is_overflow = math.isnan(found.relative_l2)
    text = f"moved by {'more than float64 can measure' if is_overflow else percent(found.relative_l2)}"
    changed = [name for name, item in tensors.items() if item.changed]
    if len(changed) <= _FEW:
        elements = sum(report.tensors[name].changed for name in changed)
        return f"{text}, all of it in {count(elements, 'element')} of {', '.join(changed)}"
    if key != "gpt" or not report.layers:
        return text
    if not any(item.square_difference for item in report.layers.values()):
        return f"{text}, all of it outside its layers"
    layers = concentration(report.layers)
    most = f", most in {_range(*layers)}" if layers is not None else ""
    return f"{text}{most}{spread(report.layers)}"


def spread(layers: dict[int, Difference]) -> str:
    """Say how far the layers moved: the least, the most and the middle, each relative to its own size.

    Returns:
        A clause in parentheses; empty where a distance is not finite, or with less than two layers.
    """
    distances = {number: found.relative_l2 for number, found in layers.items()}
    if len(distances) < 2 or not all(map(math.isfinite, distances.values())):
        return ""
    least, most = min(distances, key=distances.__getitem__), max(distances, key=distances.__getitem__)
    low, high = percent(distances[least]), percent(distances[most])
    if low == high:
        return f" (each layer by {low} of its own size)"
    middle = percent(statistics.median(distances.values()))
    return f" (layers by {low} to {high} of their own size, {middle} in the middle; least layer {least}, most {most})"


def concentration(layers: dict[int, Difference]) -> tuple[int, int] | None:
    """The layers that hold most of the change, if they are few.

    Args:
        layers: Differences by number of the layer.

    Returns:
        First and last of the shortest run of layers with 80 % of the sum of the squared relative distances, extended by
        neighbours that hold at least half of its average. None if that is at least half of all layers, or if the
        distance of a layer is not finite.
    """
    numbers = sorted(layers)
    distances = [layers[number].relative_l2 for number in numbers]
    weights = [distance * distance for distance in distances]  # where ** would raise, this overflows to infinity
    everything = sum(weights)
    if not math.isfinite(everything) or everything == 0:
        return None
    start, stop = _shortest_run(weights, _MOST * everything)
    enough = math.fsum(weights[start:stop]) / (stop - start) / 2
    while start > 0 and weights[start - 1] >= enough:
        start -= 1
    while stop < len(weights) and weights[stop] >= enough:
        stop += 1
    return (numbers[start], numbers[stop - 1]) if stop - start < _EVEN * len(numbers) else None


def _shortest_run(weights: list[float], least: float) -> tuple[int, int]:
    """Start and past-the-end of the shortest run whose sum is at least ``least``, the heaviest of its length."""
    for length in range(1, len(weights)):
        sums = [math.fsum(weights[start : start + length]) for start in range(len(weights) - length + 1)]
        best = max(range(len(sums)), key=sums.__getitem__)
        if sums[best] >= least:
            return best, best + length
    return 0, len(weights)


def percent(value: float) -> str:
    """Format a share: ``0.4 %``, ``140 %``, and never ``0 %`` unless it is zero.

    Args:
        value: The share; infinite for a share of zero, NaN where it has no value or is too large for float64.
    """
    if math.isnan(value):
        return "not measurable"
    if math.isinf(value):
        return "infinitely much (it was zero)"
    return f"{value * 100:.0f} %" if _PLAIN <= value < _LONG else f"{value * 100:.2g} %"


def places(names: Iterable[str]) -> str:
    """Name the places of tensors in the model: ``layers 5 to 7, the audio head``."""
    parts = [part_of(name) for name in names]
    layers = sorted({part.layer for part in parts if part.layer is not None})
    return places_of(layers, dict.fromkeys(part.title for part in parts if part.layer is None))


def places_of(layers: Iterable[int], titles: Iterable[str]) -> str:
    """Name places, given sorted layer numbers and titles of other parts."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    found = [_range(first, last) for first, last in runs] + [f"the {title}" for title in titles]
    shown = ", ".join(found[:_FEW])
    return f"{shown} and {len(found) - _FEW} more places" if len(found) > _FEW + 1 else ", ".join(found)


def count(number: int, what: str) -> str:
    """``1 step``, ``1,234 steps``."""
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _list_of(titles: list[str]) -> str:
    named = [f"the {title}" for title in titles]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _verb(titles: list[str], one: str, many: str) -> str:
    return one if len(titles) == 1 and not titles[0].endswith("s") else many


def _range(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first} to {last}"
