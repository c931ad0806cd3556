"""Measurements: each prints a table, writes JSON and plots what people would look at."""
