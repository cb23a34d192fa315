"""Threads that go over tensors side by side: numpy, checksums and file calls release the interpreter lock."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

_READERS = min(2, os.cpu_count() or 1)  # two saturate a disk, and each one costs memory


@contextmanager
def thread_pool(threads: int = _READERS, stop: threading.Event | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that have all stopped at the end of the block, early when it raises: an error in one, or Ctrl-C here.

    Args:
        threads: How many.
        stop: Set when the block raises, for work that can end halfway. What has not begun never does.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="xtts-export") as pool:
        try:
            yield pool
        except BaseException:
            if stop is not None:
                stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
