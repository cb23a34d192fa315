"""Specifications of reading and writing checkpoints."""
