"""Bytes on a disk: reading and writing at an offset, whole files and folders or none, checksums, free room."""
