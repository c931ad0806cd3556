"""Still pictures on request, over a data channel: what the sender's camera really sees.

`docs/stills.md` has the protocol; either side may be another program.
"""

import asyncio
import itertools
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NoReturn, TypeAlias, cast

import av
from aiortc import RTCDataChannel, RTCPeerConnection
from av.video.reformatter import ColorRange, Colorspace

from receiver.errors import ReceiverError
from receiver.media.pixels import PLANAR_420
from receiver.media.planes import WHOLE, Region, copy_frame, cut_frame

logger = logging.getLogger(__name__)

LABEL = "stills"
"""Label of the data channel."""
MAX_BYTES = 256 * 1024
"""Largest still in bytes that may be asked for."""
KBPS = (8.0, 10000.0)
"""Slowest and fastest pace in kbit/s that may be asked for."""
CHUNK = 16 * 1024
"""Largest binary message in bytes."""
MAX_TEXT = 1024
"""Longest text message in characters."""
MIN_SIDE = 16
"""Shorter side in pixels below which a picture is none."""
MAX_PIXELS = 1 << 22
"""Most pixels of a picture: 2560x1440 is within."""
ANSWER_SECONDS = 4.0
"""Longest wait for an answer, and for a still beyond the time that its pace takes."""
A_MINUTE = 30
"""Stills a minute that a sender makes at most."""
PACED = 2048
"""Bytes that are sent at a time: the smaller, the less they delay the video's packets."""
STRANGERS = 16
"""Data channels of no use to anybody after which a peer is let go."""

QUALITIES = (90, 80, 70, 60, 50, 40)
"""Of libwebp, 0 to 100, tried one after the other until a picture is small enough."""

MAX_INTEGER = (1 << 53) - 1
"""Largest whole number that JSON carries safely (RFC 8259, section 6)."""

SMALLEST_REGION = 0.02
"""Least width and height of a region, as fractions."""

_DECODERS = {"image/webp": "webp", "image/jpeg": "mjpeg"}
_WINDOW = -64 * 1024  # bytes; aiortc's count of what a peer may still send, which should stay >= 0
_FRAGMENTS = 2048  # of messages that are not whole; those of a still's largest chunk are 14
_STREAMS = 64  # of data channels; a call has one

Message: TypeAlias = dict[str, Any]


class StillError(ReceiverError):
    """A still that cannot be made or used."""


def decode_still(data: bytes, mime: str) -> av.VideoFrame:
    """A picture as a BT.601 frame: JPEG as yuvj420p (full range), WebP as yuv420p (16 to 235).

    Raises StillError if it is broken, too large or too small, animated, or of another type.
    """
    if mime not in _DECODERS:
        raise StillError(f"{mime!r} is no type of still: send image/webp or image/jpeg")
    codec = cast(av.VideoCodecContext, av.CodecContext.create(_DECODERS[mime], "r"))
    codec.thread_count = 1
    # FFmpeg holds the header against max_pixels before it allocates anything for the picture.
    codec.options = {"max_pixels": str(MAX_PIXELS), "err_detect": "explode"}
    try:
        frames = codec.decode(av.Packet(data)) if data else []
    except (av.FFmpegError, ValueError) as error:
        raise StillError(f"a still of {len(data)} bytes is no {mime} that can be used") from error
    if not frames:
        raise StillError(f"a still of {len(data)} bytes holds no {mime}")
    frame = frames[0]
    if min(frame.width, frame.height) < MIN_SIDE:
        raise StillError(f"a still of {frame.width}x{frame.height} pixels is too small")
    full_range = mime == "image/jpeg"
    return _bt601(frame, frame.width, frame.height, full_range, full_range)


