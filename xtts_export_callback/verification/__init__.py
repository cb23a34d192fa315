"""Whether a checkpoint, an inference folder or a run is whole and usable, with every fault named."""

from __future__ import annotations
