"""The checksum is that of zip files, whichever package computes it."""

from __future__ import annotations

import subprocess
import sys
import zlib

from hypothesis import given
from hypothesis import strategies as st

from xtts_export_callback.files.crc32 import crc32


@given(first=st.binary(max_size=5000), second=st.binary(max_size=5000))
def test_the_checksum_of_parts_is_that_of_the_whole(first: bytes, second: bytes) -> None:
    assert crc32(memoryview(second), crc32(first)) == zlib.crc32(first + second)


def test_the_standard_library_stands_in_where_isal_is_not_installed() -> None:
    code = (
        "import sys; sys.modules['isal'] = None; import zlib; "
        "from xtts_export_callback.files import crc32; sys.exit(crc32.crc32 is not zlib.crc32)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
