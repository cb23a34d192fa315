"""Specifications of comparing."""
