"""Publishes a camera or a clip."""
