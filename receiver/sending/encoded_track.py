"""Tracks that send a source: video encoded by x264 in real-time settings, and sound."""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from receiver.media.encoding import Encoding
from receiver.media.files.playing import VIDEO_BASE
from receiver.sending.sources import Source
from receiver.transport.sending import KeyframeRequests, VideoPacket
from receiver.worker import Worker

REMEMBERED = 150
"""Newest frames that are kept for comparison with what the receiver shows."""
REPEAT_AFTER = 0.5
"""Seconds after which a frame is sent again, unless the next one is due within half as long again.
A peer that joins in a pause, or that has lost a packet, needs a frame."""
MAX_LATENESS = 0.1
"""Seconds by which video or sound may be late before the clock is set back: a computer that is too
slow for a clip plays it slower, and video and sound stay in sync."""
SOUND_AHEAD = 10
"""Audio frames that are decoded at once (0.2 s)."""


class Clock:
    """The time of a call in seconds: one clock for its video and its sound."""

    def __init__(self) -> None:
        """It stands at 0 until `begin` is called."""
        self._has_begun = asyncio.Event()
        self._began = 0.0

    @property
    def now(self) -> float:
        """Seconds since it was started."""
        return time.perf_counter() - self._began

    def begin(self) -> None:
        """Starts the clock if it has not started yet."""
        if not self._has_begun.is_set():
            self._began = time.perf_counter()
            self._has_begun.set()

    async def begun(self) -> None:
        """Waits until the clock has started."""
        await self._has_begun.wait()

    async def until(self, due: float) -> None:
        """Waits until `due` in seconds; sets the clock back if it passed `MAX_LATENESS` ago."""
        early = due - self.now
        if early < -MAX_LATENESS:
            self._began -= early
        await asyncio.sleep(max(0.0, early))


class SoundTrack(MediaStreamTrack):
    """Passes a source's audio frames to aiortc when they are due."""

    kind = "audio"

    def __init__(self, frames: Iterator[av.AudioFrame], clock: Clock) -> None:
        """`frames` is iterated, and closed, in a thread of this track."""
        super().__init__()
        self._frames, self._clock = frames, clock
        self._worker = Worker("sound")
        self._ready: deque[av.AudioFrame] = deque()
        self._next: asyncio.Future[list[av.AudioFrame]] | None = None

    async def recv(self) -> av.AudioFrame:
        """Returns the next audio frame when it is due. Raises MediaStreamError at the end."""
        await self._clock.begun()
        if not self._ready and self.readyState == "live":
            self._ready.extend(await (self._next or self._take()))
            if self.readyState == "live":
                self._next = self._take()  # while these are sent
        if not self._ready or self.readyState != "live":
            self.stop()
            raise MediaStreamError
        frame = self._ready.popleft()
        await self._clock.until(frame.time or 0.0)
        return frame

    def stop(self) -> None:
        """Ends the track and its thread."""
        if self.readyState == "live":
            close_in(self._worker, self._frames)
        super().stop()

    def _take(self) -> "asyncio.Future[list[av.AudioFrame]]":
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._worker, lambda: list(islice(self._frames, SOUND_AHEAD)))


class EncodedTrack(MediaStreamTrack):
    """Encodes a source's frames and passes the packets to aiortc when the frames are due.

    aiortc's own encoder never goes below 500 kbit/s, and restarts whenever its target changes.

    Attributes:
        sound: track of the source's sound, which starts and ends with this one; None without sound.
        sent: the newest frames by their pts in 1/90000 s, oldest first.
        newest: the last of them, None before the first; may be read in any thread.
        bytes_sent: total size of the packets.
        frames_sent: number of frames that were encoded.
        ended: set at the end of the track.
    """

    kind = "video"

    def __init__(
        self,
        source: Source,
        encoding: Encoding,
        seconds: float | None = None,
        *,
        scene_cuts: bool = True,
    ) -> None:
        """
        Args:
            seconds: time after which the track ends; None for no end.
            scene_cuts: whether x264 encodes an I-frame at a scene cut.
        """
        super().__init__()
        self.sent: OrderedDict[int, av.VideoFrame] = OrderedDict()
        self.newest: av.VideoFrame | None = None
        self.bytes_sent = self.frames_sent = 0
        self._clock = Clock()
        self.sound = None if source.sound is None else SoundTrack(source.sound(), self._clock)
        self._is_live = source.live
        self._frames = source.frames()
        # x264 expects a constant rate: with the average, a burst would take too many bits.
        rate = max(
            source.rate, source.fastest or source.rate, Fraction(3, 2) / Fraction(REPEAT_AFTER)
        )
        self._encoder = encoding.open(source.width, source.height, rate)
        if not scene_cuts:
            self._encoder.options = {**self._encoder.options, "sc_threshold": "0"}
        self._worker = Worker("sender")
        self._next: av.VideoFrame | None = None
        self._time = 0.0  # of the newest frame
        self._limit = math.inf if seconds is None else seconds
        self._keyframes = KeyframeRequests()
        self.ended = asyncio.Event()

    def begin(self) -> None:
        """Starts sending. To be called once the connection is there."""
        self._clock.begin()

    def request_keyframe(self) -> None:
        """Requests an IDR: the next frame, or the first that `KeyframeRequests` grants."""
        self._keyframes.ask()

    async def recv(self) -> VideoPacket:
        """Returns the next encoded frame when it is due. Raises MediaStreamError at the end."""
        await self._clock.begun()
        frame = await self._due() if self.readyState == "live" else None
        if frame is None or self.readyState != "live":
            self.stop()
            raise MediaStreamError
        packet = await asyncio.get_running_loop().run_in_executor(
            self._worker, self._encode, frame, round(self._time / VIDEO_BASE)
        )
        self.frames_sent += 1
        self.bytes_sent += packet.size
        return packet

    def stop(self) -> None:
        """Ends the track, its sound track, and their threads."""
        if self.readyState == "live":
            close_in(self._worker, self._frames)
        super().stop()
        if self.sound is not None:
            self.sound.stop()
        self._clock.begin()
        self.ended.set()

    async def _due(self) -> av.VideoFrame | None:
        """Waits for the next frame, or the newest one again, and returns it; None at the end."""
        if self._next is None:
            self._next = await asyncio.get_running_loop().run_in_executor(
                self._worker, next, self._frames, None
            )
        frame = self._next
        if frame is None:
            return None
        due = self._clock.now if self._is_live else (frame.time or 0.0)
        if self.newest is not None and due > self._time + 1.5 * REPEAT_AFTER and not self._is_live:
            frame, due = self.newest, self._time + REPEAT_AFTER
        await self._clock.until(min(due, self._limit))
        if due >= self._limit:
            return None
        if frame is self._next:
            self._next = None
        self._time = due
        return frame

    def _encode(self, frame: av.VideoFrame, pts: int) -> VideoPacket:
        frame.pts, frame.time_base = pts, VIDEO_BASE
        kinds = av.video.frame.PictureType
        frame.pict_type = kinds.I if self._keyframes.take() else kinds.NONE
        self.sent[pts] = self.newest = frame
        while len(self.sent) > REMEMBERED:
            self.sent.popitem(last=False)
        return self._encoder.encode(frame)[0]


def close_in(worker: Worker, items: Iterator[object]) -> None:
    """Ends a worker and closes the iterator that it reads, after the job that is running."""
    close = getattr(items, "close", None)
    if close is not None:
        worker.submit(close)
    worker.shutdown(wait=False)
