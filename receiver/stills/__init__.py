"""Stills over a data channel."""
