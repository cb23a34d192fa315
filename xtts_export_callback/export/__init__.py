"""From a checkpoint to an inference folder."""
