"""A run folder of the Trainer: its checkpoints and exports, which of them to remove, which one a resume uses."""
