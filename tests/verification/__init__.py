"""Specifications of verifying."""
