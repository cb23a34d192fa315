"""Verify the files beside the weights: config, vocabulary and the hashes in ``export.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint.fingerprint import content_digest
from xtts_export_callback.checkpoint.reader import MODEL_NAMES
from xtts_export_callback.errors import ConfigError, XttsExportError
from xtts_export_callback.files.digest import new_digest
from xtts_export_callback.files.json_file import parse_json, read_small_file
from xtts_export_callback.files.paths import is_there
from xtts_export_callback.inference_folder.provenance import PROVENANCE_FILE, described_file, read_provenance, sha256_of
from xtts_export_callback.verification.faults import Fault, Findings, Subject
from xtts_export_callback.xtts.assets import VOCAB_FILE, find_vocabulary
from xtts_export_callback.xtts.companions import COMPANIONS, companion_fault
from xtts_export_callback.xtts.model_config import CONFIG_FILE
from xtts_export_callback.xtts.state_dict import TEXT_EMBEDDING
from xtts_export_callback.xtts.vocab import read_vocabulary

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

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
    config, faults = _read_config(checkpoint.path.with_name(CONFIG_FILE))
    yield from faults
    provenance = read_provenance(checkpoint.path.parent)
    if provenance is not None:
        yield from _provenance_faults(checkpoint, provenance, config, digests)
        yield from digest_notes(described_file(checkpoint.path.parent, checkpoint.path.name), checkpoint.path.name)
    elif is_there(checkpoint.path.with_name(PROVENANCE_FILE)):
        yield Fault("provenance", f"{PROVENANCE_FILE} cannot be understood: damaged or edited")
    elif isinstance(checkpoint.document.get("export"), dict):
        yield Fault("provenance", f"{PROVENANCE_FILE} is missing")


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


def _provenance_faults(
    checkpoint: Checkpoint, provenance: dict[str, Any], config: dict[str, Any] | None, digests: Digests
) -> list[Fault]:
    faults = [Fault("provenance", message) for message in _config_differences(checkpoint, config)]
    files = provenance.get("files")
    if not isinstance(files, dict):
        return [*faults, Fault("provenance", f"{PROVENANCE_FILE}: does not describe the files in the folder")]
    for name, described in files.items():
        messages = _described_faults(checkpoint, str(name), described, digests)
        faults += [Fault("provenance", message) for message in messages]
    inside = checkpoint.document.get("export")
    stated = {key: value for key, value in provenance.items() if key != "files"}
    if isinstance(inside, dict) and stated != inside:
        differing = sorted(key for key in {*stated, *inside} if stated.get(key) != inside.get(key))
        message = f"{PROVENANCE_FILE} and {checkpoint.path.name} differ in {', '.join(differing)}"
        faults.append(Fault("provenance", f"{message}: one of them was edited"))
    return faults


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


def _described_faults(checkpoint: Checkpoint, name: str, described: Any, digests: Digests) -> list[str]:
    path = checkpoint.path.parent / name
    if not isinstance(described, dict) or not name or "\0" in name or Path(name).name != name or name == "..":
        return [f"{PROVENANCE_FILE}: {name!r} is not described as a file of this folder"]
    if not path.is_file():
        return [f"{name} is missing"]
    size = path.stat().st_size
    if described.get("bytes") != size:
        return [f"{name} has {size} bytes, {PROVENANCE_FILE} says {described.get('bytes')}"]
    if "fingerprint" in described:
        if name == checkpoint.path.name:
            return weights_faults(checkpoint, name, described, digests)
        return [f"{PROVENANCE_FILE} gives the fingerprint of {name}, which is not the model of this folder"]
    if described.get("sha256") != sha256_of(path):
        return [f"{name} is not the file that {PROVENANCE_FILE} describes: its SHA-256 differs"]
    return []


def weights_faults(checkpoint: Checkpoint, name: str, described: dict[str, Any], digests: Digests) -> list[str]:
    """Compare weights that were read with their description in ``export.json``.

    Args:
        checkpoint: The weights.
        name: Their file, as the description calls it.
        described: The description.
        digests: BLAKE3 of their storages.
    """
    try:
        is_same = checkpoint.has_fingerprint(described.get("fingerprint"))
    except XttsExportError as error:
        return [str(error)]
    what = f"{name} does not hold the tensors that {PROVENANCE_FILE} describes"
    if not is_same:
        return [f"{what}: its fingerprint differs"]
    found = content_digest(checkpoint.stored, digests)
    if found is None or described.get("blake3", found) == found:
        return []
    return [f"{what}: its BLAKE3 differs although all checksums match: one of the two was forged; do not use them"]


def digest_notes(described: dict[str, Any], name: str) -> Iterator[str]:
    """Say when other weights with the same checksums would not be noticed."""
    if "fingerprint" not in described or ("blake3" in described and new_digest() is not None):
        return
    why = "the package blake3 is not installed" if "blake3" in described else f"{PROVENANCE_FILE} holds no BLAKE3 of it"
    yield f"{name} was compared with its checksums alone, which show damage but not forgery: {why}"
