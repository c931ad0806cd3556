"""Mutated inputs for everything that accepts input from outside."""
