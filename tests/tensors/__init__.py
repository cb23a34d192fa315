"""Specifications of tensors."""
