"""Timings of an enhancer and of its stages."""

import time
from math import isnan

import av

from receiver.enhance.enhancer import Enhancer
from receiver.media.frame import DecodedFrame
from receiver.stats import Stats


class TimedEnhancer(Enhancer):
    """Notes when it was through with its last frame.

    Attributes:
        ended: that moment, by `time.perf_counter`.
    """

    ended = 0.0

    def enhance(self, frame: DecodedFrame) -> av.VideoFrame:
        """See `Enhancer.enhance`."""
        output = super().enhance(frame)
        self.ended = time.perf_counter()
        return output


def times(stats: Stats, name: str) -> dict[str, float | None]:
    """Median, p95 and p99 of a stage in ms; None where it never ran."""
    values = stats.milliseconds(name, 50, 95, 99)
    shown = (None if isnan(value) else round(value, 4) for value in values)
    return dict(zip(("median", "p95", "p99"), shown, strict=True))
