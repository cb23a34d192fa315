"""Specifications of the demo."""
