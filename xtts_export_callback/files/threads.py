"""Threads that process tensors in parallel: numpy, checksums and file calls release the interpreter lock."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

_READERS = min(2, os.cpu_count() or 1)  # two saturate a disk, and each one takes memory


@contextmanager
def thread_pool(threads: int = _READERS, stop: threading.Event | None = None) -> Iterator[ThreadPoolExecutor]:
    """Open a pool whose threads have all stopped when the block ends, also when it ends by an error or Ctrl-C.

    Args:
        threads: How many.
        stop: Set when the block raises, for tasks that can stop halfway. Tasks that have not begun are cancelled.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="xtts-export") as pool:
        try:
            yield pool
        except BaseException:
            if stop is not None:
                stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
