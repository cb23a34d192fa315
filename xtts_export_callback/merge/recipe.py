"""Reads merge recipes and checks their keys and values, with a clear error for each wrong one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.reader import MODEL_NAMES
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.export.precision import TYPES
from xtts_export_callback.files.paths import as_path, expanded
from xtts_export_callback.files.remote import RemotePath
from xtts_export_callback.merge.methods.registry import METHODS, WITH_BASE, methods_using
from xtts_export_callback.merge.methods.settings import DEFAULT_DENSITY, Method, check_weights
from xtts_export_callback.merge.methods.weighted_sums import Linear
from xtts_export_callback.merge.yaml import Table, load_yaml
from xtts_export_callback.run.checkpoints import last_checkpoints

if TYPE_CHECKING:
    import os

BASE = "base"
INTEGER_POLICIES = ("last", "first")
VOCAB_POLICIES = ("union", "intersect")

_SETTINGS = ("method", "weights", "normalize", "scale", "density")
_MODEL_KEYS = ("path", "run", "last", "name", "weight", "vocab_file", "config")
_BASE_KEYS = ("path", "vocab_file", "config")
_RULE_KEYS = ("match", "take", *_SETTINGS)
_KEYS = ("models", "base", *_SETTINGS, "integers", "vocab", "dtype", "precision", "rules")


@dataclass(frozen=True)
class ModelSource:
    """One input.

    Attributes:
        path: Where it is.
        name: Its name in rules and reports.
        vocab: Its ``vocab.json``, if it is not found automatically.
        config: A ``config.json`` to use in place of its own.
    """

    path: Path
    name: str
    vocab: Path | None = None
    config: Path | None = None


@dataclass(frozen=True)
class Rule:
    """How the tensors that match some patterns are merged.

    Attributes:
        patterns: Patterns or aliases.
        settings: How they are merged, or None where they are taken.
        take: Name of the model whose tensors they become.
        place: Its place in the recipe, for messages.
    """

    patterns: tuple[str, ...]
    settings: Method | None
    take: str | None
    place: str


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Attributes:
        models: The inputs; those of a run oldest first.
        settings: How tensors are merged that no rule matches.
        base: What the models were trained from.
        rules: First match wins.
        integers: Whose integers are taken where they differ: those of the last or of the first model.
        vocab: How different vocabularies are merged, or None where they must be the same.
        dtype: Type of the floating-point results, or None for that of the inputs.
        where: The recipe's name in messages.
        precision: Types of parts, by pattern: see `export.precision`.
    """

    models: tuple[ModelSource, ...]
    settings: Method
    base: ModelSource | None = None
    rules: tuple[Rule, ...] = ()
    integers: str = "last"
    vocab: str | None = None
    dtype: str | None = None
    where: str = "recipe"
    precision: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[ModelSource, ...]:
        """The models, then the base where there is one."""
        return (*self.models, *((self.base,) if self.base is not None else ()))


def load_recipe(recipe: str | os.PathLike[str] | Mapping[str, Any]) -> Recipe:
    """Read and check a recipe; no model is opened.

    Args:
        recipe: A YAML file, whose paths are relative to its folder, or the same as a dict, whose paths are relative to
            the working directory.

    Raises:
        ConfigError: In one line: the recipe, the key, expected, found.
    """
    if isinstance(recipe, Mapping):
        return parse_recipe(dict(recipe), "recipe", Path())
    path = as_path(recipe)
    return parse_recipe(load_yaml(path), str(path), path.parent)


def parse_recipe(value: Any, where: str, folder: Path) -> Recipe:
    """Check a recipe that was read from a file.

    Args:
        value: The parsed YAML.
        where: Its name in messages.
        folder: Paths are relative to it.
    """
    table = Table(value, where, keys=_KEYS)
    models, weights = _parse_models(table, folder)
    base = _parse_base(table, folder)
    if "weights" in table and weights is not None:
        table.fail("weights", "weights either here or at the models", table.get("weights"))
    names = [model.name for model in models]
    settings = _parse_settings(table, names, weights or [1.0] * len(models), None, has_base=base is not None)
    rules = _parse_rules(table, names, settings, has_base=base is not None)
    needs_base = [each for each in (settings, *(rule.settings for rule in rules)) if each and each.needs_base]
    if base is not None and not needs_base and not any(rule.take == BASE for rule in rules):
        table.fail("base", f"a method that uses the base ({', '.join(WITH_BASE)})", settings.method)
    return Recipe(
        tuple(models),
        settings,
        base,
        tuple(rules),
        table.choice("integers", INTEGER_POLICIES, "last") or "last",
        table.choice("vocab", VOCAB_POLICIES),
        table.choice("dtype", TYPES),
        where,
        _parse_precision(table),
    )


