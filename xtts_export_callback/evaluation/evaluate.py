"""Measure candidates, choose, and keep what was measured."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.reader import open_checkpoint
from xtts_export_callback.errors import ConfigError, IncompatibleError, OutputExistsError
from xtts_export_callback.evaluation.candidates import Source, check_fits, find_candidates
from xtts_export_callback.evaluation.choose import check_rule, ranked
from xtts_export_callback.evaluation.results import EVALUATION_FILE, RULE, Data, Evaluation, read_evaluation
from xtts_export_callback.extras import require
from xtts_export_callback.files.json_file import read_small_file
from xtts_export_callback.files.paths import expanded
from xtts_export_callback.run.checkpoints import is_run
from xtts_export_callback.xtts.assets import find_assets
from xtts_export_callback.xtts.model_config import CONFIG_FILE
from xtts_export_callback.xtts.state_dict import dropped_component, inference_model
from xtts_export_callback.xtts.vocab import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    from xtts_export_callback.evaluation.loss import LossMeter

    Progress = Callable[[int, int], None]
    """Takes the number of clips done, of all candidates, and how many there are."""


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
    progress: Progress | None = None,
) -> Evaluation:
    """Measure the evaluation loss of models on the same clips, and rank them.

    Args:
        paths: Runs (all of their checkpoints and exports), checkpoints, inference folders or files of weights.
        config: The ``config.json`` that the Trainer wrote into the run; by default that of the only run among the
            paths.
        data: In place of the config's data sets: the folder that its only one has moved to, or a metadata file, of
            which every clip is evaluated.
        language: Language code of that metadata file, where the config has none.
        device: Such as ``"cuda"``; by default the first GPU, or else the CPU.
        output: Folder for ``evaluation.json``. It is written after each model, and what it already holds for the same
            weights and data is not measured again.
        by: The measures that decide, in their order: ``faults``, ``errors``, ``voice``, ``naturalness``, ``loss``.
        force: Replace an ``evaluation.json`` of other data.
        progress: Called with the clips done and their number over all models.

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
    config_path = expanded(config) if config is not None else _config_of(folders)
    folder = expanded(output) if output is not None else None
    old = _old(folder, force=force)
    sources = find_candidates(folders)
    meter, settings, described = _prepare(
        config_path, sources, device=device, data=expanded(data) if data else None, language=language
    )
    if old is not None and old.settings.get("loss", settings) != settings:
        msg = f"{folder}: its {EVALUATION_FILE} is of other data or another config; name another --output, or --force"
        raise OutputExistsError(msg)
    evaluation = _continued(Evaluation([one.candidate for one in sources]), old)
    evaluation = replace(evaluation, rule=rule, data=described, settings={**evaluation.settings, "loss": settings})
    return _measured(evaluation, sources, meter, folder, progress)


def _prepare(
    config_path: Path, sources: Sequence[Source], *, device: str | None, data: Path | None, language: str | None
) -> tuple[LossMeter, dict[str, Any], Data]:
    """Load the data, build the model, and check that every candidate fits it before the first is measured."""
    from xtts_export_callback.evaluation.loss import LossMeter, quiet
    from xtts_export_callback.evaluation.trainer_config import evaluation_samples, fingerprint_of, read_trainer_config

    chosen = _device(device)
    with quiet():
        config = read_trainer_config(config_path, data=data, language=language)
        samples = evaluation_samples(config, every=data is not None and not data.is_dir())
        # GPTTrainer adds to its config, so the settings are taken before.
        settings = {
            "samples": fingerprint_of(samples),
            "config": _digest([config.model_args, config.audio, config.eval_batch_size]),
            "device": chosen.partition(":")[0],
        }
        meter = LossMeter(config, samples, chosen)
    tokenizer = expanded(config.model_args.tokenizer_file)
    _check_all_fit(sources, meter, read_vocabulary(read_small_file(tokenizer), str(tokenizer)))
    return (
        meter,
        settings,
        Data(", ".join(one.dataset_name or Path(one.path).name for one in config.datasets), meter.clips),
    )


def _measured(
    evaluation: Evaluation, sources: Sequence[Source], meter: LossMeter, folder: Path | None, progress: Progress | None
) -> Evaluation:
    from xtts_export_callback.evaluation.loss import quiet

    paths = {source.candidate.fingerprint: source.path for source in sources}
    missing = [one for one in evaluation.candidates if one.loss is None and one.fingerprint in paths]
    done, total = 0, len(missing) * meter.clips

    def advance(clips: int) -> None:
        nonlocal done
        done += clips
        if progress is not None:
            progress(done, total)

    try:
        for one in missing:
            with quiet():
                loss = meter.measure(paths[one.fingerprint], advance)
            candidates = [replace(each, loss=loss) if each is one else each for each in evaluation.candidates]
            evaluation = replace(evaluation, candidates=candidates)
            if folder is not None:
                evaluation.write(folder)
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


def _old(folder: Path | None, *, force: bool) -> Evaluation | None:
    if folder is None or force or not (folder / EVALUATION_FILE).exists():
        return None
    return read_evaluation(folder)


def _config_of(paths: Iterable[Path]) -> Path:
    configs = [path / CONFIG_FILE for path in paths if is_run(path)]
    if len(configs) != 1:
        msg = (
            f"--config: expected the config.json of the run whose data is evaluated, found {len(configs)} runs; name it"
        )
        raise ConfigError(msg)
    return configs[0]


def _device(name: str | None) -> str:
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
            check_fits(expected, checkpoint)
            try:
                content = find_assets(checkpoint, inference_model(checkpoint).tensors).vocab
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
