"""The sending side of stills: answers requests with the newest frame."""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import av
from aiortc import RTCDataChannel

from receiver.media.planes import Region
from receiver.stills.picture import EncodedStill, StillError, compress_still, part_of
from receiver.stills.protocol import (
    ANSWER_SECONDS,
    CHUNK,
    KBPS_RANGE,
    MAX_BYTES,
    read_id,
    read_integer,
    read_message,
    read_number,
    read_region,
    region_field,
)

STILLS_A_MINUTE = 30
"""Maximum number of stills that a sender makes per minute."""
PACE_BYTES = 2048
"""Bytes sent at a time: the fewer, the less they delay the video's packets."""

logger = logging.getLogger(__name__)


class StillSender:
    """Answers requests that arrive over the channel `stills`.

    Attributes:
        sent: stills that were sent completely.
        refused: requests that were refused.
    """

    def __init__(self, channel: RTCDataChannel, take: Callable[[], av.VideoFrame | None]) -> None:
        """Must be called inside a running event loop.

        Args:
            take: returns the newest frame at full resolution, None before the first one. It is
                called in a worker thread, and the frame is only read.
        """
        self.sent = self.refused = 0
        self._channel, self._newest_frame = channel, take
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="stills")
        self._sending: asyncio.Future[None] | None = None
        self._answered: deque[float] = deque(maxlen=STILLS_A_MINUTE)
        channel.on("message", self._on_message)

    def close(self) -> None:
        """Ends a transfer, the channel and the thread."""
        if self._sending is not None:
            self._sending.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._channel.close()

    def _on_message(self, message: str | bytes) -> None:
        request = read_message(message) if isinstance(message, str) else {}
        number = read_id(request)
        if request.get("type") != "request" or number is None:
            return
        try:
            max_bytes = read_integer(request, "max_bytes", 1, MAX_BYTES)
            kbps, region = read_number(request, "kbps", *KBPS_RANGE), read_region(request)
            self._check_limits()
        except StillError as error:
            self._refuse(number, str(error))
            return
        self._answered.append(time.monotonic())
        self._sending = asyncio.ensure_future(self._answer(number, max_bytes, kbps, region))

    def _check_limits(self) -> None:
        """Raises StillError if no still may be sent now."""
        if self._sending is not None and not self._sending.done():
            raise StillError("another still is being sent: ask again later")
        recent = self._answered
        if len(recent) == STILLS_A_MINUTE and time.monotonic() - recent[0] < 60:
            raise StillError(f"the limit is {STILLS_A_MINUTE} stills a minute: ask again later")

    async def _answer(self, number: int, max_bytes: int, kbps: float, region: Region) -> None:
        work = asyncio.get_running_loop().run_in_executor
        try:
            still, captured_ms = await work(self._worker, self._make, max_bytes, region)
        except StillError as error:
            self._refuse(number, str(error))
            return
        except Exception:
            logger.exception("a still could not be made")
            self._refuse(number, "it could not be made")
            return
        announcement = {
            "type": "still",
            "id": number,
            "bytes": len(still.data),
            "mime": "image/webp",
            "width": still.width,
            "height": still.height,
            "captured_ms": captured_ms,
        }
        self._send(json.dumps(announcement | region_field(region)))
        for start in range(0, len(still.data), PACE_BYTES):
            if start:
                await asyncio.sleep(PACE_BYTES * 8 / 1000 / kbps)
            if not await self._drained() or not self._send(still.data[start : start + PACE_BYTES]):
                return
        self.sent += 1

    def _make(self, max_bytes: int, region: Region) -> tuple[EncodedStill, int]:
        """Encodes the newest frame in the worker thread; returns also its time in ms."""
        frame = self._newest_frame()
        if frame is None:
            raise StillError("there is no frame yet")
        seconds = frame.time if frame.time is not None else time.monotonic()
        return compress_still(part_of(frame, region), max_bytes), max(0, round(seconds * 1000))

    async def _drained(self) -> bool:
        """Waits until the channel has room; returns False if it has none for `ANSWER_SECONDS`."""
        until = time.monotonic() + ANSWER_SECONDS
        while self._channel.bufferedAmount > CHUNK:
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.02)
        return True

    def _refuse(self, number: int, reason: str) -> None:
        self.refused += 1
        self._send(json.dumps({"type": "refused", "id": number, "reason": reason}))

    def _send(self, message: str | bytes) -> bool:
        """Sends a message; returns False if the channel is not open."""
        if self._channel.readyState != "open":
            return False
        self._channel.send(message)
        return True
