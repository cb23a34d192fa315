"""The inference folder: writing it, its provenance, and loading it."""
