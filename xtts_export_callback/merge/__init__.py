"""Merges several models into one: recipes with rules, methods, vocabularies, and the engine that writes the result."""

from __future__ import annotations

from xtts_export_callback.merge.merge import merge_checkpoints

__all__ = ["merge_checkpoints"]
