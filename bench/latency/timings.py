"""Timings of an enhancer and of its stages."""

import time
from math import isnan
from typing import Any

from bench.latency.stages import PERCENTILES
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.stage import EnhancedFrame
from receiver.stats import Stats


class TimedEnhancer(Enhancer):
    """Notes when it finished its last frame.

    Attributes:
        ended: that moment in seconds of `time.perf_counter`.
    """

    ended = 0.0

    def process(self, *frames: Any, **more: Any) -> EnhancedFrame:
        """See `Pipeline.process`."""
        enhanced = super().process(*frames, **more)
        self.ended = time.perf_counter()
        return enhanced


def times(stats: Stats, name: str) -> dict[str, float | None]:
    """Returns `PERCENTILES` of a stage in milliseconds; None if it never ran."""
    values = stats.milliseconds(name, 50, 95, 99)
    shown = (None if isnan(value) else round(value, 4) for value in values)
    return dict(zip(PERCENTILES, shown, strict=True))
