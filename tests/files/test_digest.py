"""The hash is BLAKE3, where its package is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from xtts_export_callback.files.digest import new_digest

# The first and the third of the reference's test vectors: of no byte, and of the bytes 0 and 1.
VECTORS = {
    b"": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    b"\0\1": "7b7015bb92cf0b318037702a6cdd81dee41224f734684c2c122cd6359cb1ee63",
}


@pytest.mark.parametrize("content", VECTORS)
def test_the_hash_is_that_of_the_reference(content: bytes) -> None:
    digest = new_digest()
    assert digest is not None
    for byte in content:
        digest.update(memoryview(bytes([byte])))
    assert digest.digest().hex() == VECTORS[content]


def test_without_the_package_there_is_none() -> None:
    code = (
        "import sys; sys.modules['blake3'] = None; "
        "from xtts_export_callback.files.digest import new_digest; sys.exit(new_digest() is not None)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
