"""Messages and limits of the data channel `stills`, over which a receiver requests still pictures.

`docs/stills.md` describes the protocol. Either side may be another program, so every value of a
message is checked.
"""

import json
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from receiver.media.planes import WHOLE, Region
from receiver.stills.picture import DECODERS, MAX_STILL_PIXELS, MIN_SIDE, StillError

LABEL = "stills"
"""Label of the data channel."""
MAX_BYTES = 256 * 1024
"""Largest still in bytes that may be requested."""
KBPS_RANGE = (8.0, 10000.0)
"""Lowest and highest rate in kbit/s that may be requested."""
CHUNK = 16 * 1024
"""Largest binary message in bytes."""
MAX_TEXT = 1024
"""Longest text message in characters."""
ANSWER_SECONDS = 4.0
"""Longest wait for an answer, and for a still beyond the time that its rate takes."""
MAX_INTEGER = (1 << 53) - 1
"""Largest whole number that JSON carries safely (RFC 8259, section 6)."""
SMALLEST_REGION = 0.02
"""Smallest width and height of a region, as fractions of the frame's."""

Message: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Announcement:
    """What a sender announces of the still whose chunks follow.

    Attributes:
        size: in bytes.
        mime: a key of `picture.DECODERS`.
        width: in pixels.
        height: in pixels.
        captured_ms: time of the camera's frame by the sender's clock.
        region: part of the camera's frame that the still shows.
    """

    size: int
    mime: str
    width: int
    height: int
    captured_ms: int
    region: Region

    @classmethod
    def read(cls, message: Message, max_bytes: int) -> "Announcement":
        """Reads a message of type "still". Raises StillError if it is invalid or too large."""
        mime = message.get("mime")
        if not isinstance(mime, str) or mime not in DECODERS:
            raise StillError(f"mime is {shortened(mime)}: send image/webp or image/jpeg")
        width = read_integer(message, "width", MIN_SIDE, MAX_STILL_PIXELS)
        height = read_integer(message, "height", MIN_SIDE, MAX_STILL_PIXELS)
        if width * height > MAX_STILL_PIXELS:
            raise StillError(f"a still of {width}x{height} has more than {MAX_STILL_PIXELS} pixels")
        captured = read_number(message, "captured_ms", 0, MAX_INTEGER)
        size = read_integer(message, "bytes", 1, max_bytes)
        return cls(size, mime, width, height, round(captured), read_region(message))


def read_message(text: str) -> Message:
    """Reads a JSON object from a peer's text message; returns an empty one if it is invalid."""
    if len(text) > MAX_TEXT:
        return {}
    try:
        message = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _refuse_constant(name: str) -> NoReturn:
    """Raises ValueError for NaN and Infinity, which Python's parser would accept."""
    raise ValueError(f"{name} is not valid JSON")


def read_id(message: Message) -> int | None:
    """Returns a message's request number; None if it has no valid one."""
    try:
        return read_integer(message, "id", 0, MAX_INTEGER)
    except StillError:
        return None


def read_integer(message: Message, name: str, low: int, high: int) -> int:
    """Returns a message's value. Raises StillError unless it is a whole number in the range."""
    value = read_number(message, name, low, high)
    if not isinstance(value, int):
        raise StillError(f"{name} is {shortened(value)}: send a whole number")
    return value


def read_number(message: Message, name: str, low: float, high: float) -> float:
    """Returns a message's value. Raises StillError unless it is a number in the range."""
    value = message.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise StillError(f"{name} is {shortened(value)}: send {low:.0f} to {high:.0f}")


def read_region(message: Message) -> Region:
    """Returns a message's region, `WHOLE` if it has none. Raises StillError if it is invalid."""
    value = message.get("region", list(WHOLE))
    if not isinstance(value, list) or len(value) != 4:
        raise StillError(f"region is {shortened(value)}: send left, top, right, bottom")
    named = dict(zip(("left", "top", "right", "bottom"), value, strict=True))
    left, top, right, bottom = (read_number(named, name, 0.0, 1.0) for name in named)
    if right - left < SMALLEST_REGION or bottom - top < SMALLEST_REGION:
        raise StillError(f"region is {shortened(value)}: send a larger one")
    return left, top, right, bottom


def region_field(region: Region) -> Message:
    """Returns the part of a message that names `region`; empty for `WHOLE`."""
    return {} if region == WHOLE else {"region": [round(side, 4) for side in region]}


def shortened(value: Any) -> str:
    """Returns a peer's value in a form that fits into a sentence."""
    return repr(value)[:100]
