"""Reads the JSON of a training and names every mistake in it before anything heavy is loaded.

Coqpit ignores keys that it does not know and replaces values of the wrong type with the default, with a warning among
hundreds of lines. A training runs for days, so here both are errors.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import parse_json, read_small_file
from xtts_export_callback.files.paths import expanded
from xtts_export_callback.run.log import training_logger
from xtts_export_callback.suggestions import did_you_mean
from xtts_export_callback.training.config import ExportConfig, check_options
from xtts_export_callback.training.coqui_fields import unknown_fields, unknown_options

logger = training_logger()

_RELEASE = "https://huggingface.co/coqui/XTTS-v2"

# What JSON may hold for a field of a plain type. True and false are numbers to Python, but not to a config.
_PLAIN: dict[Any, Any] = {bool: bool, int: (int, float), float: (int, float), str: str}

# Keys that the Trainer adds to the config.json of a run (`Trainer.init_training`, `copy_model_files`).
_ADDED_BY_TRAINER = ("restore_path", "github_branch")


class _PathField(NamedTuple):
    """A path in the raw config, and what must exist there."""

    name: str
    container: Any
    key: Any
    root: Path
    is_folder: bool = False
    is_required: bool = False


def read_config(path: str | Path, *, overrides: Sequence[str] = (), of_run: bool = False) -> dict[str, Any]:
    """Read a training config and check that every file it names exists.

    Neither torch nor ``TTS`` is imported.

    Args:
        path: JSON file with fields of ``RecipeConfig``. Relative paths in it are relative to the working directory, and
            ``~`` stands for the home directory.
        overrides: ``--coqpit.KEY VALUE`` arguments, so that the files that will really be used are checked.
        of_run: Whether it is the ``config.json`` of a run, which may be of another version of coqui-tts.

    Returns:
        The fields, paths with ``~`` expanded. The overrides are not among them.

    Raises:
        ConfigError: If it cannot be read, if it has fields that no config has or an ``export`` section that cannot be
            used, or if files are missing: all of them are named.
    """
    raw = _read_json_object(expanded(path))
    problems = [*unknown_options(overrides), *([] if of_run else unknown_fields(raw))]
    if "export" in raw:
        try:
            check_options(raw["export"])
        except ConfigError as error:
            msg = f"{path}: {error}"
            raise ConfigError(msg) from None
    for field in _path_fields(raw):
        if isinstance(field.container[field.key], str):
            field.container[field.key] = _expand(field.container[field.key])
    problems += _missing_files(_with_overrides(raw, overrides))
    if problems:
        msg = f"{path}: {'; '.join(problems)}"
        raise ConfigError(msg)
    return raw


def check_fields(config_class: type[Any], raw: dict[str, Any], *, source: str | Path, of_run: bool = False) -> None:
    """Refuse keys that a config does not have, and values of the wrong type.

    Args:
        config_class: The Coqpit dataclass.
        raw: The JSON object meant for it.
        source: File to name in the message.
        of_run: Whether it is the ``config.json`` of a run, which a program has written: keys that its version of
            coqui-tts knew and this one does not are removed and named in the log. In other configs they are refused.

    Raises:
        ConfigError: Naming the key with its path, such as ``model_args.gpt_layers``.
    """
    unknown: list[str] | None = [] if of_run else None
    try:
        _check_section(config_class, raw, prefix="", unknown=unknown)
    except ConfigError as error:
        msg = f"{source}: {error}"
        raise ConfigError(msg) from None
    if unknown:
        logger.warning(
            " ! EXPORT : %s: ignored fields that this version of coqui-tts does not have: %s",
            source,
            ", ".join(unknown),
        )


def _read_json_object(path: Path) -> dict[str, Any]:
    raw = parse_json(read_small_file(path), str(path))
    if not isinstance(raw, dict):
        msg = f"{path}: holds a {type(raw).__name__}, expected an object with the fields of the training config"
        raise ConfigError(msg)
    return raw


def _check_section(config_class: type[Any], raw: dict[str, Any], *, prefix: str, unknown: list[str] | None) -> None:
    """Check one object of the config; ignored keys move from ``raw`` to ``unknown`` if that is a list."""
    types = {field.name: field.type for field in dataclasses.fields(config_class)}
    for key, value in list(raw.items()):
        if key not in types:
            if not prefix and key in _ADDED_BY_TRAINER:
                continue
            if unknown is not None:
                unknown.append(f"{prefix}{key}")
                del raw[key]
                continue
            msg = f"{prefix}{key} is not a field of {config_class.__name__}{did_you_mean(key, list(types))}"
            raise ConfigError(msg)
        section, is_list = _section_class(types[key])
        if section is ExportConfig:
            check_options(value)
        elif section and is_list and isinstance(value, list):
            for index, item in enumerate(value):
                _check_subsection(section, item, prefix=f"{prefix}{key}.{index}", unknown=unknown)
        elif section and not is_list and value is not None:
            _check_subsection(section, value, prefix=f"{prefix}{key}", unknown=unknown)
        else:
            _check_value(config_class, key, value, expected=types[key], prefix=prefix)


def _check_subsection(section: type[Any], raw: Any, *, prefix: str, unknown: list[str] | None) -> None:
    if not isinstance(raw, dict):
        msg = f"{prefix} is {raw!r}, expected an object with the fields of {section.__name__}"
        raise ConfigError(msg)
    _check_section(section, raw, prefix=f"{prefix}.", unknown=unknown)


def _section_class(field_type: Any) -> tuple[type[Any] | None, bool]:
    """Return the Coqpit class that a field holds, if any, and whether it holds a list of them."""
    is_list = get_origin(field_type) is list
    for candidate in (*get_args(field_type), field_type):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate, is_list
    return None, is_list


def _check_value(config_class: type[Any], key: str, value: Any, *, expected: Any, prefix: str) -> None:
    """Let Coqpit itself judge whether a field can take the value; up to 0.0.17 it does not check plain types."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            if value is not None and not _is_of_plain_type(value, expected):
                raise TypeError
            config_class().deserialize({key: value})
        except (TypeError, ValueError, UserWarning):
            kind = expected.__name__ if isinstance(expected, type) else str(expected).replace("typing.", "")
            msg = f"{prefix}{key} is {value!r}, expected {kind}"
            raise ConfigError(msg) from None


