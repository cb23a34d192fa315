"""The inference folder: what is written, where it comes from, and loading it."""
