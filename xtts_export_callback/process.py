"""Settings that speed up our own processes; a training process keeps its own."""

from __future__ import annotations

import atexit
import gc
import os

_LARGE = 31 << 20  # with malloc's overhead, about the largest size that raises the threshold
_MANY_OBJECTS = 200_000  # more than an open checkpoint needs


def prepare_process() -> None:
    """Save an eighth of the time of a large merge. Call this before numpy loads.

    numpy starts a thread per core for linear algebra, and each one spins for its first tenth of a second. glibc returns
    large blocks to the system as soon as they are free, so that the buffers of each tensor cause a page fault for every
    4 KB again, until it has seen an even larger block freed (mallopt(3), M_MMAP_THRESHOLD). Python's cycle collector
    would scan all descriptions of the open checkpoints every few thousand new objects, although they have no cycles,
    and once more as the process ends.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    bytes(_LARGE)  # never touched, so it takes no memory
    gc.set_threshold(_MANY_OBJECTS)
    atexit.register(gc.freeze)
