"""Write an inference folder, whole or not at all: the callback and every command that makes a model do it here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_export_callback.checkpoint import open_checkpoint, write_pth, write_safetensors
from xtts_export_callback.checkpoint.quantized import (
    CONFIG,
    QUANTIZED_MODEL,
    is_scale,
    quantization_config,
    scale_name,
)
from xtts_export_callback.errors import CheckpointError, ConfigError, OutputExistsError, VerificationError
from xtts_export_callback.files.atomic import whole_directory
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.inference_folder.provenance import FORMATS, PROVENANCE_FILE, read_provenance, sha256_of
from xtts_export_callback.xtts.companions import write_companion
from xtts_export_callback.xtts.loadable import check_loadable
from xtts_export_callback.xtts.state_dict import DROPPED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xtts_export_callback.checkpoint.writer import Progress
    from xtts_export_callback.tensors.tensor import Tensor
    from xtts_export_callback.xtts.assets import Assets


@dataclass(frozen=True)
class WrittenFolder:
    """An inference folder that was written or existed already.

    Attributes:
        path: The folder.
        nbytes: Bytes of all its files.
        written: False when an identical export existed already and nothing was done.
        provenance: The content of its ``export.json``.
        notes: What was left out, and why, in a line each.
    """

    path: Path
    nbytes: int
    written: bool
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "path": str(self.path),
            "bytes": self.nbytes,
            "written": self.written,
            "notes": list(self.notes),
            "provenance": self.provenance,
        }


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
    mode: int = 0o666,
    progress: Progress | None = None,
) -> WrittenFolder:
    """Write a folder that ``Xtts.load_checkpoint`` and ``TTS(model_path=...)`` load.

    Args:
        path: The folder to create.
        tensors: The inference model, as it is stored: see `export.precision.store`.
        origin: Its source file, for errors.
        assets: The files beside it.
        header: ``step``, ``epoch`` and ``model_loss`` from `training_state`.
        provenance: The result of `provenance_of`.
        format: ``"pth"`` or ``"safetensors"``.
        extra: Contents of further ``.pth`` files by name; skipped where an asset has the name.
        force: Replace an inference folder of ours, and nothing else. The old folder stays until the new one is whole.
        mode: Permissions of the files, narrowed by the umask. They come from the source, so that the export of a
            private file is private too. Users who may read the files may enter the folder.
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
    weights_by_name = {name: tensor for name, tensor in tensors.items() if not is_scale(name, tensors)}
    check_loadable(weights_by_name, assets.config, origin)
    _check_replaceable(path, force=force)
    folder_mode = 0o700 | mode | (mode & 0o444) >> 2

    def check(there: Path) -> None:
        _check_replaceable(there, force=force, known_as=path)

    with whole_directory(path, force=force, check=check, mode=folder_mode) as temporary:
        weights = temporary / FORMATS[format]
        document = {"config": assets.config, **header, "export": provenance}
        quantized = [name for name in tensors if scale_name(name) in tensors]
        if quantized:
            document[CONFIG] = quantization_config(quantized)
        key = QUANTIZED_MODEL if quantized else "model"
        if format == "pth":
            write_pth(weights, {key: tensors, **document}, mode=mode, progress=progress)
        else:
            prefix = f"{key}." if quantized else ""
            named = {prefix + name: tensor for name, tensor in tensors.items()}
            write_safetensors(weights, named, document, mode=mode, progress=progress)
        _write(temporary / "config.json", json.dumps(assets.config, indent=4).encode(), mode)
        _write(temporary / "vocab.json", assets.vocab, mode)
        companions = assets.companions.items()
        notes = [*assets.notes, *_leftovers(provenance)]
        notes += [note for name, found in companions for note in write_companion(temporary / name, found, mode=mode)]
        for name, content in (extra or {}).items():
            if not (temporary / name).exists():
                write_pth(temporary / name, content, mode=mode)
        complete = {**provenance, "files": _describe_files(temporary, weights, tensors)}
        _write(temporary / PROVENANCE_FILE, json.dumps(complete, indent=2).encode(), mode)
        nbytes = folder_bytes(temporary)
    return WrittenFolder(path, nbytes, written=True, provenance=complete, notes=tuple(notes))


