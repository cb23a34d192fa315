"""Read the ``config.json`` of a run as the config of ``GPTTrainer``, and its evaluation split.

It is read here, not by the recipe: a run may come from any script and any version of coqui-tts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import read_json_object
from xtts_export_callback.files.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEEDED_FILES = ("tokenizer_file", "dvae_checkpoint", "mel_norm_file")
_META_FILES = ("meta_file_train", "meta_file_val")
_SECTIONS = ("model_args", "audio", "datasets")
_COQUI_HEADER = "audio_file|"  # first line of the metadata of TTS.tts.datasets.formatters.coqui
_SHOWN = 3


def read_trainer_config(
    path: Path, *, data: Path | None = None, language: str | None = None, needs_data: bool = True
) -> Any:
    """Read the ``config.json`` of a run.

    Args:
        path: The file. Fields that this version of coqui-tts does not have are left out.
        data: In place of its data sets: the folder that its only data set has moved to, or a metadata file, of which
            every clip is evaluated.
        language: Language code of a metadata file, where the config has none.
        needs_data: Whether its data sets must be there.

    Returns:
        A ``GPTTrainerConfig`` that starts from no weights.

    Raises:
        ConfigError: When it is not such a config, or a file or folder that it names is missing.
    """
    raw = read_json_object(path)
    _check_sections(raw, path)
    from TTS.config.shared_configs import BaseDatasetConfig
    from TTS.tts.layers.xtts.trainer import gpt_trainer

    config = gpt_trainer.GPTTrainerConfig()
    _fill(config, {key: value for key, value in raw.items() if key not in _SECTIONS})
    # Up to coqui-tts 0.25 the config itself has these two as inference needs them, and scripts replace them.
    config.model_args = _fill(gpt_trainer.GPTArgs(), raw["model_args"])
    config.model_args.xtts_checkpoint = config.model_args.gpt_checkpoint = ""
    config.audio = _fill(_audio_config(gpt_trainer), raw.get("audio") or {})
    config.datasets = [_fill(BaseDatasetConfig(), one) for one in raw.get("datasets") or []]
    if data is not None:
        config.datasets = [_elsewhere(config, path, expanded(data), language, BaseDatasetConfig)]
    problem = next(_missing_files(config), None) or (next(_missing_data(config), None) if needs_data else None)
    if problem:
        msg = f"{path}: {problem}"
        raise ConfigError(msg)
    return config


def _check_sections(raw: dict[str, Any], path: Path) -> None:
    datasets = raw.get("datasets") or []
    if not isinstance(raw.get("model_args"), dict) or "dvae_checkpoint" not in raw["model_args"]:
        msg = f"{path}: has no model_args.dvae_checkpoint; name the config.json that the Trainer wrote into the run"
        raise ConfigError(msg)
    if not isinstance(datasets, list) or not all(isinstance(one, dict) for one in datasets):
        msg = f"{path}: datasets: expected a list of objects, found {datasets!r:.80}; correct it or name --data"
        raise ConfigError(msg)


def _audio_config(gpt_trainer: Any) -> Any:
    try:  # up to coqui-tts 0.24 the class with `dvae_sample_rate` is this one
        return gpt_trainer.XttsAudioConfig()
    except AttributeError:
        from TTS.tts.configs.xtts_config import XttsAudioConfig

        return XttsAudioConfig()


def _fill(config: Any, values: dict[str, Any]) -> Any:
    """Set the fields of a config that its class has."""
    for one in dataclasses.fields(config):
        if one.name in values:
            setattr(config, one.name, values[one.name])
    return config


def _elsewhere(config: Any, path: Path, data: Path, language: str | None, dataset_class: Any) -> Any:
    """The data set that is to be used in place of the config's."""
    own = [dataset for dataset in config.datasets if dataset.path]
    if data.is_dir():
        if len(own) != 1:
            msg = f"--data {data}: {path} has {len(own)} data sets, expected 1 for a folder; name a metadata file"
            raise ConfigError(msg)
        names = {name: Path(getattr(own[0], name)).name for name in _META_FILES if getattr(own[0], name)}
        return dataclasses.replace(own[0], path=str(data), **names)
    if not data.is_file():
        msg = f"--data {data}: no such file or folder; name the folder of the data set or a metadata file"
        raise ConfigError(msg)
    with data.open(encoding="utf-8", errors="replace") as file:
        formatter = "coqui" if file.readline().startswith(_COQUI_HEADER) else None
    code = language or next((dataset.language for dataset in own if dataset.language), "")
    if not code:
        msg = f"--data {data}: its language is not known from {path}; name it with --language"
        raise ConfigError(msg)
    return dataset_class(
        formatter=formatter or next((dataset.formatter for dataset in own), "ljspeech"),
        dataset_name=data.stem,
        path=str(data.absolute().parent),
        meta_file_train=data.name,
        language=code,
    )


