"""Verify what a ZIP for a program holds, without unpacking it."""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from xtts_export_callback.checkpoint.reader import open_file
from xtts_export_callback.checkpoint.zip_reader import data_offset
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.files.part import FilePart
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.inference_folder.provenance import PROVENANCE_FILE, read_provenance, sha256_in
from xtts_export_callback.verification.contents import content_faults
from xtts_export_callback.verification.faults import Fault
from xtts_export_callback.verification.folder import weights_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UNREADABLE = (BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, zlib.error)
"""What Python's ``zipfile`` raises for a damaged, an encrypted or an unknown kind of archive."""


def archived_sizes(archive: Path) -> dict[str, int]:
    """Return the sizes of the files in a ZIP by their base names, and check their checksums.

    Raises:
        UNREADABLE: When the archive, or one of the checksums, is wrong.
    """
    with ZipFile(archive) as opened:
        damaged = opened.testzip()
        if damaged is not None:
            message = f"{damaged}: wrong checksum"
            raise BadZipFile(message)
        entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    return {os.path.basename(entry.filename): entry.file_size for entry in entries}  # noqa: PTH119 - a name in a ZIP


def archive_faults(archive: Path, progress: Callable[[int], None] | None) -> Iterator[Fault]:
    """Compare the files in a ZIP with its ``export.json``, and look for NaN and infinity in the weights.

    Args:
        archive: A ZIP whose checksums are right.
        progress: Called with the number of bytes of weights read since the last call, from any thread.
    """
    files = (read_provenance(archive) or {}).get("files")
    with ZipFile(archive) as opened, RandomFile(archive) as whole:
        entries = {entry.filename: entry for entry in opened.infolist()}
        for name, described in files.items() if isinstance(files, dict) else ():
            entry = entries.get(name)
            if entry is None or not isinstance(described, dict) or described.get("bytes") != entry.file_size:
                yield Fault("provenance", f"{name} is missing or has another size than {PROVENANCE_FILE} says")
            elif "fingerprint" in described and entry.compress_type == ZIP_STORED:
                yield from _faults_of_weights(archive, whole, entry, described, progress)
            elif "sha256" in described:
                with opened.open(entry) as file:
                    if sha256_in(file) != described["sha256"]:
                        message = f"{name} is not the file that {PROVENANCE_FILE} describes: its SHA-256 differs"
                        yield Fault("provenance", message)


def _faults_of_weights(
    archive: Path,
    whole: RandomFile,
    entry: ZipInfo,
    described: dict[str, Any],
    progress: Callable[[int], None] | None,
) -> Iterator[Fault]:
    name, digests = entry.filename, dict[int, bytes]()
    try:
        start = data_offset(whole, name, entry.header_offset, entry.file_size)
        with open_file(FilePart(whole, start, entry.file_size, archive / name)) as weights:
            yield from content_faults(weights, progress, digests)
            yield from (Fault("provenance", each) for each in weights_faults(weights, name, described, digests))
    except CheckpointError as error:
        yield Fault("file", str(error))