def _parse_precision(table: Table) -> dict[str, str]:
    value = table.get("precision") if "precision" in table else {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        table.fail("precision", "types by pattern, such as {decoder: float32}", value)
    for pattern, dtype in value.items():
        if dtype not in TYPES:
            table.fail(f"precision.{pattern}", f"one of {', '.join(TYPES)}", dtype)
    return dict(value)


def _parse_models(table: Table, folder: Path) -> tuple[list[ModelSource], list[float] | None]:
    models: list[ModelSource] = []
    weights: list[float] = []
    weighted = 0
    entries = table.items("models", "models")
    for index, entry in enumerate(entries):
        key = f"models[{index}]"
        item = Table({"path": entry} if isinstance(entry, str) else entry, table.where, key, keys=_MODEL_KEYS)
        if ("path" in item) == ("run" in item):
            item.fail("", "either path or run", entry)
        found = _models_of(item, folder)
        models += found
        weighted += "weight" in item
        weights += [item.number("weight", 1.0)] * len(found)
    if 0 < weighted < len(entries):
        table.fail("models", "a weight at every model or at none", f"{weighted} of {len(entries)} with one")
    names = [model.name for model in models]
    twice = sorted({name for name in names if names.count(name) > 1 or name == BASE})
    if twice:
        table.fail("models", "a unique name for each (key name)", twice[0])
    return models, weights if weighted else None


def _models_of(item: Table, folder: Path) -> list[ModelSource]:
    """The model of an entry, or the last ones of a run."""
    vocab, config = (_path(item, key, folder) for key in ("vocab_file", "config"))
    if "run" not in item:
        if "last" in item:
            item.fail("last", "run in place of path", item.get("last"))
        path = _resolve(folder, item.required("path"))
        return [ModelSource(path, _name(item) or model_name(path), vocab, config)]
    run = _resolve(folder, item.required("run"))
    if not run.is_dir():
        item.fail("run", "a run folder that exists", str(run))
    try:
        saved = last_checkpoints(run, item.integer("last", 5))
    except ConfigError as error:
        msg = f"{item.where}: {item.path('last')}: {error}"
        raise ConfigError(msg) from error
    prefix = _name(item)
    return [ModelSource(one.path, f"{prefix}_{one.step}" if prefix else one.name, vocab, config) for one in saved]


def _name(item: Table) -> str | None:
    name = item.string("name")
    if name is not None and not name.isprintable():
        item.fail("name", "a name in one line", name)
    return name


def _parse_base(table: Table, folder: Path) -> ModelSource | None:
    value = table.get(BASE)
    if BASE not in table:
        return None
    item = Table({"path": value} if isinstance(value, str) else value, table.where, BASE, keys=_BASE_KEYS)
    vocab, config = (_path(item, key, folder) for key in ("vocab_file", "config"))
    return ModelSource(_resolve(folder, item.required("path")), BASE, vocab, config)


def _parse_rules(table: Table, names: list[str], settings: Method, *, has_base: bool) -> list[Rule]:
    if "rules" not in table:
        return []
    rules = []
    for index, entry in enumerate(table.items("rules", "rules")):
        key = f"rules[{index}]"
        item = Table(entry, table.where, key, keys=_RULE_KEYS)
        value = item.get("match")
        patterns = [value] if isinstance(value, str) else value
        if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) and one for one in patterns):
            item.fail("match", "a pattern or a list of patterns", value)
        named = [one for one in _SETTINGS if one in item]
        if ("take" in item) == bool(named):
            item.fail("", f"either take or some of {', '.join(_SETTINGS)}", entry)
        take = _take(item, [*names, *([BASE] if has_base else [])]) if "take" in item else None
        own = None if take else _parse_settings(item, names, list(settings.weights), settings, has_base=has_base)
        rules.append(Rule(tuple(patterns), own, take, f"{table.where}: {key}"))
    return rules