def part_of(frame: av.VideoFrame, region: Region) -> av.VideoFrame:
    """What lies within `region`, rounded out to even pixels; the frame itself if that is all."""
    if region == WHOLE:
        return frame
    width, height = frame.width // 2 * 2, frame.height // 2 * 2
    left, top = int(region[0] * width) // 2 * 2, int(region[1] * height) // 2 * 2
    right, bottom = -int(-region[2] * width // 2) * 2, -int(-region[3] * height // 2) * 2
    return cut_frame(frame, left, top, max(MIN_SIDE, right - left), max(MIN_SIDE, bottom - top))


def encode_still(frame: av.VideoFrame, max_bytes: int) -> tuple[bytes, str]:
    """A frame as WebP of at most `max_bytes`, and its MIME type.

    Quality goes down first, then the picture shrinks. Raises StillError if nothing fits.
    """
    return _encode(frame, max_bytes).data, "image/webp"


@dataclass(frozen=True)
class _Encoded:
    data: bytes
    width: int
    height: int


def _encode(frame: av.VideoFrame, max_bytes: int) -> _Encoded:
    full_range = frame.color_range == ColorRange.JPEG or frame.format.name == "yuvj420p"
    scale = min(1.0, math.sqrt(MAX_PIXELS / (frame.width * frame.height)))
    width, height = int(frame.width * scale), int(frame.height * scale)
    while min(width, height) >= MIN_SIDE:
        picture = _bt601(frame, width, height, full_range, False)
        if picture is frame:
            picture = copy_frame(frame)  # encoding writes to its time, and others use this one
        for quality in QUALITIES:
            data = _webp(picture, quality)
            if len(data) <= max_bytes:
                return _Encoded(data, width, height)
        width, height = width * 3 // 4, height * 3 // 4
    raise StillError(f"no still fits into {max_bytes} bytes: ask for more")


def _bt601(
    frame: av.VideoFrame, width: int, height: int, full_range: bool, to_full_range: bool
) -> av.VideoFrame:
    """A picture in the only matrix that JPEG and WebP know; the same object where nothing changes.

    `full_range` tells what the levels of `frame` are.
    """
    bt709 = frame.colorspace == Colorspace.ITU709
    same = frame.format.name in PLANAR_420 and full_range == to_full_range and not bt709
    if not same or (width, height) != (frame.width, frame.height):
        ranges = {False: ColorRange.MPEG, True: ColorRange.JPEG}
        frame = frame.reformat(
            width,
            height,
            "yuvj420p" if to_full_range else "yuv420p",
            src_colorspace=Colorspace.ITU709 if bt709 else Colorspace.ITU601,
            dst_colorspace=Colorspace.ITU601,
            interpolation="AREA",
            src_color_range=ranges[full_range],
            dst_color_range=ranges[to_full_range],
        )
        frame.colorspace = Colorspace.ITU601
        frame.color_range = ranges[to_full_range]
    return frame


def _webp(picture: av.VideoFrame, quality: int) -> bytes:
    codec: av.VideoCodecContext = av.CodecContext.create("libwebp", "w")
    codec.width, codec.height, codec.pix_fmt = picture.width, picture.height, "yuv420p"
    codec.time_base = Fraction(1, 30)
    codec.options = {"quality": str(quality), "preset": "photo"}
    picture.pts, picture.time_base = 0, codec.time_base
    picture.pict_type = av.video.frame.PictureType.NONE
    return b"".join(bytes(packet) for packet in codec.encode(picture) + codec.encode(None))


@dataclass(frozen=True)
class Still:
    """A still that came.

    Attributes:
        picture: as from `decode_still`, its pts the sender's clock in ms.
        region: which part of the camera's picture it shows.
        size_bytes: as encoded.
    """

    picture: av.VideoFrame
    region: Region
    size_bytes: int


@dataclass
class StillCounts:
    """What became of the stills that were asked for.

    Attributes:
        requested: asked for.
        received: whole, decoded and handed on.
        refused: by the sender, with a reason.
        rejected: broke the protocol, or no picture that can be used.
        timed_out: did not come in time, or the channel closed before.
        ignored: messages that nobody had asked for or that mean nothing.
        bytes: of binary messages, used or not.
    """

    requested: int = 0
    received: int = 0
    refused: int = 0
    rejected: int = 0
    timed_out: int = 0
    ignored: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class _Announced:
    """What a sender says of the still whose chunks follow."""

    size: int
    mime: str
    width: int
    height: int
    captured_ms: int
    region: Region

    @classmethod
    def read(cls, message: Message, max_bytes: int) -> "_Announced":
        """Raises StillError for a still that is not what was asked for."""
        mime = message.get("mime")
        if not isinstance(mime, str) or mime not in _DECODERS:
            raise StillError(f"mime is {_short(mime)}: send image/webp or image/jpeg")
        width = _integer(message, "width", MIN_SIDE, MAX_PIXELS)
        height = _integer(message, "height", MIN_SIDE, MAX_PIXELS)
        if width * height > MAX_PIXELS:
            raise StillError(f"a still of {width}x{height} has more than {MAX_PIXELS} pixels")
        captured = _number(message, "captured_ms", 0, MAX_INTEGER)
        size = _integer(message, "bytes", 1, max_bytes)
        return cls(size, mime, width, height, round(captured), _region(message))


@dataclass
class _Asked:
    """The one request that is under way."""

    id: int
    max_bytes: int
    kbps: float
    still: _Announced | None = None
    data: bytearray = field(default_factory=bytearray)

    @property
    def whole(self) -> bool:
        return self.still is not None and len(self.data) == self.still.size


class StillReceiver:
    """The asking side of the channel `stills`.

    Believes nothing that comes: one still at a time, no more bytes than were asked for, no more
    pixels than `MAX_PIXELS`, none later than its time. Decodes in a thread of its own.

    Attributes:
        counts: what became of the requests.
    """

    def __init__(
        self,
        channel: RTCDataChannel,
        on_still: Callable[[Still], Any],
        on_failed: Callable[[str, int], Any] | None = None,
    ) -> None:
        """To be made inside a running event loop, where all its methods belong.

        Args:
            on_still: is given each still, in the worker thread.
            on_failed: is given the reason and the bytes that came, in the event loop.
        """
        self.counts = StillCounts()
        self._channel, self._on_still = channel, on_still
        self._on_failed = on_failed
        self._loop = asyncio.get_running_loop()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="stills")
        self._work: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asked: _Asked | None = None
        self._closed = False
        channel.on("message", self._take)
        channel.on("close", self._lost)

    @property
    def waiting(self) -> bool:
        """Whether a still is under way: asked for, and neither handed on nor failed yet."""
        return self._asked is not None

    @property
    def ready(self) -> bool:
        """Whether a still can be asked for: the channel is open, and none is under way."""
        return not self._closed and not self.waiting and self._channel.readyState == "open"

    def request(self, max_bytes: int, kbps: float, region: Region = WHOLE) -> bool:
        """Asks for a still of at most `max_bytes`, sent at `kbps` kbit/s.

        Only `region` is needed; the sender may send more. Returns False, and asks for nothing, if
        it is not `ready`. Raises ValueError for values beyond `MAX_BYTES` and `KBPS`.
        """
        if not 0 < max_bytes <= MAX_BYTES:
            raise ValueError(f"max_bytes {max_bytes} is not within 1 to {MAX_BYTES}")
        if not KBPS[0] <= kbps <= KBPS[1]:
            raise ValueError(f"kbps {kbps} is not within {KBPS[0]:g} to {KBPS[1]:g}")
        if not self.ready:
            return False
        self.counts.requested += 1
        asked = self._asked = _Asked(self.counts.requested, max_bytes, kbps)
        message = {"type": "request", "id": asked.id, "max_bytes": max_bytes, "kbps": kbps}
        self._channel.send(json.dumps(message | _said(region)))
        self._wait(ANSWER_SECONDS)
        return True

    def close(self) -> None:
        """Closes the channel and ends the thread; nothing is called back any more."""
        self._closed = True
        self._forget()
        if self._work is not None:
            self._work.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._channel.close()

    def _take(self, message: str | bytes) -> None:
        if self._closed:
            return
        if isinstance(message, str):
            self._take_text(message)
        else:
            self._take_chunk(message)

    def _take_text(self, text: str) -> None:
        message, asked = _read(text), self._asked
        kind = message.get("type")
        if asked is None or asked.still is not None or _id(message) != asked.id:
            self.counts.ignored += 1
        elif kind == "refused":
            self.counts.refused += 1
            self._fail(f"the sender refuses: {_short(message.get('reason'))}")
        elif kind == "still":
            try:
                asked.still = _Announced.read(message, asked.max_bytes)
            except StillError as error:
                self._reject(str(error))
            else:
                self._wait(ANSWER_SECONDS + asked.still.size * 8 / 1000 / asked.kbps)
        else:
            self.counts.ignored += 1

    def _take_chunk(self, chunk: bytes) -> None:
        self.counts.bytes += len(chunk)
        asked = self._asked
        if asked is None or asked.still is None or asked.whole:
            self.counts.ignored += 1
        elif len(chunk) > CHUNK:
            self._reject(f"a chunk of {len(chunk)} bytes came: send at most {CHUNK}")
        elif len(asked.data) + len(chunk) > asked.still.size:
            self._reject(f"more came than the {asked.still.size} bytes that were announced")
        else:
            asked.data += chunk
            if asked.whole:
                self._stop_timer()
                self._work = self._loop.run_in_executor(
                    self._worker, self._deliver, bytes(asked.data), asked.still
                )
                self._work.add_done_callback(self._delivered)

    def _deliver(self, data: bytes, still: _Announced) -> None:
        """In the worker thread."""
        frame = decode_still(data, still.mime)
        if (frame.width, frame.height) != (still.width, still.height):
            raise StillError(f"the still is {frame.width}x{frame.height}, and not as announced")
        frame.pts, frame.time_base = still.captured_ms, Fraction(1, 1000)
        if not self._closed:
            self._on_still(Still(frame, still.region, len(data)))

    def _delivered(self, work: "asyncio.Future[None]") -> None:
        if work.cancelled() or self._closed:
            return
        error = work.exception()
        if error is None:
            self.counts.received += 1
            self._forget()
        elif isinstance(error, StillError):
            self._reject(str(error))
        else:
            logger.error("a still could not be used", exc_info=error)
            self._reject("it could not be used")

    def _lost(self) -> None:
        if self.waiting and not (self._asked and self._asked.whole):
            self.counts.timed_out += 1
            self._fail("the channel closed")

    def _late(self) -> None:
        self.counts.timed_out += 1
        self._fail("it did not come in time")

    def _reject(self, reason: str) -> None:
        self.counts.rejected += 1
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        came = len(self._asked.data) if self._asked else 0
        self._forget()
        if self._on_failed is not None and not self._closed:
            self._on_failed(reason, came)

    def _forget(self) -> None:
        self._stop_timer()
        self._asked = None

    def _wait(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class StillSender:
    """The answering side of the channel `stills`.

    Attributes:
        sent: stills that went out whole.
        refused: requests that got no still.
    """

    def __init__(self, channel: RTCDataChannel, take: Callable[[], av.VideoFrame | None]) -> None:
        """To be made inside a running event loop.

        `take` gives the newest frame at full resolution, None before the first; it is called in a
        worker thread, and the frame is only read.
        """
        self.sent = self.refused = 0
        self._channel, self._frame = channel, take
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="stills")
        self._sending: asyncio.Future[None] | None = None
        self._answered: deque[float] = deque(maxlen=A_MINUTE)
        channel.on("message", self._take)

    def close(self) -> None:
        """Ends a transfer, the channel and the thread."""
        if self._sending is not None:
            self._sending.cancel()
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._channel.close()

    def _take(self, message: str | bytes) -> None:
        asked = _read(message) if isinstance(message, str) else {}
        number = _id(asked)
        if asked.get("type") != "request" or number is None:
            return
        try:
            max_bytes = _integer(asked, "max_bytes", 1, MAX_BYTES)
            kbps, region = _number(asked, "kbps", *KBPS), _region(asked)
            self._check_turn()
        except StillError as error:
            self._refuse(number, str(error))
            return
        self._answered.append(time.monotonic())
        self._sending = asyncio.ensure_future(self._answer(number, max_bytes, kbps, region))

    def _check_turn(self) -> None:
        """Raises StillError if this is no time for a still."""
        if self._sending is not None and not self._sending.done():
            raise StillError("another still is under way")
        recent = self._answered
        if len(recent) == A_MINUTE and time.monotonic() - recent[0] < 60:
            raise StillError(f"{A_MINUTE} stills a minute are all that are made")

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
        announced = {
            "type": "still",
            "id": number,
            "bytes": len(still.data),
            "mime": "image/webp",
            "width": still.width,
            "height": still.height,
            "captured_ms": captured_ms,
        }
        self._send(json.dumps(announced | _said(region)))
        for start in range(0, len(still.data), PACED):
            if start:
                await asyncio.sleep(PACED * 8 / 1000 / kbps)
            if not await self._drained() or not self._send(still.data[start : start + PACED]):
                return
        self.sent += 1

    def _make(self, max_bytes: int, region: Region) -> tuple[_Encoded, int]:
        """In the worker thread: the newest frame, and when it was taken in ms."""
        frame = self._frame()
        if frame is None:
            raise StillError("there is no picture yet")
        seconds = frame.time if frame.time is not None else time.monotonic()
        return _encode(part_of(frame, region), max_bytes), max(0, round(seconds * 1000))

    async def _drained(self) -> bool:
        """Waits while the network takes less than the pace; False if it takes nothing at all."""
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
        if self._channel.readyState != "open":
            return False
        self._channel.send(message)
        return True


