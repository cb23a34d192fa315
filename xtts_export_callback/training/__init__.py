"""Exports while the Trainer trains: the callback, its options, and the helper process that writes the exports."""
