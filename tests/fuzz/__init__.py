"""Searches for inputs that nobody thought of. Run by hand; what they find becomes a test."""
