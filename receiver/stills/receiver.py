"""The receiving side of stills: requests them, and checks whatever arrives."""

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
from aiortc import RTCDataChannel

from receiver.media.planes import WHOLE, Region
from receiver.stills.picture import StillError, decode_still
from receiver.stills.protocol import (
    ANSWER_SECONDS,
    CHUNK,
    KBPS_RANGE,
    MAX_BYTES,
    Announcement,
    read_id,
    read_message,
    region_field,
    shortened,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Still:
    """A still that was received.

    Attributes:
        picture: as from `decode_still`; its pts is the sender's clock in ms.
        region: part of the camera's frame that it shows.
        size_bytes: as encoded.
    """

    picture: av.VideoFrame
    region: Region
    size_bytes: int


@dataclass
class StillCounts:
    """Counts the requested stills by outcome.

    Attributes:
        requested: requests sent.
        received: stills that arrived whole, were decoded and passed to `on_still`.
        refused: requests that the sender refused with a reason.
        rejected: stills that violated the protocol or could not be decoded.
        timed_out: stills that did not arrive in time, or whose channel closed before.
        ignored: messages without a request, or without a meaning.
        bytes: size of all binary messages, used or not.
    """

    requested: int = 0
    received: int = 0
    refused: int = 0
    rejected: int = 0
    timed_out: int = 0
    ignored: int = 0
    bytes: int = 0


@dataclass
class _Request:
    """The only open request."""

    id: int
    max_bytes: int
    kbps: float
    still: Announcement | None = None
    data: bytearray = field(default_factory=bytearray)

    @property
    def is_whole(self) -> bool:
        return self.still is not None and len(self.data) == self.still.size


class StillReceiver:
    """Requests stills over the channel `stills`, and decodes them in a separate thread.

    Trusts no message: it accepts one still at a time, no more bytes than requested, no more pixels
    than `picture.MAX_STILL_PIXELS`, and nothing after the time limit.

    Attributes:
        counts: outcomes of the requests.
    """

    def __init__(
        self,
        channel: RTCDataChannel,
        on_still: Callable[[Still], Any],
        on_failed: Callable[[str, int], Any] | None = None,
    ) -> None:
        """Must be called inside a running event loop, as all methods must.

        Args:
            on_still: called with each still, in the worker thread.
            on_failed: called with the reason and the bytes received, in the event loop.
        """
        self.counts = StillCounts()
        self._channel, self._on_still = channel, on_still
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="stills")
        self._work: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._request: _Request | None = None
        self._closed = False
        channel.on("message", self._on_message)
        channel.on("close", self._on_close)

    @property
    def waiting(self) -> bool:
        """Whether a request is open: neither passed to `on_still` nor failed yet."""
        return self._request is not None

    @property
    def ready(self) -> bool:
        """Whether a still can be requested: the channel is open, and no request is."""
        return not self._closed and not self.waiting and self._channel.readyState == "open"

    def request(self, max_bytes: int, kbps: float, region: Region = WHOLE) -> bool:
        """Requests a still of at most `max_bytes`, sent at `kbps` kbit/s.

        Only `region` is needed; the sender may send more. Returns False, and requests nothing, if
        it is not `ready`. Raises ValueError for values beyond `MAX_BYTES` and `KBPS_RANGE`.
        """
        if not 0 < max_bytes <= MAX_BYTES:
            raise ValueError(f"max_bytes {max_bytes} is not within 1 to {MAX_BYTES}")
        if not KBPS_RANGE[0] <= kbps <= KBPS_RANGE[1]:
            raise ValueError(f"kbps {kbps} is not within {KBPS_RANGE[0]:g} to {KBPS_RANGE[1]:g}")
        if not self.ready:
            return False
        self.counts.requested += 1
        request = self._request = _Request(self.counts.requested, max_bytes, kbps)
        message = {"type": "request", "id": request.id, "max_bytes": max_bytes, "kbps": kbps}
        self._channel.send(json.dumps(message | region_field(region)))
        self._start_timer(ANSWER_SECONDS)
        return True

    def close(self) -> None:
        """Closes the channel and ends the thread; no callback is called any more."""
        self._closed = True
        self._finish()
        if self._work is not None:
            self._work.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._channel.close()

    def _on_message(self, message: str | bytes) -> None:
        if self._closed:
            return
        if isinstance(message, str):
            self._on_text(message)
        else:
            self._on_chunk(message)

    def _on_text(self, text: str) -> None:
        message, request = read_message(text), self._request
        kind = message.get("type")
        if request is None or request.still is not None or read_id(message) != request.id:
            self.counts.ignored += 1
        elif kind == "refused":
            self.counts.refused += 1
            self._fail(f"the sender refuses: {shortened(message.get('reason'))}")
        elif kind == "still":
            try:
                request.still = Announcement.read(message, request.max_bytes)
            except StillError as error:
                self._reject(str(error))
            else:
                self._start_timer(ANSWER_SECONDS + request.still.size * 8 / 1000 / request.kbps)
        else:
            self.counts.ignored += 1

    def _on_chunk(self, chunk: bytes) -> None:
        self.counts.bytes += len(chunk)
        request = self._request
        if request is None or request.still is None or request.is_whole:
            self.counts.ignored += 1
        elif len(chunk) > CHUNK:
            self._reject(f"a chunk has {len(chunk)} bytes: send at most {CHUNK}")
        elif len(request.data) + len(chunk) > request.still.size:
            self._reject(f"more than the announced {request.still.size} bytes arrived")
        else:
            request.data += chunk
            if request.is_whole:
                self._stop_timer()
                self._work = self._loop.run_in_executor(
                    self._worker, self._deliver, bytes(request.data), request.still
                )
                self._work.add_done_callback(self._on_delivered)

    def _deliver(self, data: bytes, still: Announcement) -> None:
        """Decodes a still and passes it to `on_still`, in the worker thread."""
        frame = decode_still(data, still.mime)
        if (frame.width, frame.height) != (still.width, still.height):
            raise StillError(
                f"the still has {frame.width}x{frame.height} pixels, "
                f"not the announced {still.width}x{still.height}"
            )
        frame.pts, frame.time_base = still.captured_ms, Fraction(1, 1000)
        if not self._closed:
            self._on_still(Still(frame, still.region, len(data)))

    def _on_delivered(self, work: "asyncio.Future[None]") -> None:
        if work.cancelled() or self._closed:
            return
        error = work.exception()
        if error is None:
            self.counts.received += 1
            self._finish()
        elif isinstance(error, StillError):
            self._reject(str(error))
        else:
            logger.error("a still could not be used", exc_info=error)
            self._reject("it could not be used")

    def _on_close(self) -> None:
        if self.waiting and not (self._request and self._request.is_whole):
            self.counts.timed_out += 1
            self._fail("the channel closed")

    def _on_timeout(self) -> None:
        self.counts.timed_out += 1
        self._fail("it did not arrive in time")

    def _reject(self, reason: str) -> None:
        self.counts.rejected += 1
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        received = len(self._request.data) if self._request else 0
        self._finish()
        if self._on_failed is not None and not self._closed:
            self._on_failed(reason, received)

    def _finish(self) -> None:
        self._stop_timer()
        self._request = None

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
