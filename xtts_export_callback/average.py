"""The mean of checkpoints: a better model than the last one at no training cost.

Averaging the weights along one training run is what Izmailov et al., "Averaging Weights Leads to Wider Optima and
Better Generalization" (2018) and, over the last checkpoints, Vaswani et al., "Attention Is All You Need" (2017) do.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.assets import Assets, find_assets
from xtts_export_callback.checkpoint import Checkpoint, open_checkpoint
from xtts_export_callback.checkpoint.dtypes import CASTS
from xtts_export_callback.checkpoint.layout import TEXT_EMBEDDING, InferenceModel, inference_model
from xtts_export_callback.combine import weighted_mean
from xtts_export_callback.errors import ConfigError, IncompatibleError
from xtts_export_callback.export import check_choice
from xtts_export_callback.folder import (
    WrittenFolder,
    describe_source,
    provenance_of,
    training_state,
    write_inference_folder,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from xtts_export_callback.checkpoint.write import Progress

_SHOWN = 5


def average_checkpoints(  # noqa: PLR0913 - options of one command
    checkpoints: Sequence[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    dtype: str | None = None,
    vocab: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenFolder:
    """Write the mean of checkpoints as an inference folder.

    Floating-point tensors are summed in float64 and rounded once; integers come from the newest checkpoint.

    Args:
        checkpoints: Two or more, of any kind; what is newest is decided by step, then by the order given.
        output_dir: The folder to create.
        weights: One for each; they are divided by their sum. Equal by default.
        dtype: Type of the result: ``"float32"``, ``"float16"`` or ``"bfloat16"``; by default what the inputs have.
        vocab: The training ``vocab.json``, where it cannot be found by the config or beside the newest.
        config: A ``config.json`` to use in place of the newest checkpoint's.
        force: Replace a folder that is there.
        progress: Called with the number of bytes written since the last call.

    Returns:
        The folder.

    Raises:
        CheckpointError: When an input is damaged, holds NaN or infinity, or is no XTTS model.
        ConfigError: When weights do not fit or config or vocabulary cannot be found.
        IncompatibleError: When keys, shapes or vocabularies differ; all differences are named.
        OutputExistsError, VerificationError, OSError: As `export_checkpoint`.
    """
    if dtype is not None:
        check_choice("dtype", dtype, CASTS)
    if len(checkpoints) < 2:  # noqa: PLR2004
        msg = f"expected at least 2 checkpoints to average, found {len(checkpoints)}"
        raise ConfigError(msg)
    checked = check_weights(weights, len(checkpoints))
    with ExitStack() as stack:
        opened = [stack.enter_context(open_checkpoint(path)) for path in checkpoints]
        order = sorted(range(len(opened)), key=lambda index: _step(opened[index]))
        sources = [opened[index] for index in order]
        factors = [checked[index] for index in order]
        models = [inference_model(source) for source in sources]
        check_compatible([(str(source.path), model) for source, model in zip(sources, models, strict=True)])
        assets = find_assets(
            sources[-1], models[-1].tensors, vocab=Path(vocab) if vocab else None, config=Path(config) if config else None
        )
        check_same_vocab(sources, models, assets)
        tensors = weighted_mean([model.tensors for model in models], factors, dtype)
        total = math.fsum(factors)
        described = [
            describe_source(source, weight=factor / total) for source, factor in zip(sources, factors, strict=True)
        ]
        text_type = tensors[TEXT_EMBEDDING].dtype.name
        provenance = provenance_of("average", described, dtype=text_type, models=models)
        return write_inference_folder(
            Path(output_dir),
            tensors,
            assets=assets,
            header=combined_state(sources, factors),
            provenance=provenance,
            force=force,
            progress=progress,
        )


def check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """One finite weight for each of ``count`` models, not summing to 0.

    Raises:
        ConfigError: Otherwise.
    """
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        msg = f"weights: expected {count}, one for each model, found {len(weights)}"
        raise ConfigError(msg)
    if not all(math.isfinite(weight) for weight in weights):
        msg = f"weights: expected finite numbers, found {' '.join(map(str, weights))}"
        raise ConfigError(msg)
    if math.fsum(weights) == 0:
        msg = f"weights: {' '.join(map(str, weights))} sum to 0, so they cannot be normalised"
        raise ConfigError(msg)
    return [float(weight) for weight in weights]


def check_compatible(models: list[tuple[str, InferenceModel]]) -> None:
    """Refuse models that differ in keys or shapes, naming the differences.

    Raises:
        IncompatibleError: With what the first model has, what another has, and the likely cause.
    """
    first_path, first = models[0]
    for path, model in models[1:]:
        missing = sorted(first.tensors.keys() - model.tensors.keys())
        extra = sorted(model.tensors.keys() - first.tensors.keys())
        reshaped = [
            f"{name} is {list(model.tensors[name].shape)} there, {list(tensor.shape)} here"
            for name, tensor in first.tensors.items()
            if name in model.tensors and model.tensors[name].shape != tensor.shape
        ]
        if missing or extra or reshaped:
            parts = [f"{_some(missing)} only here"] if missing else []
            parts += [f"{_some(extra)} only there"] if extra else []
            parts += [_some(reshaped)] if reshaped else []
            msg = f"{first_path} and {path} differ: {'; '.join(parts)}{_likely_cause(first, model)}"
            raise IncompatibleError(msg)


def check_same_vocab(sources: list[Checkpoint], models: list[InferenceModel], assets: Assets) -> None:
    """Refuse models trained with different vocabularies of the same size.

    Vocabularies that cannot be found any more are taken to be the same.

    Raises:
        IncompatibleError: Naming the checkpoint whose vocabulary differs.
    """
    expected = assets.vocab_bytes
    for source, model in zip(sources[:-1], models[:-1], strict=True):
        try:
            found = find_assets(source, model.tensors)
        except ConfigError:
            continue
        if found.vocab_bytes != expected:
            msg = (
                f"{source.path}: its vocabulary {found.vocab} is not that of {sources[-1].path} ({assets.vocab}); rows "
                "of the text embedding would mix different tokens"
            )
            raise IncompatibleError(msg)


def combined_state(sources: list[Checkpoint], weights: list[float]) -> dict[str, Any]:
    """``step`` and ``epoch``: the largest; ``model_loss``: the weighted mean, marked as computed, not measured."""
    states = [training_state(source) for source in sources]
    result: dict[str, Any] = {}
    for key in ("step", "epoch"):
        result[key] = max((state[key] for state in states if isinstance(state[key], int)), default=None)
    result["model_loss"] = {"computed": True}
    total = math.fsum(weights)
    for key in ("train_loss", "eval_loss"):
        losses = [(state["model_loss"] or {}).get(key) for state in states if isinstance(state["model_loss"], dict)]
        numbers = [loss for loss in losses if isinstance(loss, (int, float))]
        complete = len(numbers) == len(sources)
        mean = math.fsum(loss * weight for loss, weight in zip(numbers, weights, strict=False)) / total
        result["model_loss"][key] = mean if complete else None
    return result


def _step(checkpoint: Checkpoint) -> int:
    step = checkpoint.document.get("step")
    return step if isinstance(step, int) else -1


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _likely_cause(first: InferenceModel, other: InferenceModel) -> str:
    rows = [model.tensors[TEXT_EMBEDDING].shape[0] for model in (first, other)]
    if rows[0] == rows[1]:
        return ""
    releases = {6153: "v2.0.2", 6681: "v2.0.3"}
    names = [releases.get(row, "an extended or custom vocabulary") for row in rows]
    return f" (vocabularies of {rows[0]} tokens, {names[0]}, and {rows[1]} tokens, {names[1]})"
