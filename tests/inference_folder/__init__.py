"""Specifications of inference folders."""
