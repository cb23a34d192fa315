"""BLAKE3, a hash that nobody can forge and that keeps up with a disk.

The package ``blake3`` is the reference implementation (https://github.com/BLAKE3-team/BLAKE3-specs). SHA-256 takes
several times the processor time: `tests/benchmarks/bench_digest.py` measures both.
"""

from __future__ import annotations

from typing import Protocol


class Digest(Protocol):
    """A hash of bytes that come one after the other."""

    def update(self, data: memoryview, /) -> object:
        """Take the next bytes."""

    def digest(self) -> bytes:
        """Return the hash of all bytes so far, 32 of them."""


def new_digest() -> Digest | None:
    """Return a BLAKE3 of nothing so far; None where the package has no wheel and is not installed."""
    try:
        from blake3 import blake3
    except ImportError:
        return None
    return blake3()
