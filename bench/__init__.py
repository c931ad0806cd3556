"""Measurements: each prints a table, writes JSON and plots the figures."""
