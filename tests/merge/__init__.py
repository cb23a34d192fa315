"""Specifications of merging."""
