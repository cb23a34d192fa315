"""What XTTS v2 is: its tensors, components, architecture, config, vocabulary and voices."""
