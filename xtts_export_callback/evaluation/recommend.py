"""Choose the model of a run with the lowest evaluation loss, and write it as one more inference folder."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.reader import open_checkpoint
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.evaluation.candidates import find_candidates
from xtts_export_callback.evaluation.choose import ranked
from xtts_export_callback.evaluation.prepare import prepare
from xtts_export_callback.evaluation.results import Evaluation
from xtts_export_callback.evaluation.soup import SOUP, by_loss, is_ingredient, with_greedy_soup
from xtts_export_callback.export.export import export_opened
from xtts_export_callback.files.atomic import temporary_directory
from xtts_export_callback.inference_folder.ownership import check_replaceable
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.xtts.model_config import CONFIG_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xtts_export_callback.evaluation.candidates import Source
    from xtts_export_callback.evaluation.loss import LossMeter


class _TimeUpError(Exception):
    pass


def recommend(
    run: Path,
    target: Path,
    *,
    samples: list[dict[str, Any]],
    stored: dict[str, Any],
    seconds: float,
    device: str | None = None,
    trained_in: Path | None = None,
) -> dict[str, Any]:
    """Measure the checkpoints, exports, averages and merges of a run and their greedy soup, and write the best.

    Where the time does not suffice for all, the averages come first, then the newest checkpoints.

    Args:
        run: The run folder.
        target: The inference folder to write, in the run's folder of exports. One of ours is replaced; if it is the
            best itself, as in a resumed run whose new checkpoints are worse, it stays.
        samples: The evaluation split, as ``load_tts_samples`` returns it.
        stored: ``dtype``, ``precision`` and ``format``, as for `export_checkpoint`.
        seconds: When no further model is measured.
        device: As `evaluate_checkpoints`.
        trained_in: As `export_opened`.

    Returns:
        ``model``, the name of the best; ``reason``; ``written``, whether the folder is new; ``nbytes``, its size.

    Raises:
        CheckpointError, ConfigError, IncompatibleError: As `evaluate_checkpoints`.
        ConfigError: When the time did not suffice for one model, or no loss is finite.
        OutputExistsError: When ``target`` is not ours.
    """
    deadline = time.monotonic() + seconds
    check_replaceable(target, force=True)
    sources = find_candidates([run], folder=target.parent.name)
    prepared = prepare(run / CONFIG_FILE, sources, device=device, data=None, language=None, samples=samples)
    evaluation = Evaluation([one.candidate for one in sources], rule=["loss"], data=prepared.data)
    with temporary_directory(target, mode=0o700) as temporary:
        soup = temporary / SOUP
        evaluation = ranked(_measured(evaluation, sources, prepared.meter, soup, deadline))
        best = evaluation.candidates[0] if evaluation.candidates else None
        if best is None or best.loss is None or not math.isfinite(best.loss.mean):
            why = "has a finite loss" if best is not None and best.loss else f"was measured within {seconds:g} s"
            msg = f"{run}: none of {len(sources)} models {why}; measure them with: xtts-export evaluate RUN --greedy"
            raise ConfigError(msg)
        paths = {source.candidate.name: source.path for source in sources} | ({SOUP: soup} if soup.is_dir() else {})
        path = paths[best.name]
        reason = " ".join([evaluation.verdict, *evaluation.not_measured])
        if path == target:
            return {"model": best.name, "reason": reason, "written": False, "nbytes": 0}
        chosen = _described(evaluation, reason) | {"sources": (read_provenance(path) or {}).get("sources")}
        options: dict[str, Any] = {**stored, "trained_in": trained_in, "more": {"recommended": chosen}, "force": True}
        with open_checkpoint(path) as checkpoint:
            written = export_opened(checkpoint, target, **options)
    return {"model": best.name, "reason": reason, "written": True, "nbytes": written.nbytes}


def _measured(
    evaluation: Evaluation, sources: Sequence[Source], meter: LossMeter, soup: Path, deadline: float
) -> Evaluation:
    def check_time(_: int) -> None:
        if time.monotonic() > deadline:
            raise _TimeUpError

    try:
        for source in reversed(sources):
            loss = meter.measure(source.path, check_time)
            candidates = [
                replace(one, loss=loss) if one.name == source.candidate.name else one for one in evaluation.candidates
            ]
            evaluation = replace(evaluation, candidates=candidates)
        if sum(is_ingredient(one) and by_loss(one)[0] < math.inf for one in evaluation.candidates) > 1:
            evaluation = with_greedy_soup(
                evaluation, sources, lambda plan: {"loss": meter.measure(plan, check_time)}, soup
            )
    except _TimeUpError:
        missing = [one.name for one in evaluation.candidates if one.loss is None]
        line = f"The time did not suffice for {', '.join([*missing, 'the greedy soup'])}."
        evaluation = replace(evaluation, not_measured=[line])
    return evaluation


def _described(evaluation: Evaluation, reason: str) -> dict[str, Any]:
    """Return what provenance says of the choice; no path of this machine is in it."""
    losses = {one.name: {"mean": one.loss.mean, "low": one.loss.low, "high": one.loss.high}
              for one in evaluation.candidates if one.loss is not None and math.isfinite(one.loss.mean)}  # fmt: skip
    return {
        "model": evaluation.candidates[0].name,
        "kind": evaluation.candidates[0].kind,
        "reason": reason,
        "notes": evaluation.notes,
        "clips": evaluation.data.clips if evaluation.data else 0,
        "losses": losses,
    }
