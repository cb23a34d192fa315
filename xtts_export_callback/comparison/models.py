"""Compares two models: `compare_checkpoints`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import Checkpoint, open_checkpoint
from xtts_export_callback.comparison.distance import Difference, total, trajectories
from xtts_export_callback.comparison.metadata import config_differences, config_pair, vocabulary_differences
from xtts_export_callback.comparison.summary import describe
from xtts_export_callback.xtts.components import COMPONENTS, component_of
from xtts_export_callback.xtts.parts import part_of
from xtts_export_callback.xtts.state_dict import bare_name, check_readable, dropped_component

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from xtts_export_callback.tensors.tensor import Tensor


@dataclass(frozen=True)
class ComparisonReport:
    """How B differs from A.

    Attributes:
        a: The file of the reference.
        b: The file compared with it.
        only_a: Names of tensors that only A has; components that B lacks altogether are in `components_only_a`.
        only_b: The same for B.
        components_only_a: Components that only training needs and that only A has, with their number of tensors.
        components_only_b: The same for B.
        shapes: Shapes in A and B, by the name of a tensor, where they differ; those are not measured.
        dtypes: Dtypes in A and B, by name, where they differ.
        config: Values in A and B, by field, where they differ, `metadata.ABSENT` for a field that one lacks; except
            local paths and, beside an export, fields that only training reads. None where one has no config.
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
        """Whether the models differ; tensors that only training needs do not count."""
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
        """Tensors that are not identical, those that hold NaN or infinity first, then the most changed."""
        changed = {name: found for name, found in self.tensors.items() if not found.is_identical}
        return dict(sorted(changed.items(), key=lambda item: _urgency(item[1]), reverse=True))

    @property
    def sentence(self) -> str:
        """The result in plain words."""
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
            "config": {name: config_pair(pair) for name, pair in self.config.items()}
            if self.config is not None
            else None,
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


def _urgency(found: Difference) -> tuple[bool, bool, float]:
    is_overflow = math.isnan(found.relative_l2)
    return found.nonfinite > 0, is_overflow, 0.0 if is_overflow else found.relative_l2


def _part_outside_layers(name: str) -> str:
    part = part_of(name)
    return part.title if part.component == "gpt" and part.layer is None else ""


def compare_checkpoints(
    a: str | os.PathLike[str], b: str | os.PathLike[str], *, progress: Callable[[int], None] | None = None
) -> ComparisonReport:
    """Compare two models tensor by tensor, streaming both and ignoring the Trainer's prefixes.

    Args:
        a: The reference: a checkpoint of any kind.
        b: The checkpoint to compare with it.
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

    def count_a(model: int, nbytes: int) -> None:
        if progress is not None and model == 0:
            progress(nbytes)

    found = trajectories((mine, other), measured, count_a)
    return ComparisonReport(
        a=a.path,
        b=b.path,
        only_a=only_a,
        only_b=only_b,
        components_only_a=components_only_a,
        components_only_b=components_only_b,
        shapes=shapes,
        dtypes=dtypes,
        config=config_differences(a, b),
        vocabulary=vocabulary_differences((a, mine), (b, other)),
        tensors={name: trajectory.steps[1] for name, trajectory in found.items()},
    )


def bare_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """A checkpoint's tensors by names without prefix, except the duplicate names that a test run leaves behind."""
    check_readable(checkpoint)
    named = {bare_name(name): tensor for name, tensor in checkpoint.tensors.items()}
    return {name: tensor for name, tensor in named.items() if component_of(name) != "leftovers"}


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
