"""How small a file becomes when it is compressed."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = 1 << 20


def gzip_bytes(path: Path) -> int:
    """Return how many bytes a file takes when it is compressed with zlib at its fastest level; reads all of it."""
    compressor, size = zlib.compressobj(level=1), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(compressor.compress(block))
    return size + len(compressor.flush())
