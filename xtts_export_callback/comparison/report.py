"""What differs between two models: `compare_checkpoints`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.assets import clean_config, find_assets, read_json_object, vocab_tokens
from xtts_export_callback.checkpoint import Checkpoint, open_checkpoint
from xtts_export_callback.checkpoint.layout import TEXT_EMBEDDING, bare_name, dropped_component
from xtts_export_callback.checkpoint.read import MODEL_NAMES
from xtts_export_callback.comparison.measure import Difference, differences, total
from xtts_export_callback.comparison.parts import part_of
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.inspection.components import BY_KEY, COMPONENTS, component_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from xtts_export_callback.checkpoint.tensor import Tensor

_MISSING = "(absent)"
_FEW = 3
_PLAIN = 0.0995  # from here on two digits need no decimal point
_MOST, _EVEN = 0.8, 0.5  # this share of all change in less than that share of the layers is worth naming


@dataclass(frozen=True)
class ComparisonReport:
    """How B differs from A.

    Attributes:
        a: The file that is the reference.
        b: The file that is compared with it.
        only_a: Names of tensors that only A has; components that B lacks altogether are in `components_only_a`.
        only_b: The same for B.
        components_only_a: Components that only training needs and that only A has, with their number of tensors.
        components_only_b: The same for B.
        shapes: Shapes in A and B, by the name of a tensor, where they differ; those are not measured.
        dtypes: Dtypes in A and B, by name, where they differ.
        config: Values in A and B, by field, where they differ; local paths and what only training reads aside. None
            where one of them has no config.
        vocabulary: ``only_a``, ``only_b`` and ``moved`` tokens; None where a vocabulary could not be found.
        tensors: The difference of each tensor that both have.
    """

    a: Path
    b: Path
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    components_only_a: dict[str, int]
    components_only_b: dict[str, int]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    dtypes: dict[str, tuple[str, str]]
    config: dict[str, tuple[Any, Any]] | None
    vocabulary: dict[str, list[str]] | None
    tensors: dict[str, Difference] = field(repr=False)

    @property
    def differ(self) -> bool:
        """Whether anything differs that makes a model: what one file merely carries for training does not count."""
        structure = self.only_a or self.only_b or self.shapes or self.dtypes or self.config
        vocabulary = self.vocabulary is not None and any(self.vocabulary.values())
        return bool(structure) or vocabulary or not all(found.is_identical for found in self.tensors.values())

    @property
    def components(self) -> dict[str, Difference]:
        """The difference of each component, by its key."""
        return self._grouped(component_of)

    @property
    def parts(self) -> dict[str, Difference]:
        """The difference of each part of the GPT outside its layers, by title."""
        outside = self._grouped(_part_outside_layers)
        outside.pop("", None)
        return outside

    @property
    def layers(self) -> dict[int, Difference]:
        """The difference of each layer of the GPT, by number."""
        layers = self._grouped(lambda name: part_of(name).layer)
        layers.pop(None, None)
        return dict(sorted(layers.items()))

    @property
    def cells(self) -> dict[tuple[int, str], Difference]:
        """The difference by layer of the GPT and kind of weight."""
        cells = self._grouped(lambda name: (part_of(name).layer, part_of(name).kind))
        return {(layer, kind): found for (layer, kind), found in cells.items() if layer is not None}

    @property
    def changed_tensors(self) -> dict[str, Difference]:
        """Tensors that are not identical, the most changed first."""
        changed = {name: found for name, found in self.tensors.items() if not found.is_identical}
        return dict(sorted(changed.items(), key=lambda item: -item[1].relative_l2))

    @property
    def sentence(self) -> str:
        """What happened, in plain words."""
        return describe(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "a": str(self.a),
            "b": str(self.b),
            "differ": self.differ,
            "summary": self.sentence,
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "components_only_a": self.components_only_a,
            "components_only_b": self.components_only_b,
            "shapes": {name: [list(mine), list(other)] for name, (mine, other) in self.shapes.items()},
            "dtypes": {name: list(pair) for name, pair in self.dtypes.items()},
            "config": {name: list(pair) for name, pair in self.config.items()} if self.config is not None else None,
            "vocabulary": self.vocabulary,
            "components": {key: found.to_dict() for key, found in self.components.items()},
            "parts": {title: found.to_dict() for title, found in self.parts.items()},
            "layers": {str(layer): found.to_dict() for layer, found in self.layers.items()},
            "tensors": {name: found.to_dict() for name, found in self.changed_tensors.items()},
        }

    def _grouped(self, key: Callable[[str], Any]) -> dict[Any, Difference]:
        groups: dict[Any, list[Difference]] = {}
        for name, found in self.tensors.items():
            groups.setdefault(key(name), []).append(found)
        return {name: total(found) for name, found in groups.items()}


def _part_outside_layers(name: str) -> str:
    part = part_of(name)
    return part.title if part.component == "gpt" and part.layer is None else ""


def compare_checkpoints(
    a: str | os.PathLike[str], b: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None
) -> ComparisonReport:
    """Compare two models tensor by tensor, streaming both; prefixes of the Trainer aside.

    Args:
        a: The reference: a checkpoint of any kind.
        b: What is compared with it.
        progress: Called with the number of bytes of ``a`` compared since the last call, from any thread.

    Returns:
        The report. Values are compared in float64, whatever the dtypes.

    Raises:
        CheckpointError: When a file cannot be read or is damaged.

    Example:
        >>> print(compare_checkpoints("base/model.pth", "run/checkpoint_1000.pth").sentence)
        the HiFi-GAN, the speaker encoder and the mel statistics are bit-identical; the GPT moved by 0.4 % ...
    """
    with open_checkpoint(a) as first, open_checkpoint(b) as second:
        return compare_open(first, second, progress=progress)


def compare_open(a: Checkpoint, b: Checkpoint, *, progress: Callable[[int], None] | None = None) -> ComparisonReport:
    """`compare_checkpoints` for checkpoints that are open."""
    mine, other = bare_tensors(a), bare_tensors(b)
    only_a, components_only_a = _only(mine, other)
    only_b, components_only_b = _only(other, mine)
    both = [name for name in mine if name in other]
    shapes = {name: (mine[name].shape, other[name].shape) for name in both if mine[name].shape != other[name].shape}
    measured = [name for name in both if name not in shapes]
    pairs = {name: (mine[name].dtype.name, other[name].dtype.name) for name in both}
    dtypes = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    found = differences({name: mine[name] for name in measured}, {name: other[name] for name in measured}, progress)
    return ComparisonReport(
        a=a.path,
        b=b.path,
        only_a=only_a,
        only_b=only_b,
        components_only_a=components_only_a,
        components_only_b=components_only_b,
        shapes=shapes,
        dtypes=dtypes,
        config=_config_differences(a, b),
        vocabulary=_vocabulary_differences((a, mine), (b, other)),
        tensors=found,
    )


def bare_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """A checkpoint's model by bare names, without the second names that a test run leaves behind."""
    named = {bare_name(name): tensor for name, tensor in checkpoint.tensors.items()}
    return {name: tensor for name, tensor in named.items() if component_of(name) != "leftovers"}


