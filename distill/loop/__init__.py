"""The training loop: updates, averages, checkpoints, alarms, limits of the host."""