def guard_channels(
    connection: RTCPeerConnection,
    take: Callable[[RTCDataChannel], bool],
    end: Callable[[], Any],
) -> None:
    """Sees to it that a peer's data channels harm nobody; for an answerer, once it has answered.

    aiortc counts the window that it grants (RFC 9260, section 6.2) but takes what goes beyond it:
    a message without an end would fill the memory.

    Args:
        take: is given each channel that the peer opens, and returns whether it is wanted; others
            are closed.
        end: is called when the peer does what no honest one does.
    """
    sctp = connection.sctp
    if sctp is None:
        return
    receive, strangers = sctp._receive_data_chunk, itertools.count(1)

    async def guarded(chunk: Any) -> None:
        streams = sctp._inbound_streams
        waiting = streams[chunk.stream_id].reassembly if chunk.stream_id in streams else []
        too_many = len(waiting) > _FRAGMENTS or len(streams) > _STREAMS
        if too_many or sctp._advertised_rwnd < _WINDOW:
            end()
        else:
            await receive(chunk)

    def on_channel(channel: RTCDataChannel) -> None:
        if not take(channel):
            channel.close()
            if next(strangers) > STRANGERS:
                end()

    setattr(sctp, "_receive_data_chunk", guarded)  # noqa: B010
    connection.on("datachannel", on_channel)