def _take(item: Table, names: list[str]) -> str:
    name = item.required("take")
    if name not in names:
        close = get_close_matches(name, names, n=1)
        item.fail("take", f"one of {', '.join(names)}", name, f"; did you mean {close[0]}?" if close else "")
    return name


def _parse_settings(
    table: Table, names: list[str], weights: list[float], outer: Method | None, *, has_base: bool
) -> Method:
    """A method and its numbers; a rule inherits those it does not set, unless it changes the method."""
    name = table.choice("method", tuple(METHODS), outer.method if outer else Linear.method) or Linear.method
    method = METHODS[name]
    inherited = outer if outer is not None and outer.method == name else None
    if method.needs_base and not has_base:
        table.fail("base" if outer is None else "method", f"a base for {name}", None if outer is None else name)
    for option in ("scale", "density", "normalize"):
        if option in table and option not in method.options:
            table.fail(option, f"a method that uses it ({', '.join(methods_using(option))})", name)
    found = _weights(table, names) if "weights" in table else weights
    normalize = table.boolean("normalize", default=inherited.normalize if inherited else True)
    _check_method_weights(table, method, found, normalize=normalize)
    density = table.number("density", inherited.density if inherited else DEFAULT_DENSITY, low=0.0, high=1.0)
    if density == 0:
        table.fail("density", "a number over 0 and up to 1", density)
    low, high = method.scale_range
    scale = table.number("scale", inherited.scale if inherited else method.default_scale, low=low, high=high)
    return method(tuple(found), normalize, scale, density)


def _weights(table: Table, names: list[str]) -> list[float]:
    value = table.get("weights")
    if isinstance(value, dict):
        inner = Table(value, table.where, table.path("weights"), keys=names)
        missing = [name for name in names if name not in inner]
        if missing:
            table.fail(
                "weights", f"a weight for each model, 0 to leave one out; {', '.join(missing[:5])} has none", value
            )
        return [inner.number(name, 1.0) for name in names]
    if not isinstance(value, list) or len(value) != len(names):
        table.fail("weights", f"{len(names)} numbers, one for each model", value)
    return [table.as_number(f"weights[{index}]", one) for index, one in enumerate(value)]


def _check_method_weights(table: Table, method: type[Method], weights: list[float], *, normalize: bool) -> None:
    fewest = method.fewest_models
    if not fewest <= len(weights) <= method.most_models:
        how_many = "exactly" if fewest == method.most_models else "at least"
        table.fail("models", f"{how_many} {fewest} for {method.method}", len(weights))
    if not method.takes_weights and len(set(weights)) > 1:
        table.fail("weights", f"no weights, {method.method} finds them", weights)
    if not method.allows_negative and min(weights) < 0:
        table.fail("weights", f"weights of at least 0 for {method.method}", weights)
    if method.sum_may_be_zero and not normalize and any(weights):
        return
    try:
        check_weights(weights, len(weights))
    except ConfigError as error:
        msg = f"{table.where}: {table.path('')}{'.' if table.key else ''}{error}"
        raise ConfigError(msg) from error


def _path(item: Table, key: str, folder: Path) -> Path | None:
    value = item.string(key)
    return None if value is None else _resolve(folder, value)


def _resolve(folder: Path, value: str) -> Path:
    path = expanded(value)
    return path if isinstance(path, RemotePath) or path.is_absolute() else folder / path


_SUFFIXES = {".pth", ".pt", ".safetensors"}  # .3 is none: v2.0.3 is a name


def model_sources(paths: Sequence[Path]) -> list[ModelSource]:
    """Name inputs by `model_name`, with a number where two names would be equal."""
    found: list[ModelSource] = []
    taken = {BASE}
    for path in paths:
        name = model_name(path)
        count = 1
        while name in taken:
            count += 1
            name = f"{model_name(path)}_{count}"
        taken.add(name)
        found.append(ModelSource(path, name))
    return found


def model_name(path: Path) -> str:
    """Name a model by its file, or by its folder where the file has a standard name, such as ``model.pth``."""
    if path.name in MODEL_NAMES:
        return path.parent.name or path.stem
    name = path.resolve().name if path.name in {"", ".."} else path.name
    return path.stem if path.suffix in _SUFFIXES else name
