"""Compares models: names, shapes, configuration, vocabulary, and how far each part of the weights moved."""

from __future__ import annotations
