"""What restoring is worth in bits."""
