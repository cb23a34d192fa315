"""Compare files and weights with their description in ``export.json``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from xtts_export_callback.checkpoint.fingerprint import content_digest
from xtts_export_callback.errors import XttsExportError
from xtts_export_callback.files.digest import new_digest
from xtts_export_callback.inference_folder.ownership import is_inside
from xtts_export_callback.inference_folder.provenance import PROVENANCE_FILE, sha256_of
from xtts_export_callback.verification.faults import Fault, Findings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from xtts_export_callback.checkpoint.fingerprint import Digests
    from xtts_export_callback.checkpoint.reader import Checkpoint


class Files(Protocol):
    """The files in a folder or in a ZIP, by their names there."""

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None where there is none."""

    def sha256(self, name: str) -> str:
        """Return the SHA-256 of a file that is there, in hexadecimal."""


class FolderFiles:
    """The files in a folder and below it."""

    def __init__(self, folder: Path) -> None:
        """Look in ``folder``."""
        self._folder = folder

    def size(self, name: str) -> int | None:
        """See `Files.size`."""
        path = self._folder / name
        return path.stat().st_size if path.is_file() else None

    def sha256(self, name: str) -> str:
        """See `Files.sha256`."""
        return sha256_of(self._folder / name)


class Weights(NamedTuple):
    """Weights that were read.

    Attributes:
        checkpoint: The file, open.
        digests: BLAKE3 of its storages; empty where ``export.json`` holds none to compare with.
    """

    checkpoint: Checkpoint
    digests: Digests


def provenance_findings(
    files: Files, provenance: dict[str, Any] | None, weights: Mapping[str, Weights | None]
) -> Findings:
    """Compare what somebody has with its ``export.json``, where it has one or should have one.

    Args:
        files: The files.
        provenance: The result of `read_provenance`.
        weights: The files of weights by their names; None for one that could not be read, which is known already.
    """
    opened = {name: one.checkpoint for name, one in weights.items() if one is not None}
    inside = {name: one.document.get("export") for name, one in opened.items()}
    if provenance is None:
        if files.size(PROVENANCE_FILE) is not None:
            yield Fault("provenance", f"{PROVENANCE_FILE} cannot be understood: damaged or edited")
        elif any(isinstance(each, dict) for each in inside.values()):
            yield Fault("provenance", f"{PROVENANCE_FILE} is missing")
        return
    described = provenance.get("files")
    if not isinstance(described, dict):
        yield Fault("provenance", f"{PROVENANCE_FILE}: does not describe the files in the folder")
        return
    for name, each in described.items():
        yield from _findings_of(files, name, each, weights)
    for name in weights:
        if name not in described:
            yield f"{PROVENANCE_FILE} does not describe {name}, so that nothing proves its weights"
    stated = {key: value for key, value in provenance.items() if key != "files"}
    for name, each in inside.items():
        if isinstance(each, dict) and stated != each:
            differing = sorted(key for key in {*stated, *each} if stated.get(key) != each.get(key))
            message = f"{PROVENANCE_FILE} and {name} differ in {', '.join(differing)}: one of them was edited"
            yield Fault("provenance", message)


def _findings_of(files: Files, name: str, described: Any, weights: Mapping[str, Weights | None]) -> Findings:
    """Compare one file with its description."""
    if not isinstance(described, dict) or not is_inside(name):
        yield Fault("provenance", f"{PROVENANCE_FILE}: {name!r} is not described as a file of this folder")
        return
    size = files.size(name)
    if size is None:
        yield Fault("provenance", f"{name} is missing")
    elif described.get("bytes") != size:
        yield Fault("provenance", f"{name} has {size} bytes, {PROVENANCE_FILE} says {described.get('bytes')}")
    elif name in weights:
        one = weights[name]
        if one is not None:
            yield from _weights_findings(one, name, described)
    elif "fingerprint" in described:
        message = f"{PROVENANCE_FILE} gives the fingerprint of {name}, which is not the model of this folder"
        yield Fault("provenance", message)
    elif described.get("sha256") != files.sha256(name):
        yield Fault("provenance", f"{name} is not the file that {PROVENANCE_FILE} describes: its SHA-256 differs")


def _weights_findings(weights: Weights, name: str, described: dict[str, Any]) -> Findings:
    """Compare tensors by their BLAKE3, or else by their checksums, which the file itself may have to be read for."""
    found = content_digest(weights.checkpoint.stored, weights.digests) if "blake3" in described else None
    try:
        is_same = (
            found == described["blake3"]
            if found is not None
            else weights.checkpoint.has_fingerprint(described.get("fingerprint"))
        )
    except XttsExportError as error:
        yield Fault("provenance", str(error))
        return
    if not is_same:
        what = "fingerprint" if found is None else "BLAKE3"
        message = f"{name} does not hold the tensors that {PROVENANCE_FILE} describes: its {what} differs"
        yield Fault("provenance", message)
    elif found is None:
        yield from _digest_notes(name, described)


def _digest_notes(name: str, described: dict[str, Any]) -> Iterator[str]:
    """Say when other weights with the same checksums would not be noticed."""
    if "blake3" not in described:
        why = f"{PROVENANCE_FILE} holds no BLAKE3 of it"
    elif new_digest() is None:
        why = "the package blake3 is not installed"
    else:
        return  # a storage could not be read, which is a fault of its own
    yield f"{name} was compared with its checksums alone, which show damage but not forgery: {why}"
