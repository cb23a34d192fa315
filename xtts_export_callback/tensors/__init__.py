"""Tensors that have not been read yet, and tensors computed from tensors while they are written."""
