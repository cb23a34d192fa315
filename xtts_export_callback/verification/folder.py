"""What lies beside the weights: config, vocabulary and the hashes in ``export.json``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.architecture import model_args
from xtts_export_callback.assets import places, vocab_size
from xtts_export_callback.checkpoint.layout import TEXT_EMBEDDING
from xtts_export_callback.errors import ConfigError, XttsExportError
from xtts_export_callback.folder import PROVENANCE_FILE, read_provenance
from xtts_export_callback.verification.faults import Fault

if TYPE_CHECKING:
    from xtts_export_callback.checkpoint.read import Checkpoint
    from xtts_export_callback.checkpoint.tensor import Tensor

_VOCAB, _CONFIG = "vocab.json", "config.json"
_BLOCK = 1 << 20


def config_beside(weights: Path) -> dict[str, Any] | None:
    """The ``config.json`` beside a file of weights, None where there is none that can be read."""
    for place in places(weights):
        try:
            value = json.loads(place.with_name(_CONFIG).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        return value if isinstance(value, dict) else None
    return None


def vocabulary_check(
    checkpoint: Checkpoint, tensors: dict[str, Tensor], *, required: bool
) -> tuple[list[Fault], list[str]]:
    """Compare the size of a vocabulary with the rows of the text embedding.

    Args:
        checkpoint: The model; its vocabulary is the ``vocab.json`` beside it, or else the one its config names.
        tensors: Its tensors by bare names.
        required: Whether it is a fault when there is none beside it, as in an inference folder.

    Returns:
        Faults and notes.
    """
    beside = checkpoint.path.with_name(_VOCAB)
    named = model_args(checkpoint.document.get("config")).get("tokenizer_file")
    beside_target = [place.with_name(_VOCAB) for place in places(checkpoint.path)[1:]]
    candidates = [beside, *beside_target, *([Path(named)] if isinstance(named, str) and named else [])]
    found = next((path for path in candidates if path.is_file()), None)
    if required and found is not beside:
        return [Fault("vocabulary", f"{beside.name} is missing; copy the training vocabulary into the folder")], []
    if found is None:
        return [], ["no vocabulary was found to check the text embedding against"]
    embedding = tensors.get(TEXT_EMBEDDING)
    try:
        size = vocab_size(found.read_bytes(), found.name)
    except (ConfigError, OSError) as error:
        return [Fault("vocabulary", str(error))], []
    if embedding is None or not embedding.shape or embedding.shape[0] == size:
        return [], []
    where = found.name if found is beside else str(found)
    message = f"{where} has {size} tokens, the text embedding {embedding.shape[0]} rows"
    return [Fault("vocabulary", f"{message}; put the training vocabulary there")], []


def folder_faults(checkpoint: Checkpoint) -> tuple[list[Fault], list[str]]:
    """Compare an inference folder with what its ``export.json`` says of it.

    Returns:
        Faults and notes; a folder without ``export.json`` is not ours, and has nothing to be compared with.
    """
    folder = checkpoint.path.parent
    inside = checkpoint.document.get("export")
    provenance = read_provenance(folder)
    if provenance is None:
        if (folder / PROVENANCE_FILE).exists():
            return [Fault("provenance", f"{PROVENANCE_FILE} cannot be understood: damaged or edited")], []
        if isinstance(inside, dict):
            return [Fault("provenance", f"{PROVENANCE_FILE} is missing")], []
        return [], []
    faults = _config_faults(checkpoint)
    files = provenance.get("files")
    if not isinstance(files, dict):
        return [*faults, Fault("provenance", f"{PROVENANCE_FILE}: says nothing of the files in the folder")], []
    for name, described in files.items():
        faults += [Fault("provenance", message) for message in _described_faults(checkpoint, str(name), described)]
    stated = {key: value for key, value in provenance.items() if key != "files"}
    if isinstance(inside, dict) and stated != inside:
        differing = sorted(key for key in {*stated, *inside} if stated.get(key) != inside.get(key))
        message = f"{PROVENANCE_FILE} and {checkpoint.path.name} differ in {', '.join(differing)}"
        faults.append(Fault("provenance", f"{message}: one of them was edited"))
    return faults, []


def _config_faults(checkpoint: Checkpoint) -> list[Fault]:
    beside, inside = config_beside(checkpoint.path), checkpoint.document.get("config")
    if beside is None:
        return [Fault("provenance", f"{_CONFIG} is missing or no JSON object")]
    if isinstance(inside, dict) and json.dumps(beside, sort_keys=True) != json.dumps(inside, sort_keys=True):
        differing = sorted(key for key in {*beside, *inside} if beside.get(key) != inside.get(key))
        return [Fault("provenance", f"{_CONFIG} and {checkpoint.path.name} differ in {', '.join(differing)}")]
    return []


def _described_faults(checkpoint: Checkpoint, name: str, described: Any) -> list[str]:
    path = checkpoint.path.with_name(name)
    if not isinstance(described, dict) or path.parent != checkpoint.path.parent:
        return [f"{PROVENANCE_FILE}: {name!r} is not described as a file of this folder"]
    if not path.is_file():
        return [f"{name} is missing"]
    size = path.stat().st_size
    if described.get("bytes") != size:
        return [f"{name} has {size} bytes, {PROVENANCE_FILE} says {described.get('bytes')}"]
    if "fingerprint" in described:
        return _fingerprint_faults(checkpoint, name, described["fingerprint"])
    if described.get("sha256") != _sha256(path):
        return [f"{name} is not the file that {PROVENANCE_FILE} describes: its SHA-256 differs"]
    return []


def _fingerprint_faults(checkpoint: Checkpoint, name: str, expected: Any) -> list[str]:
    if name != checkpoint.path.name:
        return [f"{PROVENANCE_FILE} gives the fingerprint of {name}, which is not the model here"]
    try:
        is_same = checkpoint.has_fingerprint(expected)
    except XttsExportError as error:
        return [str(error)]
    if is_same:
        return []
    return [f"{name} does not hold the tensors that {PROVENANCE_FILE} describes: its fingerprint differs"]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
