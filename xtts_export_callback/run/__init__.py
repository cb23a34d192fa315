"""What lies in a run folder of the Trainer: checkpoints and exports, which of them go, which one resumes."""
