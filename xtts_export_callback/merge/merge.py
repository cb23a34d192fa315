"""Opens, plans and writes a merge; every inference folder made of several models comes from here."""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.fingerprint import fingerprint
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.export.export import check_choice
from xtts_export_callback.export.precision import TYPES, storage_options, store
from xtts_export_callback.files.paths import as_path
from xtts_export_callback.inference_folder.folder import WrittenFolder, write_inference_folder
from xtts_export_callback.inference_folder.layouts import layout_of
from xtts_export_callback.inference_folder.provenance import describe_source, provenance_of, training_state
from xtts_export_callback.inference_folder.voice import read_clip
from xtts_export_callback.merge.models import OpenModel, check_compatible, check_same_vocab, open_models
from xtts_export_callback.merge.plan import Plan, make_plan
from xtts_export_callback.merge.recipe import Recipe, load_recipe
from xtts_export_callback.merge.vocabulary import MergedVocabulary, merge_vocabularies
from xtts_export_callback.xtts.assets import Assets
from xtts_export_callback.xtts.companions import DVAE, MEL_STATS
from xtts_export_callback.xtts.model_config import clean_config
from xtts_export_callback.xtts.state_dict import dvae_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from xtts_export_callback.checkpoint import Checkpoint, Tensor
    from xtts_export_callback.checkpoint.writer import Progress

TRAINING_TYPE = "float32"
_LARGEST_LOSS = 1e100  # a larger number is not a loss, and a sum of them could overflow


