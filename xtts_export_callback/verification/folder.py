"""Verify the files beside the weights: config, vocabulary and the hashes in ``export.json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.reader import MODEL_NAMES
from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import parse_json, read_small_file
from xtts_export_callback.files.paths import is_there
from xtts_export_callback.inference_folder.provenance import read_provenance
from xtts_export_callback.verification.faults import Fault, Findings, Subject
from xtts_export_callback.verification.provenance import FolderFiles, Weights, provenance_findings
from xtts_export_callback.xtts.assets import VOCAB_FILE, find_vocabulary
from xtts_export_callback.xtts.companions import COMPANIONS, companion_fault
from xtts_export_callback.xtts.model_config import CONFIG_FILE
from xtts_export_callback.xtts.state_dict import TEXT_EMBEDDING
from xtts_export_callback.xtts.vocab import read_vocabulary

if TYPE_CHECKING:
    import re
    from pathlib import Path

    from xtts_export_callback.checkpoint.fingerprint import Digests
    from xtts_export_callback.checkpoint.reader import Checkpoint
    from xtts_export_callback.tensors.tensor import Tensor


def vocabulary_check(subject: Subject) -> Findings:
    """Compare the size of a vocabulary with the rows of the text embedding.

    The vocabulary is the ``vocab.json`` beside the weights, or else the one that their config names. In an inference
    folder a missing one is a fault.
    """
    beside, found = subject.checkpoint.path.with_name(VOCAB_FILE), find_vocabulary(subject.checkpoint)
    is_folder = subject.path.is_dir() and subject.checkpoint.path.name in MODEL_NAMES
    if is_folder and found != beside:
        yield Fault("vocabulary", f"{beside.name} is missing; copy the training vocabulary into the folder")
    elif found is None:
        yield "no vocabulary was found to check the text embedding against"
    else:
        fault = _vocabulary_fault(found, found.name if found == beside else str(found), subject.tensors)
        if fault:
            yield Fault("vocabulary", fault)


def _vocabulary_fault(path: Path, where: str, tensors: dict[str, Tensor]) -> str:
    try:
        content = read_small_file(path)
        vocabulary = read_vocabulary(content, where)
    except ConfigError as error:
        return str(error)
    if content != vocabulary.content:
        message = f"{where} begins with a byte order mark, which the tokenizers library does not read"
        return f"{message}; save it as plain UTF-8"
    embedding = tensors.get(TEXT_EMBEDDING)
    if embedding is None or not embedding.shape or embedding.shape[0] == vocabulary.size:
        return ""
    message = f"{where} has {vocabulary.size} tokens, the text embedding {embedding.shape[0]} rows"
    return f"{message}; put the training vocabulary there"


def folder_faults(checkpoint: Checkpoint, digests: Digests) -> Findings:
    """Compare an inference folder with its ``export.json``, where it has one or should have one.

    Args:
        checkpoint: The weights in the folder.
        digests: BLAKE3 of their storages, if ``export.json`` holds one of the weights.
    """
    folder, name = checkpoint.path.parent, checkpoint.path.name
    config, faults = _read_config(folder / CONFIG_FILE)
    yield from faults
    provenance = read_provenance(folder)
    if provenance is not None:
        yield from (Fault("provenance", message) for message in _config_differences(checkpoint, config))
    yield from provenance_findings(FolderFiles(folder), provenance, {name: Weights(checkpoint, digests)})


def _read_config(path: Path) -> tuple[dict[str, Any] | None, list[Fault]]:
    """Return the ``config.json`` of a folder, None where Coqui cannot read it, and the reason if it exists."""
    if not is_there(path):
        return None, []
    try:
        value = parse_json(read_small_file(path).decode(), path.name)  # to Coqui, a byte order mark is an error
    except (ConfigError, UnicodeDecodeError) as error:
        return None, [Fault("config", f"{path.name} cannot be read: {error}")]
    if isinstance(value, dict):
        return value, []
    return None, [Fault("config", f"{path.name}: expected a JSON object, found {type(value).__name__}")]


def companion_faults(folder: Path, allowed: re.Pattern[str]) -> Findings:
    """Check those of `COMPANIONS` that are in a folder; see `companion_fault`."""
    for name in COMPANIONS:
        if is_there(folder / name) and (message := companion_fault(folder / name, name, allowed)):
            yield Fault("companions", message)


def _config_differences(checkpoint: Checkpoint, beside: dict[str, Any] | None) -> list[str]:
    inside = checkpoint.document.get("config")
    if beside is None:
        return [f"{CONFIG_FILE} is missing or not a JSON object"]
    if not isinstance(inside, dict):
        return []
    mine, other = _as_json(beside), _as_json(inside)
    differing = sorted(key for key in {*mine, *other} if mine.get(key) != other.get(key))
    return [f"{CONFIG_FILE} and {checkpoint.path.name} differ in {', '.join(differing)}"] if differing else []


def _as_json(config: dict[str, Any]) -> dict[str, str]:
    """Return each field as JSON text, in which every key is a string and NaN equals itself."""
    plain = json.loads(json.dumps(config, default=str))  # sorting keys of several types would fail
    return {key: json.dumps(value, sort_keys=True) for key, value in plain.items()}
