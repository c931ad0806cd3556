"""Calls through which a clip is sent: sizes, bitrates and their changes."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import TypeAlias

import av

from bench.common.ladder import rung_at
from bench.common.senders import Sender, sender_of
from receiver.media.encoding import Encoding
from receiver.media.frame import DecodedFrame

Sent: TypeAlias = Iterator[tuple[av.VideoFrame, DecodedFrame, int]]
"""Captured frame, decoded frame and size of its packet in bytes."""
BEFORE = 4.0
"""Seconds of a good connection before it collapses."""
CAMERA_KEYFRAME_EVERY = 60
"""Frames from one I-frame of a camera to the next."""


@dataclass(frozen=True)
class Scenario:
    """How a clip is sent.

    Attributes:
        parts: one sender after the other, each with its seconds. Only frames of the last part are
            judged.
        turning: whether only faces are judged that are turned away from their usual direction.
    """

    name: str
    parts: tuple[tuple[Sender, float], ...]
    turning: bool = False

    @property
    def seconds(self) -> float:
        """The length of all parts."""
        return sum(seconds for _, seconds in self.parts)

    @property
    def judged_from(self) -> float:
        """The second at which the last part begins."""
        return sum(seconds for _, seconds in self.parts[:-1])


def scenarios(seconds: float) -> list[Scenario]:
    """Returns all scenarios; in each, `seconds` of a clip are judged.

    They are narrow calls of browsers and cameras in the sizes of the ladder, a bitrate that
    collapses, and turning heads.
    """

    def camera(kbps: float) -> Sender:
        encoding = Encoding(kbps=kbps, keyframe_every=CAMERA_KEYFRAME_EVERY)
        return Sender(f"camera-{kbps:g}", encoding, rung_at(kbps))

    def browser(kbps: float) -> Sender:
        return sender_of(f"openh264-{kbps:g}")

    return [
        Scenario("browser 100 kb/s", ((browser(100), seconds),)),
        Scenario("browser 250 kb/s", ((browser(250), seconds),)),
        Scenario("camera 100 kb/s", ((camera(100), seconds),)),
        Scenario("camera 250 kb/s", ((camera(250), seconds),)),
        Scenario("collapse", ((browser(1000), BEFORE), (browser(100), seconds))),
        Scenario("turning heads", ((browser(100), seconds),), turning=True),
    ]


def send(frames: list[av.VideoFrame], rate: Fraction, scenario: Scenario) -> Sent:
    """Yields the frames after the scenario's senders, one sender after the other.

    There must be enough frames for all parts: a clip is never played twice.
    """
    first = 0
    parts = []
    for sender, seconds in scenario.parts:
        count = round(seconds * rate)
        parts.append(sender.send(frames[first : first + count], rate))
        first += count
    if first > len(frames):
        raise ValueError(f"{len(frames)} frames are too few for {scenario.name}: it needs {first}")
    return chain(*parts)