def describe(report: ComparisonReport) -> str:
    """What happened, in plain words. Layers are named where less than half of them hold 80 % of the change."""
    if not report.tensors:
        return "the files have no tensor of the same name and shape in common"
    components = report.components
    same = [BY_KEY[key].title for key, found in components.items() if found.is_identical]
    recast = [BY_KEY[key].title for key, found in components.items() if not found.is_identical and not found.changed]
    moved = {key: found for key, found in components.items() if found.changed}
    if len(same) == len(components):
        text = "all weights are bit-identical"
        return text if not report.differ else f"{text}, but not all else is"
    clauses = [f"{_list_of(same)} {_is(same)} bit-identical"] if same else []
    clauses += [f"{_list_of(recast)} {_has(recast)} equal values in another dtype"] if recast else []
    clauses += [_moved(key, found, report) for key, found in moved.items()]
    return "; ".join(clauses)


def _moved(key: str, found: Difference, report: ComparisonReport) -> str:
    changed = [name for name, item in report.changed_tensors.items() if component_of(name) == key and item.changed]
    if found.square_difference == 0:
        return f"the {BY_KEY[key].title} differs in {found.changed} integers or values that are not finite"
    text = f"the {BY_KEY[key].title} moved by {percent(found.relative_l2)}"
    if len(changed) <= _FEW:
        elements = sum(report.tensors[name].changed for name in changed)
        what = f"{elements} element{'s' if elements > 1 else ''}"
        return f"{text}, all of it in {what} of {', '.join(changed)}"
    if key != "gpt" or not report.layers:
        return text
    layers = concentration(report.layers)
    still = [layer for layer, item in report.layers.items() if not item.changed]
    if len(still) == len(report.layers):
        return f"{text}, all of it outside its layers"
    return f"{text}, most in {_range(layers)}" if layers is not None else f"{text}, evenly across its layers"


