"""Provenance: the record of where weights come from, in ``export.json`` and in a model's own header."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import platform
from datetime import datetime, timezone
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from xtts_export_callback.errors import ConfigError
from xtts_export_callback.files.json_file import MOST_BYTES, parse_json, read_json_object

if TYPE_CHECKING:
    from xtts_export_callback.checkpoint.reader import Checkpoint
    from xtts_export_callback.xtts.state_dict import InferenceModel

PROVENANCE_FILE = "export.json"
FORMATS = {"pth": "model.pth", "safetensors": "model.safetensors"}
_PROVENANCE_VERSION = 1
_LOSSES = ("train_loss", "eval_loss", "computed")
_LARGEST = 1 << 63
_BLOCK = 1 << 20
_VERSIONS_OF = ("xtts-export-callback", "torch", "coqui-tts", "coqui-tts-trainer", "numpy")


def read_provenance(output: Path) -> dict[str, Any] | None:
    """Return the provenance of an inference folder or a ZIP of ours; None for anything else."""
    try:
        value = _read_archived(output) if output.is_file() else read_json_object(output / PROVENANCE_FILE)
    except (ConfigError, OSError):
        return None
    return value if "sources" in value and "kind" in value else None


def described_file(folder: Path, name: str) -> dict[str, Any]:
    """Return what ``export.json`` says of a file in its folder; empty where it says nothing."""
    files = (read_provenance(folder) or {}).get("files")
    described = files.get(name) if isinstance(files, dict) else None
    return described if isinstance(described, dict) else {}


def _read_archived(archive: Path) -> dict[str, Any]:
    """Return the ``export.json`` in a ZIP, in whatever folder there, empty where there is none."""
    from zipfile import ZipFile

    try:
        with ZipFile(archive) as opened:
            found = [entry for entry in opened.infolist() if PurePosixPath(entry.filename).name == PROVENANCE_FILE]
            content = opened.read(found[0]) if found and found[0].file_size <= MOST_BYTES else b"{}"
    except zip_errors():
        return {}
    value = parse_json(content, f"{PROVENANCE_FILE} in {archive}")
    return value if isinstance(value, dict) else {}


def zip_errors() -> tuple[type[Exception], ...]:
    """Return what Python's ``zipfile`` raises for a damaged, an encrypted or an unknown kind of archive."""
    import zlib
    from zipfile import BadZipFile

    errors = (BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError, zlib.error)
    try:
        from lzma import LZMAError
    except ImportError:
        return errors
    return *errors, LZMAError


def training_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return ``step``, ``epoch`` and ``model_loss`` of a checkpoint, each None where it is missing.

    ``model_loss`` is ``{"train_loss": ..., "eval_loss": ...}``; plain ``save_model`` calls leave it out.
    """
    state = {key: _plain(checkpoint.document.get(key)) for key in ("step", "epoch", "model_loss")}
    if isinstance(checkpoint.document.get("model_loss"), dict):
        losses = checkpoint.document["model_loss"]
        state["model_loss"] = {key: _plain(losses[key]) for key in _LOSSES if key in losses}
    return state


def describe_source(checkpoint: Checkpoint, **more: Any) -> dict[str, Any]:
    """Describe a source by its content, never by a path of this machine."""
    name = checkpoint.path.parent.name if checkpoint.path.name in FORMATS.values() else checkpoint.path.name
    name = "".join(filter(str.isprintable, name))
    return {"name": name, "fingerprint": checkpoint.fingerprint(), **training_state(checkpoint), **more}


def provenance_of(
    kind: str, sources: list[dict[str, Any]], *, dtype: str, models: list[InferenceModel], rules: Any = None
) -> dict[str, Any]:
    """Return the record of where the weights of a folder come from.

    Args:
        kind: ``"export"``, ``"average"`` or ``"merge"``.
        sources: One `describe_source` for each input.
        dtype: The requested type.
        models: The inference models, for dropped components and stripped prefixes.
        rules: How several sources were combined.

    Returns:
        Plain values. ``created`` honours ``SOURCE_DATE_EPOCH`` (reproducible-builds.org).
    """
    dropped: dict[str, dict[str, int]] = {}
    for model in models:
        for component, (count, nbytes) in model.dropped.items():
            dropped[component] = {"tensors": count, "bytes": nbytes}
    return {
        "version": _PROVENANCE_VERSION,
        "kind": kind,
        "created": created_now(),
        "sources": sources,
        "dtype": dtype,
        "dropped": dropped,
        "stripped_prefix": sorted({model.prefix for model in models}),
        "rules": rules,
        "versions": {"python": platform.python_version(), **versions_here()},
    }


def created_now() -> str:
    """Return the current time, or the one in ``SOURCE_DATE_EPOCH``.

    Raises:
        ConfigError: When ``SOURCE_DATE_EPOCH`` does not hold a time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        now = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch else datetime.now(timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        msg = f"SOURCE_DATE_EPOCH: expected seconds from 1970 to the year 9999, found {epoch!r}; correct or unset it"
        raise ConfigError(msg) from error
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(value: Any) -> Any:
    """Return a JSON number, None for anything else: a loss may be NaN or infinite, and a text may say anything."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int) and abs(value) < _LARGEST else None


def versions_here() -> dict[str, str]:
    """Return the versions of this package and of those that decide the result, where they are installed."""
    found = {name: _version(name) for name in _VERSIONS_OF}
    return {name: version for name, version in found.items() if version}


@cache  # the helper of a training writes many exports
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return sha256_in(file)


def sha256_in(file: IO[bytes]) -> str:
    """Return the SHA-256 of the bytes of an open file, in hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
