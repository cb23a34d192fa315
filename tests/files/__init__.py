"""Specifications of files on a disk."""
