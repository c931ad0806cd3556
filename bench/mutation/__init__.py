"""Measures whether the tests notice mutations of the code that they test."""