def _read(text: str) -> Message:
    """A JSON object out of a stranger's message; an empty one if it is none."""
    if len(text) > MAX_TEXT:
        return {}
    try:
        message = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _id(message: Message) -> int | None:
    try:
        return _integer(message, "id", 0, MAX_INTEGER)
    except StillError:
        return None


def _integer(message: Message, name: str, low: int, high: int) -> int:
    """Raises StillError if a message's value is no whole number within the bounds."""
    value = _number(message, name, low, high)
    if not isinstance(value, int):
        raise StillError(f"{name} is {_short(value)}: send a whole number")
    return value


def _number(message: Message, name: str, low: float, high: float) -> float:
    """Raises StillError if a message's value is no number within the bounds."""
    value = message.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return value
    raise StillError(f"{name} is {_short(value)}: send {low:.0f} to {high:.0f}")


def _region(message: Message) -> Region:
    """A message's region, the whole picture where it has none. Raises StillError."""
    value = message.get("region", list(WHOLE))
    if not isinstance(value, list) or len(value) != 4:
        raise StillError(f"region is {_short(value)}: send left, top, right, bottom")
    named = dict(zip(("left", "top", "right", "bottom"), value, strict=True))
    left, top, right, bottom = (_number(named, name, 0.0, 1.0) for name in named)
    if right - left < SMALLEST_REGION or bottom - top < SMALLEST_REGION:
        raise StillError(f"region is {_short(value)}: send a larger one")
    return left, top, right, bottom


def _said(region: Region) -> Message:
    return {} if region == WHOLE else {"region": [round(side, 4) for side in region]}


def _short(value: Any) -> str:
    """A stranger's value, fit for a sentence."""
    return repr(value)[:100]
