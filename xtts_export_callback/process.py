"""What a process of our own settles before it works: the training's is left as it is."""

from __future__ import annotations

import gc
import os

_LARGE = 31 << 20  # with what malloc adds, about the most that counts
_MANY_OBJECTS = 200_000  # more than an open checkpoint needs


def prepare_process() -> None:
    """Avoid what takes an eighth of the time of a large merge. To be called before numpy loads.

    numpy brings a thread for each core along that waits for linear algebra, busily for the first tenth of a second.
    And glibc gives large pieces of memory back to the system as soon as they are free, so that the buffers of each
    tensor cost a page fault for every 4 KB again, until it has seen an even larger piece freed (mallopt(3),
    M_MMAP_THRESHOLD). And Python's collector of cycles would go over all that describes the open checkpoints every few
    thousand new objects: there are no cycles in there.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    bytes(_LARGE)  # never touched: it takes no memory
    gc.set_threshold(_MANY_OBJECTS)
