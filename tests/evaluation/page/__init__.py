"""The listening page, in Python and in a browser."""
