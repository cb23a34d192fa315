"""How models differ: in names, shapes, configuration and vocabulary, and how far each part of the weights moved."""

from __future__ import annotations
