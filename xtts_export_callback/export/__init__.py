"""Export a checkpoint to an inference folder."""
