"""The fields of Coqui's configs, read from the source of the installed packages.

Importing a config class takes eight seconds, since its module imports torch and transformers. Its names stand in the
source as they are, so that a typing error can be named at once. What cannot be read here is left to
`recipe_config.check_fields`, which asks the classes themselves.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.suggestions import did_you_mean
from xtts_export_callback.training.overrides import OWN_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROOT = ("TTS.tts.layers.xtts.trainer.gpt_trainer", "GPTTrainerConfig")
_SECTIONS = {
    "model_args": ("TTS.tts.layers.xtts.trainer.gpt_trainer", "GPTArgs"),
    "datasets": ("TTS.config.shared_configs", "BaseDatasetConfig"),
}
_OUR_SECTIONS = {
    "export": ("xtts_export_callback.training.config", "ExportConfig"),
    "trainer_args": ("xtts_export_callback.training.trainer_config", "RecipeTrainerArgs"),
}
_TRAINER_ARGS = ("trainer", "TrainerArgs")
_FIELD = "--coqpit."
_OURS = ("export", "trainer_args", "restore_path", "github_branch")
_MOST_STEPS = 40


def unknown_fields(raw: dict[str, Any]) -> list[str]:
    """Name the keys that no config of the installed packages has, without importing them.

    Args:
        raw: The JSON of a training.

    Returns:
        For each such key its path, and the field that may be meant.
    """
    problems = _unknown(raw, _ROOT, "", known=_OURS)
    for section, where in _SECTIONS.items():
        value = raw.get(section)
        items = value if isinstance(value, list) else [value]
        for index, item in enumerate(items):
            prefix = f"{section}.{index}." if isinstance(value, list) else f"{section}."
            problems += _unknown(item, where, prefix)
    return problems


def unknown_options(arguments: Sequence[str]) -> list[str]:
    """Name the options that neither a config nor the Trainer has, without importing them.

    Args:
        arguments: ``--coqpit.KEY VALUE`` and the Trainer's own options.

    Returns:
        For each such option its name, and the one that may be meant.
    """
    names = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    found = [(name, _options_beside(name)) for name in names]
    return [
        f"{name}: no such option or field{did_you_mean(name, known)}"
        for name, known in found
        if known is not None and not any(each.startswith(name) for each in known)  # argparse takes a beginning, too
    ]


def _options_beside(name: str) -> list[str] | None:
    """Return the options that stand where this one does; None where the source does not tell."""
    if not name.startswith(_FIELD):
        fields = fields_of(*_TRAINER_ARGS)
        return None if fields is None else [*OWN_OPTIONS, *(f"--{field}" for field in fields)]
    section, *keys = name.removeprefix(_FIELD).split(".")
    if not keys:
        fields = fields_of(*_ROOT)
        return None if fields is None else [f"{_FIELD}{field}" for field in (*fields, *_OURS)]
    where = {**_SECTIONS, **_OUR_SECTIONS}.get(section)
    fields = fields_of(*where) if where else None
    index = f"{keys[0]}." if keys[0].isdigit() else ""
    return None if fields is None else [f"{_FIELD}{section}.{index}{field}" for field in fields]


def _unknown(raw: Any, where: tuple[str, str], prefix: str, *, known: tuple[str, ...] = ()) -> list[str]:
    fields = fields_of(*where) if isinstance(raw, dict) else None
    if fields is None:
        return []
    names = [*fields, *known]
    shown = "RecipeConfig" if where == _ROOT else where[1]
    return [f"{prefix}{key} is not a field of {shown}{did_you_mean(key, names)}" for key in raw if key not in names]


def fields_of(module: str, name: str) -> list[str] | None:
    """Return the fields of a dataclass and of its bases.

    Args:
        module: Where it is defined, or imported from another module.
        name: Its name.

    Returns:
        The names; None where the source does not tell.
    """
    fields: list[str] = []
    waiting = [(module, name)]
    for _ in range(_MOST_STEPS):
        if not waiting:
            return fields
        module, name = waiting.pop()
        if name == "Coqpit":
            continue
        tree = _source(module)
        if tree is None:
            return None
        found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
        if found:
            fields += [
                node.target.id
                for node in found[-1].body
                if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            ]
            bases = [base.id for base in found[-1].bases if isinstance(base, ast.Name)]
            waiting += [(module, base) for base in bases]
        else:
            origin = _origin(tree, name) or _origin(tree, "*")
            if origin is None:
                return None
            waiting.append((origin, name))
    return None


def _origin(tree: ast.Module, name: str) -> str | None:
    """Return the module that a name is imported from, by the last import of it."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    origins = [node.module for node in imports if any((each.asname or each.name) == name for each in node.names)]
    return origins[-1] if origins else None


def _source(module: str) -> ast.Module | None:
    """Return the parsed source of a module, which is not imported; nor is the package that it belongs to."""
    package, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for folder in spec.submodule_search_locations or [] if spec is not None else []:
        path = Path(folder, *parts)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                try:
                    return ast.parse(file.read_bytes())
                except (OSError, SyntaxError, ValueError):
                    return None
    return None
