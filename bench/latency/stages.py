"""The stages that are timed."""

from receiver.enhance.faces.stage import TIMED

STAGES = ("decode", *TIMED, "output")
"""In a frame's order; some time belongs to none of them. `output` lasts from the end of the
enhancer's work in its thread until the frame is where it is used."""
PER_FACE = ("choose", "warp")
"""Stages that are timed once for each face, not once for all of a frame."""
PERCENTILES = ("median", "p95", "p99")
"""Keys of every stage's figures."""
