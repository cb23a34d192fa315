"""Bytes on a disk: reads and writes at an offset, atomic files and folders, checksums, free space."""
