"""The stages that are timed."""

from receiver.enhance.enhancer import STAGES as ENHANCERS

STAGES = ("decode", *ENHANCERS, "output")
"""In the order in which a frame meets them; the rest of the time is in none of them. `output` is
from the enhancer's last work in its thread to the frame's being where it is used."""


PER_FACE = ("choose", "warp")
"""Stages that are timed for each face, not for all of a frame."""


WARM_UP = 30
"""Frames before timing begins."""


PERCENTILES = ("median", "p95", "p99")
