"""Measure candidates, choose, and keep what was measured."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError, OutputExistsError
from xtts_export_callback.evaluation.candidates import Source, find_candidates
from xtts_export_callback.evaluation.choose import check_rule, ranked
from xtts_export_callback.evaluation.prepare import prepare, usable_device
from xtts_export_callback.evaluation.results import EVALUATION_FILE, RULE, Evaluation, read_evaluation
from xtts_export_callback.evaluation.speech_evaluation import plan_speech, with_speech
from xtts_export_callback.extras import require
from xtts_export_callback.files.paths import expanded
from xtts_export_callback.run.checkpoints import exports_folder, is_run
from xtts_export_callback.xtts.model_config import CONFIG_FILE

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    from xtts_export_callback.evaluation.speech_evaluation import SpeechOptions

    Progress = Callable[[int, int], None]
    """Takes the number of clips done, of all candidates, and how many there are."""

_LOSS_OF = "loss of "


def evaluate_checkpoints(  # noqa: PLR0913 - options of one command
    paths: Sequence[str | os.PathLike[str]],
    *,
    config: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    language: str | None = None,
    device: str | None = None,
    output: str | os.PathLike[str] | None = None,
    by: Sequence[str] = RULE,
    force: bool = False,
    speech: SpeechOptions | None = None,
    greedy: bool = False,
    progress: Progress | None = None,
    forecast: Callable[[float, int], None] | None = None,
) -> Evaluation:
    """Measure the evaluation loss of models on the same clips, and their speech, and rank them.

    Args:
        paths: Runs (all of their checkpoints and exports), checkpoints, inference folders or files of weights.
        config: The ``config.json`` that the Trainer wrote into the run; by default that of the only run among the
            paths. Without any, only speech is measured.
        data: In place of the config's data sets: the folder that its only one has moved to, or a metadata file, of
            which every clip is evaluated.
        language: Language code of that metadata file, where the config has none.
        device: Such as ``"cuda"``; by default the first GPU, or else the CPU.
        output: Folder for ``evaluation.json``. It is written after each model, and what it already holds for the same
            weights and data is not measured again.
        by: The measures that decide, in their order: ``faults``, ``errors``, ``voice``, ``naturalness``, ``loss``.
        force: Replace an ``evaluation.json`` of other data.
        speech: What the models are to say, if their speech is measured too. It needs ``output``, where the clips go.
        greedy: Build the greedy soup of the checkpoints and exports, and write it as an inference folder
            ``greedy_soup`` with its recipe: into ``output``, or else beside the exports of the only run. The loss
            decides; with ``speech``, its measures in the order of ``by``.
        progress: Called with the clips done and their number over all models, for the loss and then for the speech.
        forecast: Called before the first sentence, with the seconds that speaking will take and the number of clips.

    Returns:
        The evaluation, best first; ``.to_dict()`` is what ``evaluation.json`` holds.

    Raises:
        CheckpointError: When a file is damaged or not an XTTS model.
        ConfigError: When the config or the data set cannot be used, or files are missing.
        IncompatibleError: When a model has another vocabulary or size than the config's.
        MissingExtraError: When torch or Coqui's packages are not installed.
        OutputExistsError: When ``output`` holds an evaluation of other data, and ``force`` is not given.

    Example:
        >>> evaluate_checkpoints(["RUN", "merged"], config="RUN/config.json").verdict  # doctest: +SKIP
    """
    rule = check_rule(by)
    require("train", "evaluate")
    folders = [expanded(path) for path in paths]
    folder = expanded(output) if output is not None else None
    if speech is not None and folder is None:
        msg = "--speech: expected --output DIR, the folder that keeps the clips; name one"
        raise ConfigError(msg)
    config_path = expanded(config) if config is not None else _config_of(folders, needed=speech is None)
    soup = _soup_folder(folders, folder, force=force) if greedy else None
    if soup is not None and config_path is None and speech is None:
        msg = "--greedy: expected --config, because the soup is chosen by the loss; name the config.json of the run"
        raise ConfigError(msg)
    old = _old(folder, force=force)
    sources = find_candidates(folders)
    where: dict[str, Any] = {"data": expanded(data) if data else None, "language": language}
    plan = plan_speech(speech, config_path, _samples(config_path, **where)) if speech is not None else None
    evaluation = replace(_continued(Evaluation([one.candidate for one in sources]), old), rule=rule)
    same = [f"{twin} has the same weights as {one.candidate.name}" for one in sources for twin in one.twins]
    evaluation = replace(evaluation, notes=list(dict.fromkeys([*evaluation.notes, *same])))
    if config_path is not None:
        options: dict[str, Any] = {"soup": None if plan else soup, "force": force, "device": device, **where}
        evaluation = _with_loss(evaluation, config_path, sources, folder, progress, **options)
    if plan is not None and folder is not None:
        told: dict[str, Any] = {"progress": progress, "forecast": forecast}
        chosen = usable_device(device)
        evaluation = with_speech(evaluation, sources, plan, folder, soup=soup, device=chosen, **told)
        if config_path is not None and soup is not None and soup.is_dir():  # the soup still lacks its loss
            new = find_candidates([soup])
            evaluation = _with_loss(evaluation, config_path, new, folder, progress, **{**options, "soup": None})
    return evaluation


def _samples(config_path: Path | None, *, data: Path | None, language: str | None) -> list[dict[str, Any]]:
    """Return the evaluation split of a run, for its texts and voices."""
    from xtts_export_callback.evaluation.trainer_config import evaluation_samples, read_trainer_config
    from xtts_export_callback.quiet import quiet

    if config_path is None:
        return []
    with quiet():
        config = read_trainer_config(config_path, data=data, language=language)
        return evaluation_samples(config, every=data is not None and not data.is_dir())


def _with_loss(
    evaluation: Evaluation,
    config_path: Path,
    sources: Sequence[Source],
    folder: Path | None,
    progress: Progress | None,
    *,
    soup: Path | None,
    force: bool,
    **options: Any,
) -> Evaluation:
    """Measure the loss of the candidates that have none yet. The model is freed at the end."""
    from xtts_export_callback.evaluation.soup import is_ingredient, with_greedy_soup
    from xtts_export_callback.quiet import quiet

    prepared = prepare(config_path, sources, **options)
    if evaluation.settings.get("loss", prepared.settings) != prepared.settings:
        msg = f"{folder}: its {EVALUATION_FILE} is of other data or another config; name another --output, or --force"
        raise OutputExistsError(msg)
    settings = {**evaluation.settings, "loss": prepared.settings}
    unmeasured = [line for line in evaluation.not_measured if not line.startswith(_LOSS_OF)]
    if prepared.meter.left_out:
        why = "too long, too short, unreadable, or with unknown characters; training leaves them out too"
        unmeasured.append(f"{_LOSS_OF}{prepared.meter.left_out} clips: {why}")
    evaluation = replace(evaluation, data=prepared.data, settings=settings, not_measured=unmeasured)
    paths = {source.candidate.fingerprint: source.path for source in sources}
    missing = [one for one in evaluation.candidates if one.loss is None and one.fingerprint in paths]
    trials = sum(is_ingredient(one) and one.fingerprint in paths for one in evaluation.candidates) - 1 if soup else 0
    done, total = 0, (len(missing) + trials) * prepared.meter.clips

    def advance(clips: int) -> None:
        nonlocal done
        done += clips
        if progress is not None:
            progress(done, total)

    try:
        for one in missing:
            with quiet():
                loss = prepared.meter.measure(paths[one.fingerprint], advance)
            candidates = [replace(each, loss=loss) if each is one else each for each in evaluation.candidates]
            evaluation = replace(evaluation, candidates=candidates)
            if folder is not None:
                evaluation.write(folder)
        if soup is not None:
            with quiet():
                evaluation = with_greedy_soup(
                    evaluation,
                    sources,
                    lambda plan: {"loss": prepared.meter.measure(plan, advance)},
                    soup,
                    force=force,
                )
    finally:  # Ctrl-C keeps what is measured
        evaluation = ranked(evaluation)
        if folder is not None:
            evaluation.write(folder)
    return evaluation


def _continued(new: Evaluation, old: Evaluation | None) -> Evaluation:
    """What was measured already, and what is to be measured now."""
    if old is None:
        return new
    known = {one.fingerprint for one in old.candidates}
    names = {one.name for one in old.candidates}
    added = []
    for one in new.candidates:
        if one.fingerprint in known:
            continue
        others = (f"{one.name}-{number}" for number in count(2))
        added.append(replace(one, name=next(name for name in chain([one.name], others) if name not in names)))
        names.add(added[-1].name)
    return replace(old, candidates=[*old.candidates, *added], created=new.created, versions=new.versions)


def _soup_folder(paths: Sequence[Path], output: Path | None, *, force: bool) -> Path:
    from xtts_export_callback.evaluation.soup import SOUP, check_soup

    runs = [path for path in paths if is_run(path)]
    if output is None and len(runs) != 1:
        msg = f"--greedy: expected --output DIR for the soup, found none and {len(runs)} runs; name one"
        raise ConfigError(msg)
    folder = output / SOUP if output is not None else runs[0] / exports_folder(runs[0]) / SOUP
    check_soup(folder, force=force)
    return folder


def _old(folder: Path | None, *, force: bool) -> Evaluation | None:
    if folder is None or force or not (folder / EVALUATION_FILE).exists():
        return None
    return read_evaluation(folder)


def _config_of(paths: Iterable[Path], *, needed: bool) -> Path | None:
    for path in paths:
        if not path.exists():
            msg = f"{path}: no such file or folder; check the path"
            raise ConfigError(msg)
    runs = [path for path in paths if is_run(path)] or [path.parent for path in paths if is_run(path.parent)]
    configs = [run / CONFIG_FILE for run in dict.fromkeys(runs)]
    if not configs and not needed:
        return None
    if len(configs) != 1:
        msg = (
            f"--config: expected the config.json of the run whose data is evaluated, found {len(configs)} runs; name it"
        )
        raise ConfigError(msg)
    return configs[0]
