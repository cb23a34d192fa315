"""What a fine-tune trades: its loss, and that of other languages, on the way from the base to it.

The weights between are interpolated (Wortsman et al., "Robust fine-tuning of zero-shot models", 2021) and swapped in;
nothing is written.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.candidates import Source, find_candidates
from xtts_export_callback.evaluation.intervals import is_lower
from xtts_export_callback.evaluation.loss import LossMeter
from xtts_export_callback.evaluation.prepare import prepare
from xtts_export_callback.evaluation.results import Loss
from xtts_export_callback.evaluation.trainer_config import evaluation_samples, read_trainer_config
from xtts_export_callback.extras import require
from xtts_export_callback.files.paths import as_path, expanded
from xtts_export_callback.merge.merge import planned
from xtts_export_callback.merge.recipe import load_recipe
from xtts_export_callback.quiet import quiet

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

DEFAULT_STEPS = 5
TARGET = "target"


@dataclass(frozen=True)
class Sweep:
    """Losses by the weight of the fine-tune.

    Attributes:
        weights: From 0, the base, to 1, the fine-tune.
        losses: For each data set (``"target"``, then language codes), one loss for each weight.
    """

    weights: list[float]
    losses: dict[str, list[Loss]]

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        target = self.losses[TARGET]
        best = min(range(len(target)), key=lambda index: target[index].mean)
        chance = is_lower(target[best].clips, target[-1].clips)
        parts = [f"The target's loss is lowest at weight {self.weights[best]:g} ({target[best].mean:.4f})"]
        if best < len(target) - 1:
            parts.append(f"the fine-tune alone has {target[-1].mean:.4f}" + ("" if chance else ", which may be chance"))
        for code, losses in self.losses.items():
            if code != TARGET:
                parts.append(f"{code} goes from {losses[0].mean:.4f} with the base to {losses[best].mean:.4f}")
        return "; ".join(parts) + "."

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        losses = {name: [asdict(loss) for loss in found] for name, found in self.losses.items()}
        return {"verdict": self.verdict, "weights": self.weights, "losses": losses}


def sweep_weights(  # noqa: PLR0913 - options of one command
    model: str | os.PathLike[str],
    base: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    others: Mapping[str, str | os.PathLike[str]] | None = None,
    language: str | None = None,
    device: str | None = None,
    steps: int = DEFAULT_STEPS,
    progress: Callable[[int, int], None] | None = None,
) -> Sweep:
    """Measure the loss at equal steps from a base to a fine-tune of it.

    Args:
        model: The fine-tune.
        base: What it was trained from.
        config: The ``config.json`` of its run.
        data: As `evaluate_checkpoints`.
        others: Metadata files of other languages, by language code.
        language: As `evaluate_checkpoints`.
        device: As `evaluate_checkpoints`.
        steps: Number of steps; 5 measures the weights 0, 0.2, 0.4, 0.6, 0.8 and 1.
        progress: Called with the clips done and their number.

    Returns:
        The losses.

    Raises:
        CheckpointError, ConfigError, IncompatibleError, MissingExtraError: As `evaluate_checkpoints`.
    """
    require("train", "evaluate --sweep")
    if steps < 1:
        msg = f"--steps {steps}: expected at least 1; choose a larger number"
        raise ConfigError(msg)
    fine_tune, start = (_source(path) for path in (model, base))
    config_path = expanded(config)
    prepared = prepare(
        config_path, [fine_tune, start], device=device, data=expanded(data) if data else None, language=language
    )
    meters = {TARGET: prepared.meter}
    with quiet():
        for code, path in (others or {}).items():
            other = read_trainer_config(config_path, data=expanded(path), language=code)
            other.datasets[0].language = code
            meters[code] = LossMeter(prepared.trainer, other, evaluation_samples(other, every=True))
    weights = [step / steps for step in range(steps + 1)]
    done, total = 0, len(weights) * sum(meter.clips for meter in meters.values())

    def advance(clips: int) -> None:
        nonlocal done
        done += clips
        if progress is not None:
            progress(done, total)

    losses: dict[str, list[Loss]] = {name: [] for name in meters}
    for weight in weights:
        recipe = {"models": [str(fine_tune.path)], "base": str(start.path), "method": "interpolate", "scale": weight}
        with quiet(), planned(load_recipe(recipe)) as plan:
            for name, meter in meters.items():
                losses[name].append(meter.measure(plan, advance))
    return Sweep(weights, losses)


def _source(path: str | os.PathLike[str]) -> Source:
    found = find_candidates([expanded(path)])
    if len(found) != 1:
        msg = f"{as_path(path)}: expected one model, found {len(found)}; name one of them, such as {found[-1].path}"
        raise ConfigError(msg)
    return found[0]
