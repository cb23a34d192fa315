"""Averages checkpoints: a better model than the last one at no training cost.

Averaging the weights along one training run is what Izmailov et al., "Averaging Weights Leads to Wider Optima and
Better Generalization" (2018) and, over the last checkpoints, Vaswani et al., "Attention Is All You Need" (2017) do.
It is the simplest merge, and `merge.merge` carries it out.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.paths import as_path
from xtts_export_callback.merge.decay import Decayed, decay_weights
from xtts_export_callback.merge.merge import plan_of, with_dtype, write_merge
from xtts_export_callback.merge.methods.settings import check_weights
from xtts_export_callback.merge.methods.weighted_sums import Linear
from xtts_export_callback.merge.models import open_models
from xtts_export_callback.merge.recipe import Recipe, model_sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from xtts_export_callback.checkpoint.writer import Progress
    from xtts_export_callback.inference_folder.folder import WrittenFolder
    from xtts_export_callback.merge.models import OpenModel
    from xtts_export_callback.merge.plan import Plan


def average_checkpoints(  # noqa: PLR0913 - options of one command
    checkpoints: Sequence[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    decay: str | None = None,
    dtype: str | None = None,
    precision: Mapping[str, str] | None = None,
    vocab: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    format: str = "pth",  # noqa: A002 - what users call it
    for_training: bool = False,
    layout: str | None = None,
    voice: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenFolder:
    """Write the mean of checkpoints as an inference folder.

    Floating-point tensors are summed in float64 and rounded once; integers come from the newest checkpoint.

    Args:
        checkpoints: Two or more, of any kind. The newest has the largest step; of equal steps, the last one given.
        output_dir: The folder to create.
        weights: One per checkpoint; they are divided by their sum. Equal by default.
        decay: Weights as if the learning rate had fallen over the checkpoints, in place of ``weights``: ``"linear"``
            (equal ones), ``"cosine"`` or ``"1-sqrt"``; see `merge.decay`.
        dtype: Type of the result: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int8"``; by default that of the
            inputs, and float32 where one of them is quantized.
        precision: As for `export_checkpoint`.
        vocab: The training ``vocab.json``, if it is not found by the config or beside the newest checkpoint.
        config: A ``config.json`` to use in place of the newest checkpoint's.
        format: ``"pth"`` or ``"safetensors"``.
        for_training: Also write the files that GPTTrainer needs to fine-tune the result.
        layout: As `export_checkpoint`.
        voice: As `export_checkpoint`.
        force: Replace an existing folder.
        progress: Called with the number of bytes written since the last call.

    Returns:
        The folder.

    Raises:
        CheckpointError: When an input is damaged, holds NaN or infinity, or is not an XTTS model.
        ConfigError: When the number of weights or the decay is wrong, or config or vocabulary cannot be found.
        IncompatibleError: When keys, shapes or vocabularies differ; all differences are named.
        OutputExistsError, VerificationError, OSError: As `export_checkpoint`.
    """
    with planned_average(
        checkpoints,
        weights=weights,
        decay=decay,
        dtype=dtype,
        precision=precision,
        vocab=vocab,
        config=config,
        for_training=for_training,
    ) as plan:
        return write_merge(
            plan,
            as_path(output_dir),
            kind="average",
            format=format,
            for_training=for_training,
            layout=layout,
            voice=voice,
            force=force,
            progress=progress,
        )


@contextmanager
def planned_average(
    checkpoints: Sequence[str | os.PathLike[str]],
    *,
    weights: Sequence[float] | None = None,
    decay: str | None = None,
    dtype: str | None = None,
    precision: Mapping[str, str] | None = None,
    vocab: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    for_training: bool = False,
) -> Iterator[Plan]:
    """Open checkpoints and plan their mean, without reading a tensor.

    Args and errors are those of `average_checkpoints`.

    Yields:
        The plan, whose checkpoints stay open until the block ends.
    """
    if isinstance(checkpoints, (str, os.PathLike)):
        msg = f"checkpoints: expected a list of 2 or more paths, found one path, {os.fspath(checkpoints)!r}"
        raise ConfigError(msg)
    if len(checkpoints) < 2:
        msg = f"expected at least 2 checkpoints to average, found {len(checkpoints)}"
        raise ConfigError(msg)
    if weights is not None and decay is not None:
        msg = "weights and decay: expected one of them; decay finds the weights itself"
        raise ConfigError(msg)
    checked = check_weights(weights, len(checkpoints))
    with ExitStack() as stack:
        opened = open_models(model_sources([as_path(path) for path in checkpoints]), stack)
        order = sorted(range(len(opened)), key=lambda index: _step(opened[index]))
        models = [opened[index] for index in order]
        newest = replace(
            models[-1].source, vocab=as_path(vocab) if vocab else None, config=as_path(config) if config else None
        )
        models[-1] = replace(models[-1], source=newest)
        settings = (
            Linear(tuple(checked[index] for index in order))
            if decay is None
            else Decayed(decay_weights(decay, len(models)), decay=decay)
        )
        recipe = Recipe(tuple(model.source for model in models), settings)
        yield plan_of(with_dtype(recipe, dtype, precision=precision, for_training=for_training), models)


def _step(model: OpenModel) -> int:
    step = model.checkpoint.document.get("step")
    return step if isinstance(step, int) else -1
