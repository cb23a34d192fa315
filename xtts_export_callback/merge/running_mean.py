"""Write the mean of the weights over every step of a training, from the sums that the training left.

As icefall's ``average_checkpoints_with_averaged_model`` does it, but each file holds the sum of its own window, so that
windows add up exactly and no sum grows over the whole training.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import IncompatibleError
from xtts_export_callback.export.precision import storage_options, store, types_of
from xtts_export_callback.inference_folder.folder import WrittenFolder, write_inference_folder
from xtts_export_callback.inference_folder.provenance import describe_source, provenance_of, training_state
from xtts_export_callback.run.running_mean import MEAN, window_of
from xtts_export_callback.tensors.tensor import Tensor
from xtts_export_callback.tensors.weighted_sum import WeightedSum
from xtts_export_callback.xtts.assets import find_assets
from xtts_export_callback.xtts.state_dict import inference_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xtts_export_callback.checkpoint.reader import Checkpoint
    from xtts_export_callback.checkpoint.writer import Progress


def write_running_mean(  # noqa: PLR0913 - as `export_checkpoint`
    checkpoint: str | os.PathLike[str],
    windows: Sequence[str | os.PathLike[str]],
    output: Path,
    *,
    known_as: Path | None = None,
    dtype: str | None = None,
    precision: Mapping[str, str] | None = None,
    format: str = "pth",  # noqa: A002 - what users call it
    vocab: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    trained_in: Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenFolder:
    """Write a mean over steps, or an exponential moving average, as an inference folder.

    Args:
        checkpoint: The checkpoint of the last step, or its export: gives what is not trained, config and vocabulary.
        windows: Files of ``RUN/running_mean``. Their sums, in float64, are added, divided by the number of updates, and
            rounded once.
        output: The folder to create.
        known_as: As for `open_checkpoint`.
        dtype: Type of the result, by default that of the checkpoint.
        precision: As for `export_checkpoint`.
        format: ``"pth"`` or ``"safetensors"``.
        vocab: As for `export_checkpoint`.
        config: As for `export_checkpoint`.
        trained_in: As for `find_assets`.
        force: Replace an existing folder of ours.
        progress: Called with the number of bytes written since the last call.

    Returns:
        The folder.

    Raises:
        IncompatibleError: When a window holds other weights than the checkpoint.
        CheckpointError, ConfigError, OutputExistsError, VerificationError, OSError: As `export_checkpoint`.
    """
    with ExitStack() as stack:
        source = stack.enter_context(open_checkpoint(checkpoint, known_as=known_as))
        opened = [stack.enter_context(open_checkpoint(path)) for path in windows]
        described = [window_of(each.path, each.document) for each in opened]
        model = inference_model(source)
        assets = find_assets(
            source,
            model.tensors,
            vocab=Path(vocab) if vocab else None,
            config=Path(config) if config else None,
            trained_in=trained_in,
        )
        divisor = float(sum(one.updates for one in described)) if described[0].way == MEAN else 1.0
        tensors = model.tensors | _means(model.tensors, opened, divisor)
        types = types_of(tensors, dtype, precision)
        options = storage_options(types, dtype, precision)
        rules = {"method": f"running {described[0].way}", "windows": [one.to_dict() for one in described]}
        provenance = provenance_of(
            "running_mean", [describe_source(source)], dtype=options["dtype"], models=[model], rules=rules
        )
        return write_inference_folder(
            output,
            store(tensors, types),
            origin=str(source.path),
            assets=assets,
            header={**training_state(source), "model_loss": None},  # the checkpoint's own is not that of the mean
            provenance=provenance | options,
            format=format,
            force=force,
            mode=source.mode,
            progress=progress,
        )


def _means(weights: Mapping[str, Tensor], windows: Sequence[Checkpoint], divisor: float) -> dict[str, Tensor]:
    names = {name for window in windows for name in window.tensors}
    result = {}
    for name in sorted(names):
        sums = [window.tensors[name] for window in windows if name in window.tensors]
        expected = weights.get(name)
        if expected is None or len(sums) < len(windows) or any(one.shape != expected.shape for one in sums):
            shape = "a weight of that name" if expected is None else f"shape {expected.shape} in each"
            msg = f"{windows[0].path}: {name}: expected {shape}, found {[one.shape for one in sums]}; use the sums of "
            msg += "the run that the checkpoint belongs to"
            raise IncompatibleError(msg)
        storage = WeightedSum(name, sums, [1.0] * len(sums), divisor, expected.dtype)
        result[name] = Tensor.contiguous(storage, expected.dtype, expected.shape)
    return result
