"""A file inside another one, as a ZIP stores it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtts_export_callback.files.random_access import ReadableFile

if TYPE_CHECKING:
    from pathlib import Path


class FilePart(ReadableFile):
    """A range of an open file that is read as a file of its own. Closing it leaves the other open."""

    def __init__(self, whole: ReadableFile, offset: int, size: int, path: Path) -> None:
        """Describe ``size`` bytes at ``offset`` of ``whole``; ``path`` names them in errors."""
        self.path = path
        self._whole = whole
        self._offset = offset
        self._size = size

    @property
    def size(self) -> int:
        """Bytes in the part."""
        return self._size

    @property
    def mode(self) -> int:
        """See `ReadableFile.mode`."""
        return self._whole.mode

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """See `ReadableFile.read_into`."""
        if offset + len(buffer) > self._size:
            msg = f"{self.path}: ends at byte {self._size}, expected {offset + len(buffer)}"
            raise EOFError(msg)
        self._whole.read_into(buffer, self._offset + offset)

    def close(self) -> None:
        """Do nothing: the other file is open for others too."""
