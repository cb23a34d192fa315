"""Load the data and build the model for an evaluation of the loss, and check that every candidate fits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xtts_export_callback.checkpoint.reader import open_checkpoint
from xtts_export_callback.errors import ConfigError, IncompatibleError
from xtts_export_callback.evaluation.candidates import Source, check_fits
from xtts_export_callback.evaluation.loss import LossMeter, build_trainer
from xtts_export_callback.evaluation.results import Data
from xtts_export_callback.evaluation.trainer_config import (
    check_recordings,
    evaluation_samples,
    fingerprint_of,
    read_trainer_config,
)
from xtts_export_callback.files.json_file import read_small_file
from xtts_export_callback.files.paths import expanded
from xtts_export_callback.quiet import quiet
from xtts_export_callback.xtts.assets import find_assets
from xtts_export_callback.xtts.state_dict import dropped_component, inference_model
from xtts_export_callback.xtts.vocab import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence


class Prepared(NamedTuple):
    """What measures the loss.

    Attributes:
        trainer: The ``GPTTrainer`` that weights are swapped into.
        meter: Measures them on the data.
        settings: What the losses depend on beside the weights.
        data: What the data is.
    """

    trainer: Any
    meter: LossMeter
    settings: dict[str, Any]
    data: Data


def prepare(
    config_path: Path,
    sources: Sequence[Source],
    *,
    device: str | None,
    data: Path | None,
    language: str | None,
    samples: list[dict[str, Any]] | None = None,
) -> Prepared:
    """Load the data, build the model, and check that every candidate fits it before the first is measured.

    Args:
        config_path: The ``config.json`` of the run.
        sources: The candidates.
        device: See `usable_device`.
        data: See `read_trainer_config`.
        language: See `read_trainer_config`.
        samples: What to evaluate, in place of the evaluation split of the config's data sets.

    Returns:
        What measures the loss.

    Raises:
        CheckpointError, ConfigError, IncompatibleError: As `evaluate_checkpoints`.
    """
    chosen = usable_device(device)
    with quiet():
        config = read_trainer_config(config_path, data=data, language=language, needs_data=samples is None)
        if samples is None:
            samples = evaluation_samples(config, every=data is not None and not data.is_dir())
        else:
            check_recordings(samples, config)
        # GPTTrainer adds to its config, so the settings are taken before.
        settings = {
            "samples": fingerprint_of(samples),
            "config": _digest([config.model_args, config.audio, config.eval_batch_size]),
            "device": chosen.partition(":")[0],
        }
        trainer = build_trainer(config, chosen)
        meter = LossMeter(trainer, config, samples)
    tokenizer = expanded(config.model_args.tokenizer_file)
    _check_all_fit(sources, meter, read_vocabulary(read_small_file(tokenizer), str(tokenizer)))
    names = ", ".join(one.dataset_name or Path(one.path).name for one in config.datasets if one.path)
    return Prepared(trainer, meter, settings, Data(names or "the evaluation split", meter.clips))


def usable_device(name: str | None) -> str:
    """Return a device, by default the first GPU, or else the CPU.

    Raises:
        ConfigError: When it cannot be used.
    """
    import torch

    try:
        chosen = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        msg = f"--device {name}: cannot be used here ({' '.join(str(error).split()):.200}); name another, such as cpu"
        raise ConfigError(msg) from error
    return str(chosen)


def _check_all_fit(sources: Sequence[Source], meter: LossMeter, vocabulary: Vocabulary) -> None:
    """Refuse candidates that have other tensors or another vocabulary, naming the first."""
    expected = {name: shape for name, shape in meter.shapes.items() if dropped_component(name) is None}
    for source in sources:
        with open_checkpoint(source.path) as checkpoint:
            tensors = inference_model(checkpoint).tensors
            check_fits(expected, tensors, source.path)
            try:
                content = find_assets(checkpoint, tensors).vocab
            except ConfigError:  # a vocabulary that cannot be found is assumed to be the same, as merging does
                continue
        tokens = read_vocabulary(content, str(source.path)).tokens
        moved = [token for token in tokens if tokens[token] != vocabulary.tokens.get(token)]
        if moved:
            msg = (
                f"{source.path}: {len(moved)} tokens of its vocab.json have another row or none in the run's, such as "
                f"{moved[0]!r:.40}; evaluate it with the config.json of its own run"
            )
            raise IncompatibleError(msg)


def _digest(values: Any) -> str:
    """Hash what decides a loss beside the weights: numbers and switches, and the names of files without their place."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return Path(value).name if isinstance(value, str) else value

    return hashlib.sha256(json.dumps(plain(values), default=str, sort_keys=True).encode()).hexdigest()
