"""Specifications of what is known about XTTS v2."""
