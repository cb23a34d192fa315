"""Whose an output is: only what this package wrote, and nobody has changed since, may be replaced or removed."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZipFile

from xtts_export_callback.checkpoint import open_checkpoint
from xtts_export_callback.errors import CheckpointError, OutputExistsError
from xtts_export_callback.files.remote import RemotePath
from xtts_export_callback.files.remote_output import check_free
from xtts_export_callback.inference_folder.provenance import PROVENANCE_FILE, read_provenance, sha256_of

_WEIGHTS = (".pth", ".safetensors")


def check_replaceable(path: Path, *, force: bool, known_as: Path | None = None) -> None:
    """Refuse to replace a folder with files that are not ours: a run, a user's folder, an export with added files."""
    shown = known_as or path
    if isinstance(path, RemotePath):
        check_free(path)
        return
    if path.name in {"", ".."}:
        msg = f"{shown}: expected the name of a folder to create; name another output"
        raise OutputExistsError(msg)
    is_there = path.is_dir() or path.is_file()
    foreign = not_ours(path) if is_there else []
    if foreign:
        msg = (
            f"{shown}: contains files that this tool did not write, or that changed since ({', '.join(foreign[:3])}); "
            "it is not replaced, name another output"
        )
        raise OutputExistsError(msg)
    if is_there and not force:
        msg = f"{shown}: exists already; name another output or replace it with --force"
        raise OutputExistsError(msg)


def not_ours(output: Path) -> list[str]:
    """List the entries of a folder or a ZIP that this package did not write, or that changed since.

    Code that removes or replaces a folder calls this first, and keeps the folder when the list is not empty.

    Args:
        output: A folder that exists, or a file.

    Returns:
        Names of foreign files, of folders and links, and of our files that changed. Empty for an inference folder
        that holds only our files, even if some are missing, and for an empty folder.
    """
    if output.is_symlink():
        return [f"{output.name}, a link"]
    files = described_files(read_provenance(output))
    if output.is_file():
        return [] if files and _is_archive_of(output, files) else [output.name]
    known = {*files, PROVENANCE_FILE} if files else set()
    folders = {parent for name in files for parent in PurePosixPath(name).parents} | {PurePosixPath()}
    foreign, ours = [], []
    for folder in sorted(folders):
        for entry in sorted((output / folder).iterdir()) if (output / folder).is_dir() else ():
            name = (folder / entry.name).as_posix()
            is_folder = PurePosixPath(name) in folders and entry.is_dir() and not entry.is_symlink()
            if name not in known and not is_folder:
                foreign.append(name)
            elif name in files:
                ours.append(name)
    if foreign:
        return foreign  # no file has to be read
    return [name for name in ours if not is_as_written(output / name, files[name])]


def described_files(provenance: dict[str, Any] | None) -> dict[str, Any]:
    """Return what an ``export.json`` says of each file, by its name; empty where it describes none."""
    described = (provenance or {}).get("files")
    return {name: each for name, each in described.items() if is_inside(name)} if isinstance(described, dict) else {}


def is_inside(name: str) -> bool:
    """Whether a name in ``export.json`` is that of a file in the folder or below it."""
    path = PurePosixPath(name)
    return "\0" not in name and not path.is_absolute() and ".." not in path.parts and path != PurePosixPath()


def _is_archive_of(archive: Path, files: dict[str, Any]) -> bool:
    """Whether a ZIP holds files of the described names and sizes, and nothing else; the weights are not read."""
    with ZipFile(archive) as opened:
        sizes = {entry.filename: entry.file_size for entry in opened.infolist() if entry.filename != PROVENANCE_FILE}
    return sizes == {name: each.get("bytes") for name, each in files.items() if isinstance(each, dict)}


def is_as_written(path: Path, described: Any) -> bool:
    """Whether a file matches its description in ``export.json``."""
    if not isinstance(described, dict) or path.is_symlink() or not path.is_file():
        return False
    if path.suffix not in _WEIGHTS or "fingerprint" not in described:
        return bool(described.get("sha256") == sha256_of(path))
    try:
        with open_checkpoint(path) as found:
            return found.has_fingerprint(described.get("fingerprint"))
    except CheckpointError:
        return False


def folder_bytes(output: Path) -> int:
    """Return the bytes of the files in a folder and those below it, or of a file."""
    entries = output.rglob("*") if output.is_dir() else [output]
    return sum(entry.stat().st_size for entry in entries if entry.is_file())
