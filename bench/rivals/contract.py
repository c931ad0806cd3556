"""What every way to show a received frame offers."""

from typing import Protocol

import av


class Rival(Protocol):
    """Shows received frames at full size.

    Attributes:
        name: in tables and files; unique among the rivals of a run.
        runtime: what does the work, in words.
    """

    @property
    def name(self) -> str:
        """See the class."""

    @property
    def runtime(self) -> str:
        """See the class."""

    def show(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        """Returns an 8-bit 4:2:0 frame at width x height pixels, as yuv420p.

        Time and colour tags stay the frame's; the frame itself is not changed.
        """


def threads_in_words(threads: int) -> str:
    """Returns `1 thread`, `2 threads` and so on."""
    return f"{threads} thread{'s' * (threads > 1)}"
