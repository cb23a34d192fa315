"""Plans a merge: for every tensor, from which models it is computed and how. Planning reads no tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import Tensor
from xtts_export_callback.errors import ConfigError, IncompatibleError
from xtts_export_callback.export.precision import computed_type, types_of
from xtts_export_callback.inference_folder.provenance import training_state
from xtts_export_callback.merge.models import VOCAB_TENSORS, OpenModel, group_names
from xtts_export_callback.merge.vocabulary import MergedVocabulary, RowSum, aligned
from xtts_export_callback.tensors.computed import ComputedStorage, blocks, bytes_read, widest
from xtts_export_callback.tensors.dtypes import BY_NAME, DType
from xtts_export_callback.tensors.weighted_sum import WeightedSum
from xtts_export_callback.units import human_size
from xtts_export_callback.xtts.patterns import matches, suggestion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xtts_export_callback.merge.recipe import Recipe, Rule
    from xtts_export_callback.xtts.assets import Assets


@dataclass
class Plan:
    """A merge that is planned but not carried out.

    Attributes:
        recipe: What was asked for.
        models: The inputs, those of the recipe's models first, then the base where there is one.
        vocabulary: The merged one where vocabularies differ, else None.
        assets: What goes beside the result.
        tensors: The result. Floating-point tensors compute when they are read; integers are those of the last or first
            model with a weight, see `integers`.
        integers: For each integer tensor, by name, that of every model with a weight, in order.
        types: The type that each floating-point tensor of the result is stored in, by name.
        rule_of: By name, the rule that matches it, None for the recipe's own settings.
    """

    recipe: Recipe
    models: Sequence[OpenModel]
    vocabulary: MergedVocabulary | None
    assets: Assets
    tensors: dict[str, Tensor] = field(default_factory=dict)
    integers: dict[str, list[Tensor]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    rule_of: dict[str, Rule | None] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the result before quantization, tied tensors counted once."""
        return sum(tensor.nbytes for tensor in self._distinct())

    @property
    def bytes_read(self) -> int:
        """Bytes that will be read from the inputs; integers, which are compared, once per model."""
        inputs = [tensor for name in self.integers for tensor in self.integers[name]]
        computed = [tensor.storage for tensor in self._distinct() if isinstance(tensor.storage, ComputedStorage)]
        return sum(map(_reads, computed)) + sum(map(bytes_read, inputs))

    def differing_integers(self) -> list[str]:
        """Names of the integer tensors that differ between the models with a weight. Reads them."""
        return [
            name
            for name, tensors in self.integers.items()
            if not all(same_elements(tensors[0], other) for other in tensors[1:])
        ]

    def describe(self) -> list[str]:
        """Describe the plan in lines: the models, then for each rule its tensors and effective weights."""
        lines = [f"{len(self.tensors)} tensors from {len(self.models)} models"]
        for model in self.models:
            half = f", {model.half_precision}" if model.half_precision else ""
            step = training_state(model.checkpoint)["step"]
            lines.append(f"  {model.source.name}: {model.path} (step {step}{half})")
        for what, how, names in self.steps():
            lines.append(f"{what}: {how}")
            size = human_size(sum(self.tensors[name].nbytes for name in names))
            lines.append(f"  {len(names)} tensors, {size}: {', '.join(group_names(names))}")
        if self.integers:
            lines.append(
                f"{len(self.integers)} integer tensors: where they differ, from the {self.recipe.integers} model"
            )
        if self.vocabulary is not None:
            lines.append(f"vocabulary: {self.recipe.vocab}, {self.vocabulary.size} tokens")
        types = sorted(set(self.types.values()))
        lines.append(f"reads {human_size(self.bytes_read)}, writes {human_size(self.nbytes)} of {', '.join(types)}")
        return lines

    def steps(self) -> list[tuple[str, str, list[str]]]:
        """List each rule in use, then the rest: which tensors, how they are merged, and their names."""
        found = []
        for rule in (*self.recipe.rules, None):
            names = [name for name, its_rule in self.rule_of.items() if its_rule is rule]
            if names:
                what = " ".join(rule.patterns) if rule else "everything else" if self.recipe.rules else "every tensor"
                found.append((what, self._recipe_of(rule), names))
        return found

    def _recipe_of(self, rule: Rule | None) -> str:
        if rule is not None and rule.take is not None:
            return f"those of {rule.take}"
        settings = rule.settings if rule is not None and rule.settings is not None else self.recipe.settings
        return settings.describe([model.name for model in self.recipe.models])

    def _distinct(self) -> list[Tensor]:
        return list({tensor.view_key: tensor for tensor in self.tensors.values()}.values())


def make_plan(recipe: Recipe, models: Sequence[OpenModel], vocabulary: MergedVocabulary | None, assets: Assets) -> Plan:
    """Plan a merge.

    Args:
        recipe: What was asked for.
        models: Compatible inputs, in the order of ``recipe.inputs``.
        vocabulary: How their vocabularies merge, None where they are the same.
        assets: What goes beside the result.

    Raises:
        ConfigError: When a rule matches no tensor, or only tensors that earlier rules match.
        IncompatibleError: When tied tensors fall under different rules.
    """
    plan = Plan(recipe, models, vocabulary, assets)
    plan.rule_of = _assign(recipe, list(models[0].tensors))
    plan.types = types_of(models[0].tensors, recipe.dtype, recipe.precision)
    done: dict[tuple[Any, ...], tuple[str, Tensor]] = {}
    for name in models[0].tensors:
        inputs = [model.tensors[name] for model in models]
        tied = tuple(tensor.view_key for tensor in inputs)
        rule = plan.rule_of[name]
        if tied in done and plan.rule_of[done[tied][0]] is not rule:
            msg = f"{recipe.where}: {name} and {done[tied][0]} are one tensor, but fall under different rules"
            raise IncompatibleError(msg)
        if not inputs[0].dtype.is_float:
            plan.integers[name] = _counting(recipe, rule, inputs)
            plan.tensors[name] = plan.integers[name][-1 if recipe.integers == "last" else 0]
            continue
        if tied not in done:
            done[tied] = (name, _merged(plan, name, rule, inputs))
        plan.tensors[name] = done[tied][1]
        if recipe.dtype is None:
            plan.types[name] = plan.tensors[name].dtype.name
    return plan


