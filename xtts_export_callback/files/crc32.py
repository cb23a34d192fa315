"""CRC-32, the checksum of zip records: it takes half the processor time of an average, so a faster one pays.

The package ``isal`` (Intel's ISA-L) computes the same numbers with instructions that most builds of zlib do not use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zlib import crc32
else:
    try:
        from isal.isal_zlib import crc32
    except ImportError:
        from zlib import crc32

__all__ = ["crc32"]
