"""A browser's call."""
