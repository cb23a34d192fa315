"""The inference folder: what the callback and every command that makes a model write, published whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.assets import COMPANIONS
from xtts_export_callback.checkpoint import open_checkpoint, write_pth, write_safetensors
from xtts_export_callback.checkpoint.files import RandomFile
from xtts_export_callback.checkpoint.layout import DROPPED
from xtts_export_callback.checkpoint.publish import whole_directory
from xtts_export_callback.errors import ConfigError, OutputExistsError, VerificationError
from xtts_export_callback.loadable import check_loadable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xtts_export_callback.assets import Assets
    from xtts_export_callback.checkpoint.layout import InferenceModel
    from xtts_export_callback.checkpoint.read import Checkpoint
    from xtts_export_callback.checkpoint.tensor import Tensor
    from xtts_export_callback.checkpoint.write import Progress

PROVENANCE_FILE = "export.json"
FORMATS = {"pth": "model.pth", "safetensors": "model.safetensors"}
_OUR_FILES = {*FORMATS.values(), *COMPANIONS, PROVENANCE_FILE, "config.json", "vocab.json", "dvae.pth"}
_PROVENANCE_VERSION = 1
_VERSIONS_OF = ("xtts-export-callback", "torch", "coqui-tts", "coqui-tts-trainer", "numpy")


@dataclass(frozen=True)
class WrittenFolder:
    """An inference folder that was written or was there already.

    Attributes:
        path: The folder.
        nbytes: Bytes of all its files.
        written: False when an identical export was there already and nothing was done.
        provenance: The content of its ``export.json``.
    """

    path: Path
    nbytes: int
    written: bool
    provenance: dict[str, Any]

    @property
    def leftovers(self) -> str:
        """What of a training was dropped beside what every checkpoint of one holds, in words; empty for nothing."""
        found = self.provenance.get("dropped")
        parts = found.items() if isinstance(found, dict) else ()
        return ", ".join(f"{name} ({part['tensors']} tensors)" for name, part in parts if name not in DROPPED)


def write_inference_folder(  # noqa: PLR0913 - one place knows everything that goes into a folder
    path: Path,
    tensors: dict[str, Tensor],
    *,
    origin: str,
    assets: Assets,
    header: dict[str, Any],
    provenance: dict[str, Any],
    format: str = "pth",  # noqa: A002 - what users call it
    extra: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenFolder:
    """Write a folder that ``Xtts.load_checkpoint`` and ``TTS(model_path=...)`` take.

    Args:
        path: The folder to create.
        tensors: The inference model.
        origin: The file that it comes from, for errors.
        assets: What goes beside it.
        header: ``step``, ``epoch`` and ``model_loss`` as `training_state` gives them.
        provenance: What `provenance_of` gave.
        format: ``"pth"`` or ``"safetensors"``.
        extra: Further ``.pth`` files: by name, what `write_pth` shall put into them.
        force: Replace an inference folder of ours, which stays whole until the new one is; never anything else.
        progress: Called with the number of bytes of weights written since the last call.

    Returns:
        The folder.

    Raises:
        ConfigError: For an unknown format.
        CheckpointError: When ``Xtts.load_checkpoint`` would not load the tensors with the config.
        CheckpointError, OutputExistsError, VerificationError, OSError: As `write_pth`; nothing is left behind.
    """
    if format not in FORMATS:
        msg = f"format {format!r}: expected one of {', '.join(FORMATS)}"
        raise ConfigError(msg)
    check_loadable(tensors, assets.config, origin)
    _check_replaceable(path, force=force)
    with whole_directory(path, force=force) as temporary:
        weights = temporary / FORMATS[format]
        document = {"config": assets.config, **header, "export": provenance}
        if format == "pth":
            write_pth(weights, {"model": tensors, **document}, progress=progress)
        else:
            write_safetensors(weights, tensors, document, progress=progress)
        _write(temporary / "config.json", json.dumps(assets.config, indent=4).encode())
        _write(temporary / "vocab.json", assets.vocab_bytes)
        for name, source in assets.companions.items():
            _write(temporary / name, source.read_bytes())
        for name, content in (extra or {}).items():
            write_pth(temporary / name, content)
        complete = {**provenance, "files": _describe_files(temporary, weights, tensors)}
        _write(temporary / PROVENANCE_FILE, json.dumps(complete, indent=2).encode())
        nbytes = folder_bytes(temporary)
    return WrittenFolder(path, nbytes, written=True, provenance=complete)


def _check_replaceable(path: Path, *, force: bool) -> None:
    """Refuse to replace what is not wholly ours: a run, somebody's folder, an export that has got other files."""
    if path.name in {"", ".."}:
        msg = f"{path}: expected the name of a folder to create; name another output"
        raise OutputExistsError(msg)
    if not force or not path.is_dir():
        return
    there = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in there if name not in _OUR_FILES]
    if foreign or (there and read_provenance(path) is None):
        shown = ", ".join((foreign or there)[:3])
        msg = f"{path}: not an inference folder and nothing else (it holds {shown}); name another output"
        raise OutputExistsError(msg)


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """The provenance of an inference folder of ours, or None where the folder is not one."""
    try:
        value = json.loads((folder / PROVENANCE_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and "sources" in value and "kind" in value else None


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(entry.stat().st_size for entry in folder.iterdir() if entry.is_file())


def training_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """``step``, ``epoch`` and ``model_loss`` of a checkpoint, None where it does not say.

    ``model_loss`` is ``{"train_loss": ..., "eval_loss": ...}``; plain ``save_model`` calls leave it out.
    """
    return {key: _plain(checkpoint.document.get(key)) for key in ("step", "epoch", "model_loss")}


def describe_source(checkpoint: Checkpoint, **more: Any) -> dict[str, Any]:
    """How provenance names a source: by content, never by a path of this machine."""
    name = checkpoint.path.parent.name if checkpoint.path.name in FORMATS.values() else checkpoint.path.name
    return {"name": name, "fingerprint": checkpoint.fingerprint(), **training_state(checkpoint), **more}


def provenance_of(
    kind: str, sources: list[dict[str, Any]], *, dtype: str, models: list[InferenceModel], rules: Any = None
) -> dict[str, Any]:
    """What a folder says about where its weights come from.

    Args:
        kind: ``"export"``, ``"average"`` or ``"merge"``.
        sources: One `describe_source` for each input.
        dtype: The type that was asked for.
        models: The selections, for what was dropped and which prefix was stripped.
        rules: How several were combined.

    Returns:
        Plain values. ``created`` honours ``SOURCE_DATE_EPOCH`` (reproducible-builds.org).
    """
    dropped: dict[str, dict[str, int]] = {}
    for model in models:
        for component, (count, nbytes) in model.dropped.items():
            dropped[component] = {"tensors": count, "bytes": nbytes}
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch.isdigit() else datetime.now(timezone.utc)
    return {
        "version": _PROVENANCE_VERSION,
        "kind": kind,
        "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sources": sources,
        "dtype": dtype,
        "dropped": dropped,
        "stripped_prefix": sorted({model.prefix for model in models}),
        "rules": rules,
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity, and a loss can be either."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (int, float, str)):
        return value if not isinstance(value, float) or math.isfinite(value) else None
    return None


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS_OF:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _describe_files(folder: Path, weights: Path, tensors: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Sizes and content hashes; opening the weights again also proves that they can be opened."""
    files: dict[str, dict[str, Any]] = {}
    with open_checkpoint(weights) as written:
        expected = {name: (tensor.dtype.name, tensor.shape) for name, tensor in tensors.items()}
        found = {name: (tensor.dtype.name, tensor.shape) for name, tensor in written.tensors.items()}
        if found != expected:
            msg = f"{weights}: read back with other tensors than were written; check the disk"
            raise VerificationError(msg)
        files[weights.name] = {"bytes": written.nbytes, "fingerprint": written.fingerprint()}
    for entry in sorted(folder.iterdir()):
        if entry != weights:
            content = entry.read_bytes()
            files[entry.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return files


def _write(path: Path, content: bytes) -> None:
    with RandomFile(path, create=True) as out:
        out.write_at(content, 0)
        out.sync()
    if path.read_bytes() != content:
        msg = f"{path}: read back other bytes than were written; check the disk"
        raise VerificationError(msg)
