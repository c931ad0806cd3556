"""How clips are sent: encoders, bitrates and their changes."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import TypeAlias

import av

from models.openh264 import NO_KEYFRAME, OpenH264, through_any_codec
from receiver.media.encoding import Encoding
from receiver.media.frame import DecodedFrame

Sent: TypeAlias = Iterator[tuple[av.VideoFrame, DecodedFrame, int]]
"""Raw frame, decoded frame and size of its packet in bytes."""


@dataclass(frozen=True)
class Scenario:
    """How a clip is sent.

    Attributes:
        parts: one encoding after the other, each with its seconds. Only faces of the last part are
            judged.
        turning: whether only faces are judged that are turned away from their usual direction.
    """

    name: str
    parts: tuple[tuple[Encoding | OpenH264, float], ...]
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

    They are narrow calls of browsers and cameras, a bitrate that collapses, and turning heads.
    """

    def camera(kbps: float) -> Encoding:
        return Encoding(kbps=kbps, keyframe_every=60)

    def browser(kbps: float) -> Encoding:
        return Encoding(kbps=kbps, keyframe_every=NO_KEYFRAME)

    return [
        Scenario("browser 100 kb/s", ((OpenH264(100), seconds),)),
        Scenario("browser 200 kb/s", ((OpenH264(200), seconds),)),
        Scenario("camera 100 kb/s", ((camera(100), seconds),)),
        Scenario("camera 200 kb/s", ((camera(200), seconds),)),
        Scenario("collapse", ((browser(1000), 8.0), (browser(100), seconds))),
        Scenario("turning heads", ((OpenH264(100), seconds),), turning=True),
    ]


def send(frames: list[av.VideoFrame], rate: Fraction, scenario: Scenario) -> Sent:
    """Yields the frames after the scenario's encoders, one encoder after the other."""
    first = 0
    parts = []
    for encoding, seconds in scenario.parts:
        count = round(seconds * rate)
        parts.append(through_any_codec(iter(frames[first : first + count]), encoding, rate))
        first += count
    return chain(*parts)