def _missing_files(config: Any) -> Iterator[str]:
    for name in _NEEDED_FILES:
        value = getattr(config.model_args, name)
        if not isinstance(value, str) or not value:
            yield f"model_args.{name}: expected a file, found {value!r}"
        elif "://" not in value and not expanded(value).is_file():
            yield f"model_args.{name}: there is no file {value}; correct the path in a copy of the config.json"


def _missing_data(config: Any) -> Iterator[str]:
    if not any(dataset.path for dataset in config.datasets):
        yield "names no data set, as the stock recipe leaves it; name its evaluation metadata with --data FILE"
    for index, dataset in enumerate(config.datasets):
        folder = expanded(dataset.path)
        if not folder.is_dir():
            yield f"datasets.{index}.path: there is no folder {folder}; name where it is now with --data"
        for name in _META_FILES:
            value = getattr(dataset, name)
            if value and not (folder / expanded(value)).is_file():
                yield f"datasets.{index}.{name}: there is no file {folder / value}; name another with --data"


def evaluation_samples(config: Any, *, every: bool) -> list[dict[str, Any]]:
    """Load the evaluation samples of a config's data sets, in the Trainer's order.

    Args:
        config: From `read_trainer_config`.
        every: Take every clip of the data sets, not the Trainer's evaluation split.

    Returns:
        The samples of ``load_tts_samples``, with ``text``, ``audio_file``, ``language``.

    Raises:
        ConfigError: When the metadata cannot be read or recordings are missing.
    """
    from TTS.tts.datasets import load_tts_samples

    # A list of data sets up to coqui-tts 0.27, from 0.28 on the config that holds them.
    takes_list = "datasets" in inspect.signature(load_tts_samples).parameters
    sizes = {"eval_split_max_size": config.eval_split_max_size, "eval_split_size": config.eval_split_size}
    try:
        train, held_out = load_tts_samples(
            config.datasets if takes_list else config, eval_split=not every, **({} if every else sizes)
        )
    # AttributeError is how coqui-tts up to 0.24 says that there is no such formatter.
    except (AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        msg = f"{_folders(config)}: the data set cannot be read ({cause:.300}); name another with --data"
        raise ConfigError(msg) from error
    samples = list(train if every else held_out)
    check_recordings(samples, config)
    return samples


def check_recordings(samples: list[dict[str, Any]], config: Any) -> None:
    """Refuse samples whose recordings are missing.

    Args:
        samples: The samples.
        config: From `read_trainer_config`, which names the folders.

    Raises:
        ConfigError: When there are no samples, or recordings are missing.
    """
    lost = [sample["audio_file"] for sample in samples if not Path(sample["audio_file"]).is_file()]
    if lost or not samples:
        names = ", ".join(map(str, lost[:_SHOWN])) + (" ..." if len(lost) > _SHOWN else "")
        what = f"{len(lost)} of {len(samples)} recordings are missing: {names}" if lost else "no evaluation samples"
        where = f"{_folders(config)}: " if _folders(config) else ""
        msg = f"{where}{what}; name where the data set is now with --data"
        raise ConfigError(msg)


def _folders(config: Any) -> str:
    return ", ".join(str(dataset.path) for dataset in config.datasets)


def fingerprint_of(samples: list[dict[str, Any]]) -> str:
    """Return a hash of the texts, the languages, and the names and sizes of the recordings, in their order."""
    digest = hashlib.sha256()
    for sample in samples:
        audio = Path(sample["audio_file"])
        entry = (sample["text"], sample["language"], audio.name, audio.stat().st_size)
        digest.update(repr(entry).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