def _is_of_plain_type(value: Any, expected: Any) -> bool:
    """Whether a value is of the type of its field; also where that is not a plain one, which Coqpit judges."""
    if expected not in _PLAIN:
        return True
    return isinstance(value, _PLAIN[expected]) and isinstance(value, bool) == (expected is bool)


def _path_fields(raw: dict[str, Any]) -> Iterator[_PathField]:
    """Find every path in a raw config. Values of an unexpected kind are left to :func:`check_fields`."""
    here = Path()
    if isinstance(raw.get("output_path"), str):
        yield _PathField("output_path", raw, "output_path", here)
    datasets = raw.get("datasets")
    for index, dataset in enumerate(datasets if isinstance(datasets, list) else []):
        if not isinstance(dataset, dict):
            continue
        dataset.setdefault("path", "")
        name = f"datasets.{index}."
        yield _PathField(f"{name}path", dataset, "path", here, is_folder=True, is_required=True)
        root = Path(_expand(dataset["path"])) if isinstance(dataset["path"], str) else here
        for key in ("meta_file_train", "meta_file_val"):
            if key in dataset:
                yield _PathField(name + key, dataset, key, root)
    model_args = raw.setdefault("model_args", {})
    if isinstance(model_args, dict):
        for key in ("dvae_checkpoint", "tokenizer_file"):
            model_args.setdefault(key, "")
            yield _PathField(f"model_args.{key}", model_args, key, here, is_required=True)
        for key in ("mel_norm_file", "xtts_checkpoint", "gpt_checkpoint"):
            if key in model_args:
                yield _PathField(f"model_args.{key}", model_args, key, here)
    sentences = raw.get("test_sentences")
    for index, sentence in enumerate(sentences if isinstance(sentences, list) else []):
        speaker = sentence.get("speaker_wav") if isinstance(sentence, dict) else None
        name = f"test_sentences.{index}.speaker_wav"
        if isinstance(speaker, str):
            yield _PathField(name, sentence, "speaker_wav", here)
        elif isinstance(speaker, list):
            for number in range(len(speaker)):
                yield _PathField(f"{name}.{number}", speaker, number, here)


def _missing_files(raw: dict[str, Any]) -> list[str]:
    """List the files and folders that a raw config names and that do not exist."""
    problems = []
    if not raw.get("datasets"):
        problems.append("datasets is empty, expected at least one data set")
    downloadable = False
    seen: set[Path] = set()
    missing_folders: set[Path] = set()
    for field in _path_fields(raw):
        value = field.container[field.key]
        if field.name == "output_path" or not isinstance(value, str) or "://" in value:
            continue  # the Trainer creates output_path and downloads URLs
        if not value:
            if field.is_required:
                problems.append(f"{field.name} is not set")
            continue
        path = field.root / _expand(value)
        if path in seen or any(missing_folder in path.parents for missing_folder in missing_folders):
            continue
        seen.add(path)
        if not (path.is_dir() if field.is_folder else path.is_file()):
            problems.append(f"{field.name}: there is no {'folder' if field.is_folder else 'file'} {path}")
            missing_folders |= {path} if field.is_folder else set()
            downloadable |= field.name.startswith("model_args.")
    if downloadable:
        problems.append(f"dvae.pth, mel_stats.pth, vocab.json and model.pth of XTTS v2 are at {_RELEASE}")
    return problems


def _with_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the raw config with the ``--coqpit.KEY VALUE`` arguments applied, values as strings."""
    result = copy.deepcopy(raw)
    name = ""
    for argument in overrides:
        value = argument
        if argument.startswith("--"):
            name, _, value = argument.partition("=")
        if name.startswith("--coqpit.") and value:
            _set_item(result, name.removeprefix("--coqpit.").split("."), value)
    return result


def _set_item(container: Any, keys: Sequence[str], value: str) -> None:
    """Set an item of nested objects and lists by its path, if its container exists."""
    *parents, last = keys
    for parent in parents:
        container = _item(container, parent)
    if isinstance(container, dict) and not isinstance(container.get(last), list):
        container[last] = value
    elif isinstance(container, list) and last.isdigit() and int(last) < len(container):
        container[int(last)] = value


def _item(container: Any, key: str) -> Any:
    if isinstance(container, dict):
        return container.setdefault(key, {})
    if isinstance(container, list) and key.isdigit() and int(key) < len(container):
        return container[int(key)]
    return None


def _expand(path: str) -> str:
    return str(expanded(path)) if path.startswith("~") else path
