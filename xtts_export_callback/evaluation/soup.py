"""Greedy soup: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models ...", 2022, recipe 1.

Models are tried from the best on; each stays in the mean if the mean does not become worse. The trials are planned
merges, which are computed while they are swapped in: nothing is written before the end.
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
    from xtts_export_callback.evaluation.results import Candidate, Evaluation
    from xtts_export_callback.merge.plan import Plan

    Score = tuple[float, ...]
    """The lower the better, the first number that differs decides."""

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


def by_loss(candidate: Candidate) -> Score:
    """Return the score of a candidate by its loss; infinite where there is none."""
    return (candidate.loss.mean if candidate.loss and math.isfinite(candidate.loss.mean) else math.inf,)


def with_greedy_soup(
    evaluation: Evaluation,
    sources: Sequence[Source],
    measure: Callable[[Plan], dict[str, Any]],
    folder: Path,
    *,
    score: Callable[[Candidate], Score] = by_loss,
    force: bool = False,
) -> Evaluation:
    """Build the greedy soup of measured candidates and write it as an inference folder, its recipe beside it.

    Args:
        evaluation: With the measures of the candidates. Averages and merges are left out: they are soups already.
        sources: The files of the candidates.
        measure: Measures a planned mean as the candidates were, and returns fields of `Candidate`.
        folder: The inference folder to write; the recipe is ``FOLDER.yaml``.
        score: What decides.
        force: Replace what is there.

    Returns:
        The evaluation with the soup as a candidate, and a note; with the note alone where no mean is better than the
        best model.

    Raises:
        ConfigError: When fewer than two models can be averaged.
        IncompatibleError: When models cannot be merged.
    """
    paths = {source.candidate.fingerprint: source.path for source in sources}
    usable = [one for one in evaluation.candidates if is_ingredient(one) and one.fingerprint in paths]
    usable = [one for one in usable if min(score(one)) < math.inf]
    if len(usable) < 2:
        msg = (
            f"--greedy: expected at least 2 checkpoints or exports that can be measured, found {len(usable)}; name more"
        )
        raise ConfigError(msg)
    notes = [one for one in evaluation.notes if not one.startswith(_NOTE)]
    first, *others = sorted(usable, key=score)
    chosen, measured = [first], {}
    best = score(first)
    for one in others:
        with planned(load_recipe(_recipe([*chosen, one], paths))) as plan:
            trial = measure(plan)
        if score(replace(one, **trial)) <= best:
            chosen, measured, best = [*chosen, one], trial, score(replace(one, **trial))
    if len(chosen) == 1:
        note = f"{_NOTE}no mean is better than {first.name} alone, so nothing is written"
        return replace(evaluation, notes=[*notes, note])
    recipe = _recipe(chosen, paths)
    merge_checkpoints(recipe, folder, force=force)
    _write_recipe(recipe, folder.with_name(f"{folder.name}.yaml"), force=force)
    (written,) = find_candidates([folder])
    soup = replace(written.candidate, **measured)
    kept = [one for one in evaluation.candidates if one.name != soup.name and one.fingerprint != soup.fingerprint]
    names = ", ".join(one.name for one in chosen)
    note = (
        f"greedy soup: the mean of {names}, in {folder.name}; chosen on these clips, so measure it on others (--data)"
    )
    return replace(evaluation, candidates=[*kept, soup], notes=[*notes, note])


def is_ingredient(candidate: Candidate) -> bool:
    """Whether a candidate can be part of a soup."""
    return candidate.kind in ("checkpoint", "export")


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
