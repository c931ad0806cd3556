"""What a sender sends: clip or camera, encoded by x264 in real-time settings."""

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
"""Newest frames that a sender keeps for comparison."""
STANDS = 0.5
"""Seconds after which a frame is sent again, unless the next one is due within half as long again:
whoever joins in a pause, or has lost a packet, needs a picture."""
LATE = 0.1
"""Seconds by which a frame or a piece of sound may be late before everything is put off: a computer
that is too slow for a clip plays it slower, and picture and sound stay together."""
SOUND_AHEAD = 10
"""Pieces of sound (0.2 s) that are decoded at once."""


class Clock:
    """When what is sent is due: one clock for the picture and the sound of a call."""

    def __init__(self) -> None:
        """It stands at 0 until it begins."""
        self._has_begun = asyncio.Event()
        self._began = 0.0

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._began

    def begin(self) -> None:
        """Lets it run, if it does not yet."""
        if not self._has_begun.is_set():
            self._began = time.perf_counter()
            self._has_begun.set()

    async def begun(self) -> None:
        """Waits until it runs."""
        await self._has_begun.wait()

    async def until(self, due: float) -> None:
        """Waits until `due`, in seconds; if that is more than `LATE` ago, the clock goes back."""
        early = due - self.now
        if early < -LATE:
            self._began -= early
        await asyncio.sleep(max(0.0, early))


class SoundTrack(MediaStreamTrack):
    """Gives aiortc the sound of a source, at its times."""

    kind = "audio"

    def __init__(self, pieces: Iterator[av.AudioFrame], clock: Clock) -> None:
        """`pieces` are taken, and closed, in a thread of the track's own."""
        super().__init__()
        self._pieces, self._clock = pieces, clock
        self._worker = Worker("sound")
        self._ready: deque[av.AudioFrame] = deque()
        self._coming: asyncio.Future[list[av.AudioFrame]] | None = None

    async def recv(self) -> av.AudioFrame:
        """The next piece, when it is due. Raises MediaStreamError at the end."""
        await self._clock.begun()
        if not self._ready and self.readyState == "live":
            self._ready.extend(await (self._coming or self._take()))
            if self.readyState == "live":
                self._coming = self._take()  # while these are sent
        if not self._ready or self.readyState != "live":
            self.stop()
            raise MediaStreamError
        piece = self._ready.popleft()
        await self._clock.until(piece.time or 0.0)
        return piece

    def stop(self) -> None:
        """Ends the track and its thread."""
        if self.readyState == "live":
            close_in(self._worker, self._pieces)
        super().stop()

    def _take(self) -> "asyncio.Future[list[av.AudioFrame]]":
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._worker, lambda: list(islice(self._pieces, SOUND_AHEAD)))


class EncodedTrack(MediaStreamTrack):
    """Encodes a source's frames and gives aiortc the packets, at the frames' times.

    aiortc's own encoder never goes below 500 kbit/s and starts anew whenever its target moves.

    Attributes:
        sound: the track of the source's sound, which begins and ends with this one; None without.
        sent: the newest frames by their pts in 1/90000 s, oldest first.
        newest: the last of them, None before the first; to be read in any thread.
        bytes_sent: size of everything encoded so far.
        frames_sent: how many frames were encoded so far.
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
            seconds: the track ends by itself after this time; None for no end.
            scene_cuts: whether x264 makes a key frame where the picture changes as a whole.
        """
        super().__init__()
        self.sent: OrderedDict[int, av.VideoFrame] = OrderedDict()
        self.newest: av.VideoFrame | None = None
        self.bytes_sent = self.frames_sent = 0
        self._clock = Clock()
        self.sound = None if source.sound is None else SoundTrack(source.sound(), self._clock)
        self._is_live = source.live
        self._frames = source.frames()
        # x264 takes every frame for as long: by the average, a burst would take too many bits.
        rate = max(source.rate, source.fastest or source.rate, Fraction(3, 2) / Fraction(STANDS))
        self._encoder = encoding.open(source.width, source.height, rate)
        if not scene_cuts:
            self._encoder.options = {**self._encoder.options, "sc_threshold": "0"}
        self._worker = Worker("sender")
        self._coming: av.VideoFrame | None = None
        self._time = 0.0  # of the newest frame
        self._limit = math.inf if seconds is None else seconds
        self._keyframes = KeyframeRequests()
        self.ended = asyncio.Event()

    def begin(self) -> None:
        """Lets the first frame go: called once the other side is there to see it."""
        self._clock.begin()

    def request_keyframe(self) -> None:
        """Makes the next frame an IDR, or the first that `KeyframeRequests` grants."""
        self._keyframes.ask()

    async def recv(self) -> VideoPacket:
        """The next encoded frame, at its time. Raises MediaStreamError at the end."""
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
        """Ends the track, that of its sound, and their threads."""
        if self.readyState == "live":
            close_in(self._worker, self._frames)
        super().stop()
        if self.sound is not None:
            self.sound.stop()
        self._clock.begin()
        self.ended.set()

    async def _due(self) -> av.VideoFrame | None:
        """Waits until a frame is due: the next one, or the newest again. None at the end."""
        if self._coming is None:
            self._coming = await asyncio.get_running_loop().run_in_executor(
                self._worker, next, self._frames, None
            )
        frame = self._coming
        if frame is None:
            return None
        due = self._clock.now if self._is_live else (frame.time or 0.0)
        if self.newest is not None and due > self._time + 1.5 * STANDS and not self._is_live:
            frame, due = self.newest, self._time + STANDS
        await self._clock.until(min(due, self._limit))
        if due >= self._limit:
            return None
        if frame is self._coming:
            self._coming = None
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
    """Ends a worker, and what it takes items from, once its work under way is done."""
    close = getattr(items, "close", None)
    if close is not None:
        worker.submit(close)
    worker.shutdown(wait=False)
