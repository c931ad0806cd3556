"""Calls that come in and go out enhanced: rooms, server, join."""
