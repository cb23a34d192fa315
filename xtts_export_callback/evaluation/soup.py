"""Greedy soup: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models ...", 2022, recipe 1.

Models are tried from the lowest loss on; each stays in the mean if the loss of the mean does not rise. The trials are
planned merges, which are computed while they are swapped in: nothing is written before the end.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.evaluation.candidates import find_candidates
from xtts_export_callback.files.atomic import whole_file
from xtts_export_callback.merge.merge import merge_checkpoints, planned
from xtts_export_callback.merge.recipe import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from xtts_export_callback.evaluation.candidates import Source
    from xtts_export_callback.evaluation.loss import LossMeter
    from xtts_export_callback.evaluation.results import Candidate, Evaluation, Loss

SOUP = "greedy_soup"
_NOTE = "greedy soup: "


def check_soup(folder: Path, *, force: bool) -> None:
    """Refuse a place for the soup where something lies, before anything is measured.

    Raises:
        OutputExistsError: When the folder exists and ``force`` is not given.
    """
    there = [path for path in (folder, folder.with_name(f"{folder.name}.yaml")) if path.exists()]
    if there and not force:
        msg = f"{there[0]}: exists already; name another --output or replace it with --force"
        raise OutputExistsError(msg)


def with_greedy_soup(
    evaluation: Evaluation,
    sources: Sequence[Source],
    meter: LossMeter,
    folder: Path,
    *,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Build the greedy soup of measured candidates and write it as an inference folder, its recipe beside it.

    Args:
        evaluation: With the losses of the candidates. Averages and merges are left out: they are soups already.
        sources: The files of the candidates.
        meter: What measured the losses.
        folder: The inference folder to write; the recipe is ``FOLDER.yaml``.
        force: Replace what is there.
        progress: Called with the number of clips done since the last call.

    Returns:
        The evaluation with the soup as a candidate, and a note; with the note alone where no mean is better than the
        best model.

    Raises:
        ConfigError: When fewer than two models can be averaged.
        IncompatibleError: When models cannot be merged.
    """
    paths = {source.candidate.fingerprint: source.path for source in sources}
    usable = [one for one in evaluation.candidates if is_ingredient(one) and one.fingerprint in paths]
    usable = [one for one in usable if one.loss is not None and math.isfinite(one.loss.mean)]
    if len(usable) < 2:
        msg = f"--greedy: expected at least 2 checkpoints or exports with a loss, found {len(usable)}; name more"
        raise ConfigError(msg)
    notes = [one for one in evaluation.notes if not one.startswith(_NOTE)]
    first, *others = sorted(usable, key=lambda one: one.loss.mean if one.loss else math.inf)
    chosen, loss = [first], first.loss
    for one in others:
        trial = _measured([*chosen, one], paths, meter, progress)
        if loss is not None and trial.mean <= loss.mean:
            chosen, loss = [*chosen, one], trial
    if len(chosen) == 1:
        note = f"{_NOTE}no mean is better than {first.name} alone, so nothing is written"
        return replace(evaluation, notes=[*notes, note])
    recipe = _recipe(chosen, paths)
    merge_checkpoints(recipe, folder, force=force)
    _write_recipe(recipe, folder.with_name(f"{folder.name}.yaml"), force=force)
    (written,) = find_candidates([folder])
    soup = replace(written.candidate, loss=loss)
    kept = [one for one in evaluation.candidates if one.name != soup.name and one.fingerprint != soup.fingerprint]
    names = ", ".join(one.name for one in chosen)
    note = (
        f"greedy soup: the mean of {names}, in {folder.name}; chosen on these clips, so measure it on others (--data)"
    )
    return replace(evaluation, candidates=[*kept, soup], notes=[*notes, note])


def is_ingredient(candidate: Candidate) -> bool:
    """Whether a candidate can be part of a soup."""
    return candidate.kind in ("checkpoint", "export")


def _measured(
    chosen: Sequence[Candidate],
    paths: dict[str | None, Path],
    meter: LossMeter,
    progress: Callable[[int], None] | None,
) -> Loss:
    with planned(load_recipe(_recipe(chosen, paths))) as plan:
        return meter.measure(plan, progress)


def _recipe(chosen: Sequence[Candidate], paths: dict[str | None, Path]) -> dict[str, Any]:
    """The mean of the models, newest last: integers, config and vocabulary come from that one."""
    ordered = sorted(chosen, key=lambda one: max(one.steps, default=-1))
    return {
        "method": "linear",
        "models": [{"path": str(paths[one.fingerprint].absolute()), "name": one.name} for one in ordered],
    }


def _write_recipe(recipe: dict[str, Any], path: Path, *, force: bool) -> None:
    import yaml

    models = [{**model, "path": os.path.relpath(model["path"], path.parent)} for model in recipe["models"]]
    with whole_file(path, force=force) as temporary:
        temporary.write_text(yaml.safe_dump({**recipe, "models": models}, sort_keys=False), encoding="utf-8")
