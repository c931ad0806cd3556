"""One training run: its configuration, the trainer, the losses and the processes that share it."""