def concentration(layers: dict[int, Difference]) -> tuple[int, int] | None:
    """The layers that hold most of the change, if they are few.

    Args:
        layers: Differences by number of the layer.

    Returns:
        First and last of the shortest run of layers with 80 % of the sum of the squared relative distances, and of
        neighbours that hold at least half of what its layers hold on average. None where that is not less than half
        of all layers.
    """
    numbers = sorted(layers)
    weights = [layers[number].relative_l2 ** 2 for number in numbers]
    everything = math.fsum(weights)
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
    """A share as people read it: ``0.4 %``, ``140 %``, and never ``0 %`` for what is not zero."""
    if not math.isfinite(value):
        return "infinitely much (it was zero)"
    return f"{value * 100:.0f} %" if value >= _PLAIN else f"{value * 100:.2g} %"


def _only(mine: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names that the other lacks, and components for training that it lacks altogether."""
    others = {component_of(name) for name in other}
    names = []
    components: dict[str, int] = {}
    for name in mine:
        component = component_of(name)
        if name in other:
            continue
        if dropped_component(name) is not None and component not in others:
            components[component] = components.get(component, 0) + 1
        else:
            names.append(name)
    order = [component.key for component in COMPONENTS]
    return tuple(names), dict(sorted(components.items(), key=lambda item: order.index(item[0])))


def _config_differences(a: Checkpoint, b: Checkpoint) -> dict[str, tuple[Any, Any]] | None:
    configs = []
    for checkpoint in (a, b):
        config = config_of(checkpoint)
        if not config:
            return None
        # What an export blanks says nothing about a model, and an export fills in the number of text tokens.
        configs.append(_flat(clean_config(config, 0)))
    names = dict.fromkeys((*configs[0], *configs[1]))
    pairs = {name: (configs[0].get(name, _MISSING), configs[1].get(name, _MISSING)) for name in names}
    return {name: pair for name, pair in pairs.items() if not _same_value(*pair)}


def config_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config in a checkpoint, or else the one beside a ``model.pth``; empty where there is none.

    Raises:
        ConfigError: When the one beside it is no JSON object.
    """
    inside = checkpoint.document.get("config")
    if isinstance(inside, dict) and inside:
        return inside
    beside = checkpoint.path.with_name("config.json")
    return read_json_object(beside) if checkpoint.path.name in MODEL_NAMES and beside.is_file() else {}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _same_value(a: Any, b: Any) -> bool:
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def _vocabulary_differences(
    a: tuple[Checkpoint, dict[str, Tensor]], b: tuple[Checkpoint, dict[str, Tensor]]
) -> dict[str, list[str]] | None:
    found = []
    for checkpoint, tensors in (a, b):
        try:
            content = find_assets(checkpoint, tensors).vocab_bytes if TEXT_EMBEDDING in tensors else None
        except ConfigError:
            content = None
        if content is None:
            return None
        found.append(vocab_tokens(content, str(checkpoint.path)))
    mine, other = found
    return {
        "only_a": sorted(mine.keys() - other.keys(), key=mine.__getitem__),
        "only_b": sorted(other.keys() - mine.keys(), key=other.__getitem__),
        "moved": sorted((token for token, row in mine.items() if other.get(token, row) != row), key=mine.__getitem__),
    }


def _list_of(titles: list[str]) -> str:
    named = [f"the {title}" for title in titles]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _is(titles: list[str]) -> str:
    return "is" if len(titles) == 1 and not titles[0].endswith("s") else "are"


def _has(titles: list[str]) -> str:
    return "has" if len(titles) == 1 and not titles[0].endswith("s") else "have"


def _range(layers: tuple[int, int]) -> str:
    return f"layer {layers[0]}" if layers[0] == layers[1] else f"layers {layers[0]} to {layers[1]}"
