"""Specifications of exports during training."""
