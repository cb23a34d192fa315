"""Merge several fine-tunes into one inference folder, by a recipe or with one method for all tensors.

A recipe is a YAML file that names models, a method, and rules for parts of the model; see configs/merge_*.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.cli.merge_output import add_merge_options, write_and_report
from xtts_export_callback.cli.options import add_output_options, add_report_options
from xtts_export_callback.cli.progress import say
from xtts_export_callback.cli.reporting import report
from xtts_export_callback.files.paths import as_path

if TYPE_CHECKING:
    import argparse

    from xtts_export_callback.merge.plan import Plan
    from xtts_export_callback.merge.recipe import Recipe

_METHODS = ("linear", "slerp", "task_arithmetic", "ties", "interpolate", "model_stock")
_RECIPE_SUFFIXES = {".yaml", ".yml"}
_SETTINGS = ("method", "weights", "base", "scale", "density")
_FILES = ("config", "vocab_file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("sources", nargs="+", metavar="RECIPE.yaml|MODEL", help="one recipe, or the models to merge")
    models = parser.add_argument_group("models given on the command line")
    models.add_argument("--method", choices=_METHODS, metavar="METHOD", help=f"{', '.join(_METHODS)} (default: linear)")
    models.add_argument("--weights", nargs="+", type=float, metavar="W", help="one per model")
    models.add_argument("--base", metavar="MODEL", help="the model that they were trained from")
    models.add_argument(
        "--scale", type=float, metavar="S", help="distance from the base: 0 gives the base, 1 the models"
    )
    models.add_argument("--density", type=float, metavar="D", help="share of the changes that ties keeps")
    parser.add_argument(
        "--vocab",
        choices=("union", "intersect"),
        help="merge different vocabularies token by token: keep all tokens, or those in common",
    )
    models.add_argument("--config", metavar="FILE", help="a config.json to use in place of the models' own")
    models.add_argument("--vocab-file", metavar="FILE", help="the models' vocab.json, if it is not found automatically")
    parser.add_argument("--dry-run", action="store_true", help="print the plan; read no weights and write nothing")
    add_output_options(parser, default="the recipe's path without .yaml")
    add_merge_options(parser)
    add_report_options(parser)


def run(args: argparse.Namespace) -> int:
    """Merge, or print the plan."""
    from xtts_export_callback.export.precision import parse_precision
    from xtts_export_callback.merge.merge import planned, with_dtype

    precision = parse_precision(args.precision)
    recipe = with_dtype(_recipe(args), args.dtype, precision=precision, for_training=args.for_training)
    with planned(recipe) as plan:
        if args.dry_run:
            lines = [*plan.describe(), *_also(args, plan)]
            report(args, lambda: {"plan": lines}, lambda: _show(lines))
            return 0
        output = _output(args)
        return write_and_report(args, plan, output, kind="merge")


def _show(lines: list[str]) -> None:
    for line in lines:
        say(line)


def _also(args: argparse.Namespace, plan: Plan) -> list[str]:
    """Return what the plan leaves out: the files for training, and the output."""
    from xtts_export_callback.merge.merge import training_files

    lines = []
    if args.for_training and (files := training_files(plan)):
        lines.append(f"for training also {', '.join(files)}")
    if args.output is not None or _is_recipe(args):
        output = _output(args)
        exists = "" if not output.exists() else ", which exists: --force replaces it if it is an inference folder"
        lines.append(f"to {output}{exists}")
    return lines


def _recipe(args: argparse.Namespace) -> Recipe:
    from dataclasses import replace

    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.merge.recipe import load_recipe, model_sources, parse_recipe

    if not _is_recipe(args):
        recipes = [source for source in args.sources if Path(source).suffix.lower() in _RECIPE_SUFFIXES]
        if recipes or len(args.sources) == 1:
            msg = f"{(recipes or args.sources)[0]}: expected one recipe (.yaml), or at least 2 models (1 with --base)"
            if recipes or args.base is None:
                raise ConfigError(msg)
        sources = model_sources([as_path(source) for source in args.sources])
        files = {key: getattr(args, key) for key in _FILES if getattr(args, key) is not None}
        named = [
            {"path": given, "name": source.name, **files} for given, source in zip(args.sources, sources, strict=True)
        ]
        given: dict[str, Any] = {key: getattr(args, key) for key in (*_SETTINGS, "vocab")}
        return parse_recipe(
            {"models": named, **{key: value for key, value in given.items() if value is not None}}, "merge", Path()
        )
    recipe = load_recipe(args.sources[0])
    for key in (*_SETTINGS, *_FILES):
        if getattr(args, key) is not None:
            option = f"--{key.replace('_', '-')}"
            msg = f"{option}: expected models to merge, found the recipe {args.sources[0]}; write {key} into the recipe"
            raise ConfigError(msg)
    return replace(recipe, vocab=args.vocab or recipe.vocab)


def _is_recipe(args: argparse.Namespace) -> bool:
    return len(args.sources) == 1 and Path(args.sources[0]).suffix.lower() in _RECIPE_SUFFIXES


def _output(args: argparse.Namespace) -> Path:
    from xtts_export_callback.errors import ConfigError
    from xtts_export_callback.export.export import packed_as

    if args.output is not None:
        return as_path(args.output)
    if _is_recipe(args):
        return packed_as(Path(args.sources[0]).with_suffix(""), args.layout)
    msg = "--output: expected a folder to write to; only a recipe has a default"
    raise ConfigError(msg)
