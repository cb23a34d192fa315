"""Models, checkpoints and trainings that tests share."""
