"""The evaluation loss of models, computed by ``GPTTrainer`` on the Trainer's batches; see ``Trainer.eval_epoch``.

What does not depend on the weights (spectrograms, the codes of the DVAE) is computed once. The loss of each clip comes
from the same pass, from the cross-entropies before they are averaged.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.candidates import swap_tensors, swap_weights
from xtts_export_callback.evaluation.intervals import interval
from xtts_export_callback.evaluation.results import Loss
from xtts_export_callback.inference_folder.load import without_random_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from xtts_export_callback.merge.plan import Plan

_KEPT_BYTES = 1 << 30
"""Most memory for prepared batches; 0.2 MB a clip. With more of them, every pass prepares its own."""


class _Batch(NamedTuple):
    """What one batch gave.

    Attributes:
        losses: The entries of ``loss_dict``, by name.
        sums: For each part of the loss, the cross-entropy of each clip, summed over its tokens.
    """

    losses: dict[str, float]
    sums: list[list[float]]


def build_trainer(config: Any, device: str) -> Any:
    """Build the ``GPTTrainer`` of a config, whose weights are still to be swapped in.

    Args:
        config: From `read_trainer_config`.
        device: Such as ``"cpu"`` or ``"cuda"``.

    Raises:
        ConfigError: When the model cannot be built.
    """
    import torch

    threads = torch.get_num_threads()
    try:
        with without_random_values():
            from TTS.tts.layers.xtts.trainer.gpt_trainer import GPTTrainer

            model = GPTTrainer(config)
        return model.to(device).eval()
    except (AssertionError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        msg = f"the model of the run's config.json cannot be built on {device}: {cause:.300}; correct the config"
        raise ConfigError(msg) from error
    finally:
        torch.set_num_threads(threads)  # the import of the Trainer's data set sets it to 1


class LossMeter:
    """Measures the evaluation loss of one model after another on the same clips.

    Attributes:
        clips: Number of clips in a pass.
        left_out: Number of samples that the Trainer's data set leaves out: too long, too short or unreadable ones, and
            texts with characters that the vocabulary lacks.
        shapes: Shapes of the weights that a model must have, by name.
    """

    def __init__(self, trainer: Any, config: Any, samples: list[dict[str, Any]]) -> None:
        """Make the batches.

        Args:
            trainer: From `build_trainer`; meters of several data sets can share it.
            config: From `read_trainer_config`.
            samples: From `evaluation_samples`.

        Raises:
            ConfigError: When none of the samples can be used.
        """
        self._model = trainer
        self._device = next(trainer.parameters()).device
        self._loader = _loader(trainer, config, samples)
        self._prepared: list[dict[str, Any]] | None = None
        self.clips = len(self._loader.dataset)
        self.left_out = len(samples) - self.clips
        if not self.clips:
            msg = (
                f"none of {len(samples)} evaluation samples can be used: too long, too short or unreadable; see --data"
            )
            raise ConfigError(msg)
        self.shapes = {name: tuple(value.shape) for name, value in self._model.xtts.state_dict().items()}

    def measure(self, model: Path | Plan, progress: Callable[[int], None] | None = None) -> Loss:
        """Measure a model.

        Args:
            model: Its file or folder, or a merge that is planned, which need not be written for it.
            progress: Called with the number of clips done since the last call.

        Returns:
            The loss. Its mean is the ``avg_loss`` that the Trainer would log, which leaves out the first of several
            batches; the clips of that batch are left out everywhere.

        Raises:
            CheckpointError, IncompatibleError: As `swap_weights`.
        """
        import torch

        if isinstance(model, Path):
            swap_weights(self._model.xtts, model)
        else:
            swap_tensors(self._model.xtts, model.tensors, Path(model.recipe.where))
        found = []
        with torch.inference_mode(), _recorded_cross_entropies() as recorded:
            for batch in self._batches():
                recorded.clear()
                _, losses = self._model.eval_step(dict(batch), None)
                found.append(_Batch({name: float(value) for name, value in losses.items()}, _sums(recorded)))
                if progress is not None:
                    progress(len(found[-1].sums[0]))
        return _loss(found[1:] if len(found) > 1 and _drops_the_first() else found)

    def _batches(self) -> Iterator[dict[str, Any]]:
        if self._prepared is not None:
            yield from self._prepared
            return
        prepared: list[dict[str, Any]] | None = []
        nbytes = 0
        for raw in self._loader:
            batch = self._model.format_batch_on_device(self._on_device(self._model.format_batch(raw)))
            nbytes += sum(getattr(value, "nbytes", 0) for value in batch.values())
            if nbytes > _KEPT_BYTES:
                prepared = None
            if prepared is not None:
                prepared.append(batch)
            yield batch
        self._prepared = prepared

    def _on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        import torch

        return {
            name: value.to(self._device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()
        }


def _loader(model: Any, config: Any, samples: list[dict[str, Any]]) -> Any:
    """The Trainer's evaluation batches; up to trainer 0.1 the method has more arguments."""
    values = {"assets": None, "is_eval": True, "samples": samples, "verbose": False, "num_gpus": 1, "rank": 0}
    accepted = inspect.signature(model.get_data_loader).parameters
    return model.get_data_loader(config, **{name: value for name, value in values.items() if name in accepted})


@contextlib.contextmanager
def _recorded_cross_entropies() -> Iterator[list[Any]]:
    """Record the cross-entropies of the tokens, [clips, tokens] each, that ``TTS.tts.layers.xtts.gpt`` averages.

    Its forward pass calls ``F.cross_entropy`` for the text, then for the speech. The averages stay torch's own.
    """
    import torch
    from TTS.tts.layers.xtts import gpt

    recorded: list[Any] = []

    class Functional:
        def __getattr__(self, name: str) -> Any:
            return getattr(torch.nn.functional, name)

        @staticmethod
        def cross_entropy(logits: Any, targets: Any, **options: Any) -> Any:
            recorded.append(torch.nn.functional.cross_entropy(logits, targets, **options, reduction="none"))
            return torch.nn.functional.cross_entropy(logits, targets, **options)

    before = gpt.F
    gpt.F = Functional()
    try:
        yield recorded
    finally:
        gpt.F = before


def _sums(recorded: Sequence[Any]) -> list[list[float]]:
    return [losses.double().sum(dim=1).tolist() for losses in recorded]


def _drops_the_first() -> bool:
    """Whether the mean of the Trainer's ``KeepAverage`` leaves out the first of several values."""
    from trainer.generic_utils import KeepAverage

    average = KeepAverage()
    for value in (0.0, 1.0):
        average.update_value("probe", value)
    return bool(average["probe"] == 1.0)


def _loss(batches: Sequence[_Batch]) -> Loss:
    parts = [name for name in batches[0].losses if name != "loss"]
    means = {name: _mean([batch.losses[name] for batch in batches]) for name in batches[0].losses}
    clips = sum(len(batch.sums[0]) for batch in batches)
    shares = []
    for batch in batches:
        # Each part of the loss is a mean over the tokens of all clips of its batch.
        per_part = [_split(batch.losses[name], sums) for name, sums in zip(parts, batch.sums, strict=True)]
        shares += [math.fsum(values) * clips / len(batches) for values in zip(*per_part, strict=True)]
    found = interval(shares)
    low, high = (found.low, found.high) if found else (math.nan, math.nan)
    return Loss(means.pop("loss"), low, high, means, shares)


def _split(loss: float, sums: Sequence[float]) -> list[float]:
    total = sum(sums)
    return [loss * (one / total if total else 1 / len(sums)) for one in sums]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
