"""Target: messages and pictures of the stills protocol."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
from av.video.reformatter import ColorRange

from bench.fuzz.target import (
    BETWEEN,
    SIZE,
    check,
    loop,
    small_portrait,
)
from receiver.media.pixels import PLANAR_420
from receiver.stills.picture import MAX_STILL_PIXELS as STILL_PIXELS
from receiver.stills.picture import StillError, decode_still, encode_still
from receiver.stills.protocol import LABEL
from receiver.stills.receiver import StillReceiver
from receiver.stills.sender import StillSender


@dataclass
class Channel:
    """A stand-in for a data channel: keeps sent messages and listeners."""

    readyState: str = "open"  # noqa: N815
    bufferedAmount: int = 0  # noqa: N815
    label: str = LABEL
    sent: list[Any] = field(default_factory=list)
    listeners: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def on(self, event: str, listener: Callable[..., Any]) -> None:
        self.listeners[event] = listener

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.readyState = "closed"


def stills_seeds() -> list[bytes]:
    """Returns messages after a letter: Text, Binary, requests to a Sender; a Webp or Jpeg alone."""
    frame = small_portrait()[0]
    still, mime = encode_still(frame, 4000)
    shape = {"mime": mime, "width": SIZE[0], "height": SIZE[1], "captured_ms": 5}
    announced = {"type": "still", "id": 1, "bytes": len(still), **shape, "region": [0, 0, 1, 0.5]}
    wanted = {"type": "request", "id": 7, "max_bytes": 4000, "kbps": 9999, "region": [0, 0, 1, 0.5]}
    codec: av.VideoCodecContext = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = *SIZE, "yuvj420p", Fraction(1)
    full = frame.reformat(format="yuvj420p", dst_color_range=ColorRange.JPEG)
    full.pts, full.time_base = 0, Fraction(1)
    jpeg = b"".join(bytes(one) for one in codec.encode(full) + codec.encode(None))
    texts = [announced, {"type": "refused", "id": 1, "reason": "no"}, wanted]
    letters = [b"T", b"T", b"S"]
    messages = [a + json.dumps(text).encode() for a, text in zip(letters, texts, strict=True)]
    chunks = [b"B" + still[at : at + 1000] for at in range(0, len(still), 1000)]
    return [
        BETWEEN.join([messages[0], *chunks]),
        messages[1],
        messages[2],
        b"W" + still,
        b"J" + jpeg,
    ]


def stills(data: bytes) -> None:
    """Promises that messages lead to a still of allowed size, to a reason, or to nothing."""
    loop().run_until_complete(_stills(data.split(BETWEEN)))


async def _stills(messages: list[bytes]) -> None:
    asking, answering = Channel(), Channel()
    came: list[Any] = []
    failed: list[str] = []
    receiver = StillReceiver(asking, came.append, lambda why, _: failed.append(why))  # type: ignore[arg-type]
    sender = StillSender(answering, lambda: small_portrait()[0])  # type: ignore[arg-type]
    try:
        receiver.request(8000, 10000.0)
        for message in messages:
            kind, body = message[:1], message[1:]
            if kind == b"T":
                asking.listeners["message"](body.decode(errors="replace"))
            elif kind == b"S":
                answering.listeners["message"](body.decode(errors="replace"))
            elif kind in (b"W", b"J"):
                with contextlib.suppress(StillError):
                    _check_still(decode_still(body, {b"W": "image/webp"}.get(kind, "image/jpeg")))
            else:
                asking.listeners["message"](body)
            if receiver._work is not None:
                await asyncio.wait([receiver._work])
                await asyncio.sleep(0)
        if sender._sending is not None:
            await asyncio.wait([sender._sending])
            check(sender._sending.exception() is None, "answering a request does not fail")
    finally:
        receiver.close()
        sender.close()
    check("it could not be used" not in failed, "nothing but StillError comes from a still")
    for still in came:
        _check_still(still.picture)
        check(still.size_bytes <= 8000, "a still is no larger than requested")


def _check_still(picture: av.VideoFrame) -> None:
    check(picture.format.name in PLANAR_420, "a still is 4:2:0")
    check(picture.width * picture.height <= STILL_PIXELS, "a still is bounded")
