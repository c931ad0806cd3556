"""One training run: its configuration, the trainer, its losses and the processes that share it."""
