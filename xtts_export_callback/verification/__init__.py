"""Verify that a checkpoint, an inference folder or a run is whole and usable, and name every fault."""

from __future__ import annotations
