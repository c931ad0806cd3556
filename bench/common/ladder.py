"""The sizes and rates at which a browser sends a call: the ladder.

Measured with Chromium 156, a camera of 640x480 and one talking head. `bench browser --ladder`
measures it again.
"""

from dataclasses import dataclass
from fractions import Fraction

SCALES = (Fraction(1), Fraction(3, 4), Fraction(1, 2), Fraction(3, 8), Fraction(1, 4))
"""Scales at which Chromium sends a camera's picture."""


@dataclass(frozen=True)
class Rung:
    """What a browser sends at a bitrate.

    Attributes:
        kbps: the bitrate in kbit/s to which the call is limited.
        width: of a 640x480 camera's frames as they are sent, in pixels.
        height: the same.
    """

    kbps: float
    width: int
    height: int

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Returns the size in which a camera of another size is sent: even width and height.

        That is the largest of Chromium's scales with at most as many pixels as this rung has.
        """
        for scale in SCALES:
            size = int(width * scale) // 2 * 2, int(height * scale) // 2 * 2
            if size[0] * size[1] <= self.width * self.height:
                return size
        return size


LADDER = (
    Rung(60, 320, 240),
    Rung(100, 320, 240),
    Rung(150, 320, 240),
    Rung(250, 480, 360),
    Rung(400, 480, 360),
    Rung(600, 640, 480),
)
"""From the narrowest call to the first one in full size."""


def rung_at(kbps: float) -> Rung:
    """Returns the rung for any bitrate: the size is that of the highest rung at or below it."""
    below = [rung for rung in LADDER if rung.kbps <= kbps] or [LADDER[0]]
    return Rung(kbps, below[-1].width, below[-1].height)
