"""Senders by name: an encoder, its rate, and the size in which it sends a camera's frames."""

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av

from bench.common.ladder import LADDER, Rung, rung_at
from models.openh264 import NO_KEYFRAME, OpenH264, through_any_codec
from receiver.errors import InputError, ReceiverError
from receiver.media.encoding import Encoding
from receiver.media.frame import DecodedFrame

MAX_CRF = 51.0
MIN_KBPS, MAX_KBPS = 1.0, 100_000.0
"""Bitrates that can be asked for, in kbit/s: encoders refuse others, or take one of their own."""
SMALLEST, LARGEST = 16, 1920
"""Sides of a frame that can be asked for, in pixels."""


@dataclass(frozen=True)
class Sender:
    """Reduces a camera's frames and encodes them with a single IDR.

    Attributes:
        name: as `sender_of` takes it.
        encoding: the encoder and its rate.
        rung: the size in which a 640x480 camera is sent; None for the camera's own.
    """

    name: str
    encoding: Encoding | OpenH264
    rung: Rung | None

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """Returns the width and height in which a camera of this size is sent, in pixels."""
        return self.rung.size_of(width, height) if self.rung else (width, height)

    def send(
        self, frames: Iterable[av.VideoFrame], rate: Fraction
    ) -> Iterator[tuple[av.VideoFrame, DecodedFrame, int]]:
        """Yields each frame, the frame that a receiver decodes for it, and its size in bytes.

        Args:
            frames: yuv420p, all of one size. Their pts are set.
            rate: frames a second.

        Raises ReceiverError if the encoder ends early: fewer frames would be judged.
        """
        waiting: deque[av.VideoFrame] = deque()

        def reduced() -> Iterator[av.VideoFrame]:
            for frame in frames:
                waiting.append(frame)
                size = self.size_of(frame.width, frame.height)
                # Averages the pixels, as browsers do: Chromium's libyuv has a box filter.
                yield frame.reformat(*size, interpolation="AREA")

        for sent, decoded, size_bytes in through_any_codec(reduced(), self.encoding, rate):
            frame = waiting.popleft()
            frame.pts, frame.time_base = sent.pts, sent.time_base
            yield frame, decoded, size_bytes
        if waiting:
            raise ReceiverError(
                f"the encoder of {self.name} ended early: give another --encoding or run it again"
            )


def sender_of(name: str) -> Sender:
    """Returns the sender called `openh264-100` or `x264-100` (kbit/s, in the ladder's size).

    `openh264-100@640x480` sends the camera at most in this size, and `crf42`, x264 with a constant
    quality, in its own. Raises InputError for another name.
    """
    found = re.fullmatch(r"(crf|x264-|openh264-)(\d+(?:\.\d+)?)(?:@(\d+)x(\d+))?", name)
    kind, value = (found[1], float(found[2])) if found else ("", 0.0)
    is_valid = value <= MAX_CRF if kind == "crf" else MIN_KBPS <= value <= MAX_KBPS
    rung = None if kind == "crf" else rung_at(value)
    if found and found[3]:
        width, height = int(found[3]), int(found[4])
        is_valid &= all(SMALLEST <= side <= LARGEST for side in (width, height))
        rung = Rung(value, width, height)
    if not is_valid:
        raise InputError(
            f"{name!r} is not an encoding: give openh264-100 or x264-150 (kbit/s, in the size that "
            "a browser sends), openh264-150@640x480, or crf42 (0 to 51)"
        )
    if kind == "crf":
        return Sender(name, Encoding(crf=value, keyframe_every=NO_KEYFRAME), rung)
    if kind == "x264-":
        return Sender(name, Encoding(kbps=value, keyframe_every=NO_KEYFRAME), rung)
    return Sender(name, OpenH264(value), rung)


def ladder_of(encoder: str) -> list[str]:
    """Returns the names of the ladder's rungs with one encoder, `openh264` or `x264`."""
    return [f"{encoder}-{rung.kbps:g}" for rung in LADDER]