def _assign(recipe: Recipe, names: list[str]) -> dict[str, Rule | None]:
    found: dict[str, Rule | None] = {}
    for name in names:
        fitting = (rule for rule in recipe.rules if any(matches(pattern, name) for pattern in rule.patterns))
        found[name] = next(fitting, None)
    for rule in recipe.rules:
        for pattern in rule.patterns:
            if not any(matches(pattern, name) for name in names):
                msg = f"{rule.place}.match: {pattern!r:.80} matches no tensor{suggestion(pattern[:200], names)}"
                raise ConfigError(msg)
        if all(other is not rule for other in found.values()):
            msg = f"{rule.place}: never reached: earlier rules match all that it matches; put the narrower rule first"
            raise ConfigError(msg)
    return found


def _coefficients(recipe: Recipe, rule: Rule | None) -> list[float]:
    """The weight of each input; for slerp and ties it only matters whether it is 0."""
    if rule is not None and rule.take is not None:
        return [float(source.name == rule.take) for source in recipe.inputs]
    settings = rule.settings if rule is not None and rule.settings is not None else recipe.settings
    parts = settings.coefficients()
    weights = [weight / parts.divisor for weight in parts.models]
    return [*weights, *([parts.base] if recipe.base is not None else [])]


def _counting(recipe: Recipe, rule: Rule | None, inputs: list[Tensor]) -> list[Tensor]:
    """The models with a weight, or the base where no model has one."""
    weights = _coefficients(recipe, rule)
    models = len(recipe.models)
    chosen = [tensor for tensor, weight in zip(inputs[:models], weights, strict=False) if weight != 0]
    return chosen or inputs[models:]


def _merged(plan: Plan, name: str, rule: Rule | None, inputs: list[Tensor]) -> Tensor:
    recipe = plan.recipe
    weights = _coefficients(recipe, rule)
    counting = [tensor for tensor, weight in zip(inputs, weights, strict=True) if weight != 0]
    dtype = BY_NAME[computed_type(plan.types[name])] if recipe.dtype else widest(tensor.dtype for tensor in counting)
    settings = rule.settings if rule is not None and rule.settings is not None else recipe.settings
    is_sum = (rule is not None and rule.take is not None) or settings.is_sum
    shape = inputs[0].shape
    if plan.vocabulary is not None and name in VOCAB_TENSORS:
        shape = (plan.vocabulary.size, *shape[1:])
        if is_sum:
            return Tensor.contiguous(_row_sum(plan, name, inputs, weights, dtype), dtype, shape)
        inputs = _align(plan, name, inputs)
    storage: ComputedStorage
    if rule is not None and rule.take is not None:
        storage = WeightedSum(name, inputs, weights, 1.0, dtype)
    else:
        models = len(recipe.models)
        storage = settings.storage(name, inputs[:models], inputs[models] if recipe.base is not None else None, dtype)
    return Tensor.contiguous(storage, dtype, shape)


def _shares(plan: Plan) -> tuple[list[float], int | None]:
    """Weights of the inputs in a token that another input lacks, and the index of the base."""
    has_base = plan.recipe.base is not None
    weights = [*plan.recipe.settings.weights, *([0.0] if has_base else [])]
    return weights, len(plan.recipe.models) if has_base else None


def _row_sum(plan: Plan, name: str, inputs: list[Tensor], weights: list[float], dtype: DType) -> RowSum:
    import numpy as np

    assert plan.vocabulary is not None
    parts = aligned(plan.vocabulary.rows, *_shares(plan))
    total = np.sum([weight * part for weight, part in zip(weights, parts, strict=True)], axis=0)
    return RowSum(name, inputs, plan.vocabulary.rows, total, dtype)


def _align(plan: Plan, name: str, inputs: list[Tensor]) -> list[Tensor]:
    """Extend each input to every token, in float64 so that nothing is rounded twice."""
    assert plan.vocabulary is not None
    wide = BY_NAME["float64"]
    result = []
    for tensor, part in zip(inputs, aligned(plan.vocabulary.rows, *_shares(plan)), strict=True):
        storage = RowSum(name, inputs, plan.vocabulary.rows, part, wide)
        shape = (plan.vocabulary.size, *tensor.shape[1:])
        result.append(Tensor.contiguous(storage, wide, shape))
    return result


def _reads(storage: ComputedStorage) -> int:
    """Bytes read from files to compute a storage."""
    total = 0
    for tensor, times in zip(storage.inputs, storage.times_read, strict=True):
        inner = tensor.storage
        total += times * (_reads(inner) if isinstance(inner, ComputedStorage) else bytes_read(tensor))
    return total


def same_elements(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same, bit patterns of NaN apart. Reads them."""
    import numpy as np

    if one.dtype is not other.dtype or one.shape != other.shape:
        return False
    return all(np.array_equal(mine, its) for mine, its in zip(blocks(one), blocks(other), strict=True))