def _leftovers(provenance: dict[str, Any]) -> list[str]:
    """Return a line on dropped tensors that are not in every checkpoint of a training."""
    parts = provenance["dropped"].items()
    found = [f"{name} ({part['tensors']} tensors)" for name, part in parts if name not in DROPPED]
    return [f"dropped leftovers of a training: {', '.join(found)}"] if found else []


def _check_replaceable(path: Path, *, force: bool, known_as: Path | None = None) -> None:
    """Refuse to replace a folder with files that are not ours: a run, a user's folder, an export with added files."""
    shown = known_as or path
    if path.name in {"", ".."}:
        msg = f"{shown}: expected the name of a folder to create; name another output"
        raise OutputExistsError(msg)
    foreign = not_ours(path) if path.is_dir() else []
    if foreign:
        msg = (
            f"{shown}: contains files that this tool did not write, or that changed since ({', '.join(foreign[:3])}); "
            "it is not replaced, name another output"
        )
        raise OutputExistsError(msg)
    if path.is_dir() and not force:
        msg = f"{shown}: exists already; name another output or replace it with --force"
        raise OutputExistsError(msg)


def not_ours(folder: Path) -> list[str]:
    """List the entries of a folder that this package did not write, or that changed since.

    Code that removes or replaces a folder calls this first, and keeps the folder when the list is not empty.

    Args:
        folder: A folder that exists.

    Returns:
        Names of foreign files, of folders and links, and of our files that changed. Empty for an inference folder
        that holds only our files, even if some are missing, and for an empty folder.
    """
    if folder.is_symlink():
        return [f"{folder.name}, a link"]
    described = (read_provenance(folder) or {}).get("files")
    files = described if isinstance(described, dict) else {}
    known = {*files, PROVENANCE_FILE} if files else set()
    names = sorted(entry.name for entry in folder.iterdir())
    foreign = [name for name in names if name not in known]
    if foreign:
        return foreign  # no file has to be read
    return [name for name in names if name in files and not _is_as_written(folder / name, files[name])]


def _is_as_written(path: Path, described: Any) -> bool:
    """Whether a file matches its description in ``export.json``."""
    if not isinstance(described, dict) or path.is_symlink() or not path.is_file():
        return False
    if path.name not in FORMATS.values():
        return bool(described.get("sha256") == sha256_of(path))
    try:
        with open_checkpoint(path) as found:
            return found.has_fingerprint(described.get("fingerprint"))
    except CheckpointError:
        return False


def folder_bytes(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(entry.stat().st_size for entry in folder.iterdir() if entry.is_file())


def _describe_files(folder: Path, weights: Path, tensors: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Return sizes and content hashes; opening the weights also proves that they can be opened."""
    files: dict[str, dict[str, Any]] = {}
    with open_checkpoint(weights) as written:
        expected = {name: (tensor.dtype.name, tensor.shape) for name, tensor in tensors.items()}
        found = {name: (tensor.dtype.name, tensor.shape) for name, tensor in written.stored.items()}
        if found != expected:
            msg = f"{weights}: the tensors read back differ from those written; check the disk"
            raise VerificationError(msg)
        files[weights.name] = {"bytes": written.nbytes, "fingerprint": written.fingerprint()}
    for entry in sorted(folder.iterdir()):
        if entry != weights:
            files[entry.name] = {"bytes": entry.stat().st_size, "sha256": sha256_of(entry)}
    return files


def _write(path: Path, content: bytes, mode: int) -> None:
    with RandomFile(path, create=True, mode=mode) as out:
        out.write_at(content, 0)
        out.sync()
    if path.read_bytes() != content:
        msg = f"{path}: the bytes read back differ from those written; check the disk"
        raise VerificationError(msg)
