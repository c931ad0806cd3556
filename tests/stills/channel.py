"""A data channel whose other side is the test."""

import asyncio
import json

import av
import numpy as np
from pyee.asyncio import AsyncIOEventEmitter

MIDDLE = np.array([[1.0, 0.0, -200.0], [0.0, 1.0, -100.0]])
"""Transform of a crop out of the middle of the portrait."""
RED = (200, 40, 60)
"""Colour of `plain` frames, RGB."""


class Channel(AsyncIOEventEmitter):
    """A data channel whose other side is the test."""

    readyState = "open"  # noqa: N815
    bufferedAmount = 0  # noqa: N815

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str | bytes] = []

    def send(self, message: str | bytes) -> None:
        self.sent.append(message)

    def close(self) -> None:
        self.readyState = "closed"
        self.emit("close")

    def say(self, **message) -> None:
        self.emit("message", json.dumps(message))


def announcement(data: bytes, **changes) -> dict:
    return {
        "type": "still", "id": 1, "bytes": len(data), "mime": "image/webp",
        "width": 640, "height": 480, "captured_ms": 5000,
    } | changes  # fmt: skip


def plain(kind: str, **options) -> av.VideoFrame:
    picture = np.full((64, 96, 3), RED, np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, "rgb24")
    return frame.reformat(format=kind, **options)


async def until(condition) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.02)
