"""What references are worth in a call."""