def merge_checkpoints(  # noqa: PLR0913 - options of one command
    recipe: str | os.PathLike[str] | Mapping[str, Any],
    output_dir: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    precision: Mapping[str, str] | None = None,
    for_training: bool = False,
    layout: str | None = None,
    voice: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenFolder:
    """Merge models as a recipe says and write the result as an inference folder.

    Args:
        recipe: A YAML file, or the same as a dict. Paths are relative to the file, or to the working directory.
        output_dir: The folder to create.
        dtype: Type of the result: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int8"``; by default the recipe's,
            else the widest that a tensor has among the inputs, and float32 where one of them is quantized.
        precision: As for `export_checkpoint`; it replaces the recipe's.
        for_training: Also write the files that GPTTrainer needs to fine-tune the result; see `training_files`.
        layout: As `export_checkpoint`.
        voice: As `export_checkpoint`.
        force: Replace an existing folder.
        progress: Called with the number of bytes written since the last call.

    Returns:
        The folder.

    Raises:
        CheckpointError: When an input is damaged, holds NaN or infinity, or is not an XTTS model.
        ConfigError: When the recipe is wrong. The message is one line: key, expected, found.
        IncompatibleError: When keys, shapes or vocabularies differ; all differences are named.
        OutputExistsError, VerificationError, OSError: As `export_checkpoint`.

    Example:
        >>> merge_checkpoints({"models": ["anna/checkpoint_900.pth", "bert/checkpoint_700.pth"]}, "both")
    """
    with planned(with_dtype(load_recipe(recipe), dtype, precision=precision, for_training=for_training)) as plan:
        return write_merge(
            plan,
            as_path(output_dir),
            kind="merge",
            for_training=for_training,
            layout=layout,
            voice=voice,
            force=force,
            progress=progress,
        )


@contextmanager
def planned(recipe: Recipe) -> Iterator[Plan]:
    """Open a recipe's models and plan the merge, without reading a tensor.

    Yields:
        The plan, whose models stay open until the block ends.

    Raises:
        CheckpointError, ConfigError, IncompatibleError: As `merge_checkpoints`.
    """
    with ExitStack() as stack:
        yield plan_of(recipe, open_models(recipe.inputs, stack))


def plan_of(recipe: Recipe, models: Sequence[OpenModel]) -> Plan:
    """Plan a merge of models that are already open, in the order of ``recipe.inputs``."""
    check_compatible(models, same_rows=recipe.vocab is None)
    if recipe.dtype is None and (recipe.precision or any(model.checkpoint.is_quantized for model in models)):
        recipe = replace(recipe, dtype=TRAINING_TYPE)
    vocabulary = _merged_vocabulary(recipe, models)
    return make_plan(recipe, models, vocabulary, _assets(recipe, models, vocabulary))


def write_merge(  # noqa: PLR0913 - options of one command
    plan: Plan,
    output: Path,
    *,
    kind: str,
    format: str = "pth",  # noqa: A002 - what users call it
    for_training: bool = False,
    layout: str | None = None,
    voice: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenFolder:
    """Carry out a plan.

    Args:
        plan: From `planned`.
        output: The folder to create.
        kind: What its provenance states: ``"merge"`` or ``"average"``.
        format: ``"pth"`` or ``"safetensors"``.
        for_training: As `merge_checkpoints`.
        layout: As `export_checkpoint`.
        voice: As `export_checkpoint`.
        force: Replace an existing folder.
        progress: Called with the number of bytes written since the last call.

    Returns:
        The folder; ``provenance["rules"]`` says how the models were combined and which integers differed.
    """
    recipe = plan.recipe
    chosen = layout_of(layout)
    if for_training and chosen.name:
        msg = f"layout {chosen.name}: expected none for training; leave --layout or --for-training out"
        raise ConfigError(msg)
    files = training_files(plan) if for_training or DVAE in chosen.files or MEL_STATS in chosen.files else {}
    merged_models = plan.models[: len(recipe.models)]
    shares = recipe.settings.shares(has_base=recipe.base is not None)
    inputs = [
        describe_source(model.checkpoint, model=model.source.name, weight=share)
        for model, share in zip(plan.models, shares, strict=True)
    ]
    options = storage_options(plan.types, recipe.dtype, recipe.precision)
    provenance = provenance_of(
        kind,
        inputs,
        dtype=options["dtype"],
        models=[model.inference for model in plan.models],
        rules={**_rules(plan), "dvae": differing_dvaes(plan)} if for_training else _rules(plan),
    )
    return write_inference_folder(
        output,
        store(plan.tensors, plan.types),
        origin=str(merged_models[-1].path),
        assets=plan.assets,
        header=combined_state([model.checkpoint for model in merged_models], recipe.settings.weights),
        provenance=provenance | options,
        format=format,
        layout=chosen,
        clip=read_clip(as_path(voice)) if voice is not None else None,
        extra={name: each for name, each in files.items() if for_training or name in chosen.files},
        force=force,
        mode=reduce(and_, (model.checkpoint.mode for model in plan.models)),
        progress=progress,
    )


def combined_state(sources: Sequence[Checkpoint], weights: Sequence[float]) -> dict[str, Any]:
    """``step`` and ``epoch``: the largest; ``model_loss``: the weighted mean, marked as computed, not measured."""
    states = [training_state(source) for source in sources]
    result: dict[str, Any] = {}
    for key in ("step", "epoch"):
        result[key] = max((state[key] for state in states if type(state[key]) is int), default=None)
    result["model_loss"] = {"computed": True}
    total = math.fsum(weights)
    for key in ("train_loss", "eval_loss"):
        losses = [(state["model_loss"] or {}).get(key) for state in states if isinstance(state["model_loss"], dict)]
        numbers = [float(loss) for loss in losses if isinstance(loss, (int, float)) and abs(loss) < _LARGEST_LOSS]
        complete = len(numbers) == len(sources) and total != 0
        result["model_loss"][key] = _mean(numbers, weights) if complete else None
    return result


def _mean(numbers: Sequence[float], weights: Sequence[float]) -> float:
    products = [number * weight for number, weight in zip(numbers, weights, strict=True)]
    return math.fsum(products) / math.fsum(weights)


def training_files(plan: Plan) -> dict[str, Any]:
    """The files that GPTTrainer needs to fine-tune a merged model, beside ``model.pth`` and ``vocab.json``.

    ``GPTTrainer.__init__`` loads ``model_args.xtts_checkpoint`` (an inference ``model.pth`` will do),
    ``tokenizer_file``, ``mel_norm_file`` and ``dvae_checkpoint``. Fine-tuning leaves the last two as they are.

    Returns:
        Documents by file name: ``mel_stats.pth``, and ``dvae.pth`` where an input is a full checkpoint, which contains
        the DVAE.
    """
    files: dict[str, Any] = {}
    if "mel_stats" in plan.tensors:
        files[MEL_STATS] = plan.tensors["mel_stats"]
    dvaes = _dvaes(plan)
    return {**files, DVAE: dvaes[0][1]} if dvaes else files


def _dvaes(plan: Plan) -> list[tuple[str, dict[str, Tensor]]]:
    """The DVAE of each model that has one, the last model's first."""
    found = []
    for model in reversed(plan.models):
        dvae = dvae_of(model.checkpoint)
        if dvae:
            found.append((model.source.name, dvae))
    return found


def differing_dvaes(plan: Plan) -> dict[str, Any]:
    """Name the model whose DVAE is written and those whose DVAE differs: each GPT was trained on the codes of its own.

    Reads tensors only from files without checksums.
    """
    dvaes = [(name, fingerprint(dvae)) for name, dvae in _dvaes(plan)]
    taken, expected = dvaes[0] if dvaes else ("", "")
    return {"taken": taken, "differing": [name for name, found in dvaes if found != expected]}


def with_dtype(
    recipe: Recipe, dtype: str | None, *, precision: Mapping[str, str] | None = None, for_training: bool
) -> Recipe:
    """Set the types of a recipe's result. Training needs full precision, also from half-precision inputs.

    Raises:
        ConfigError: For an unknown type, or one that training cannot use.
    """
    if dtype is not None:
        check_choice("dtype", dtype, TYPES)
    chosen, rules = dtype or recipe.dtype, dict(precision or recipe.precision)
    other = next((found for found in (chosen, *rules.values()) if found not in {None, TRAINING_TYPE}), None)
    if for_training and other is not None:
        msg = f"dtype {other}: expected {TRAINING_TYPE} for training; leave --dtype and --precision out"
        raise ConfigError(msg)
    return replace(recipe, dtype=TRAINING_TYPE if for_training else chosen, precision=rules)


def _merged_vocabulary(recipe: Recipe, models: Sequence[OpenModel]) -> MergedVocabulary | None:
    if recipe.vocab is None:
        return None
    contents = [model.assets().vocab for model in models]
    return merge_vocabularies(contents, [str(model.path) for model in models], recipe.vocab)


def _assets(recipe: Recipe, models: Sequence[OpenModel], vocabulary: MergedVocabulary | None) -> Assets:
    """Config, vocabulary and voices of the last model, with the merged vocabulary where there is one."""
    last = models[len(recipe.models) - 1]
    assets = last.assets()
    if recipe.vocab is None:
        check_same_vocab(models, last, assets)
    if vocabulary is None:
        return assets
    return replace(assets, config=clean_config(assets.config, vocabulary.size), vocab=vocabulary.content)


def _rules(plan: Plan) -> dict[str, Any]:
    recipe = plan.recipe
    return {
        **recipe.settings.to_dict(),
        "base": recipe.base is not None,
        "summary": [f"{what}: {how}" for what, how, _ in plan.steps()],
        "rules": [
            {"match": list(rule.patterns), **(rule.settings.to_dict() if rule.settings else {"take": rule.take})}
            for rule in recipe.rules
        ],
        "integers": {"policy": recipe.integers, "differing": plan.differing_integers()},
        "vocab": recipe.vocab if plan.vocabulary is not None else None,
        "half_precision": {model.source.name: model.half_precision for model in plan.models if model.half_precision},
    }
