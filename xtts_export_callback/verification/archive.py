"""Verify what a ZIP for a program holds, without unpacking it."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from xtts_export_callback.checkpoint.reader import open_file
from xtts_export_callback.checkpoint.zip_reader import data_offset
from xtts_export_callback.errors import CheckpointError
from xtts_export_callback.files.part import FilePart
from xtts_export_callback.files.random_access import RandomFile
from xtts_export_callback.inference_folder.provenance import read_provenance, sha256_in
from xtts_export_callback.verification.contents import content_faults
from xtts_export_callback.verification.faults import Fault, Findings
from xtts_export_callback.verification.provenance import Weights, provenance_findings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xtts_export_callback.inference_folder.layouts import Layout

_WEIGHTS = (".pth", ".safetensors")


def archived_sizes(archive: Path) -> dict[str, int]:
    """Return the sizes of the files in a ZIP by their base names, as programs look for them, and check the checksums.

    Raises:
        BadZipFile: When one of the checksums is wrong.
        Exception: One of `zip_errors`, when the archive cannot be read.
    """
    with ZipFile(archive) as opened:
        damaged = opened.testzip()
        if damaged is not None:
            message = f"{damaged}: wrong checksum"
            raise BadZipFile(message)
        return {_base(entry): entry.file_size for entry in opened.infolist() if not entry.is_dir()}


def archive_findings(archive: Path, layout: Layout, progress: Callable[[int], None] | None) -> Findings:
    """Read the weights in a ZIP, and compare its files with its ``export.json``.

    Args:
        archive: A ZIP whose checksums are right, and which holds the files of the layout.
        layout: What the program takes.
        progress: Called with the number of bytes of weights read since the last call, from any thread.
    """
    with ExitStack() as stack:
        opened, whole = stack.enter_context(ZipFile(archive)), stack.enter_context(RandomFile(archive))
        entries = [entry for entry in opened.infolist() if not entry.is_dir()]
        for name, count in Counter(map(_base, entries)).items():
            if count > 1 and name in layout.files:
                yield Fault("layout", f"holds {count} files called {name}, and {layout.program} takes any of them")
        weights: dict[str, Weights | None] = {}
        for entry in entries:
            name = _base(entry)
            if name not in layout.files or not name.endswith(_WEIGHTS):
                continue
            weights[name] = None
            if entry.compress_type != ZIP_STORED:
                yield f"{name} is compressed, so that its weights were not read; unpack the ZIP to verify them"
                continue
            try:
                start = data_offset(whole, name, entry.header_offset, entry.file_size)
                part = FilePart(whole, start, entry.file_size, archive / name)
                checkpoint = stack.enter_context(open_file(part))
            except CheckpointError as error:
                yield Fault("file", str(error))
                continue
            one = weights[name] = Weights(checkpoint, {})
            yield from content_faults(checkpoint, progress, one.digests)
        yield from provenance_findings(_ArchiveFiles(opened, entries), read_provenance(archive), weights)


class _ArchiveFiles:
    """The files in a ZIP; see `provenance.Files`."""

    def __init__(self, opened: ZipFile, entries: list[ZipInfo]) -> None:
        self._opened = opened
        self._entries = {_base(entry): entry for entry in entries}

    def size(self, name: str) -> int | None:
        return self._entries[name].file_size if name in self._entries else None

    def sha256(self, name: str) -> str:
        with self._opened.open(self._entries[name]) as file:
            return sha256_in(file)


def _base(entry: ZipInfo) -> str:
    return PurePosixPath(entry.filename).name
