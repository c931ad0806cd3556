"""What a sender sends: clip or camera, encoded by x264 in real-time settings."""

import asyncio
import logging
import math
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
import cv2
from aiortc.contrib.media import MediaPlayer
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from keyframes import Picture
from receiver.encoding import Encoding
from receiver.errors import InputError
from receiver.portrait import FPS, HEIGHT, WIDTH, portrait_frames

logger = logging.getLogger(__name__)

MAX_SIDE = 1280
"""Longer side in pixels beyond which frames are shrunk, as a call would."""
MAX_RATE = 30.5
"""Frames a second beyond which every other frame (or more) is left out."""
REMEMBERED = 150
"""Newest frames that a sender keeps for comparison."""
FORMATS = (
    "mov",  # and mp4, m4a, 3gp
    "matroska",  # and webm
    "avi",
    "mpegts",
    "mpeg",  # program streams: mpg, vob
    "mpegvideo",
    "flv",
    "ogg",
    "asf",  # and wmv
    "mxf",
    "dv",
    "ivf",
    "gif",
    "yuv4mpegpipe",
    "h264",
    "hevc",
    "m4v",
)
"""libav's names of the formats that are opened, whatever a file's ending says. Not among them is
what names other files or servers: HLS, DASH, concat scripts, SDP, numbered pictures."""
READING = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
"""libav's options for every file that a user gives."""


KEYFRAMES_EVERY = 0.5
"""Seconds from one key frame on request to the next: each takes the bits of many others, so a peer
that asks all the time would spoil the picture, for all who watch it."""

VideoPacket: TypeAlias = "av.Packet[av.VideoStream]"


@dataclass(frozen=True)
class Source:
    """Where a sender's frames come from.

    Attributes:
        frames: starts an endless sequence of yuv420p frames of one even size.
        live: whether the sequence itself keeps the time, as a camera does.
        audio: a file with an audio stream that belongs to it, or None.
    """

    frames: Callable[[], Iterator[av.VideoFrame]]
    width: int
    height: int
    rate: Fraction
    live: bool = False
    audio: Path | None = None


def portrait_source() -> Source:
    """The demo's own clip, made once and then repeated."""
    loop = list(portrait_frames())

    def frames() -> Iterator[av.VideoFrame]:
        while True:
            yield from loop

    return Source(frames, WIDTH, HEIGHT, Fraction(FPS))


def clip_source(path: Path) -> Source:
    """A video file, repeated from its start. Raises InputError if it cannot be played."""
    with open_video(path) as container:
        video = container.streams.video[0]
        rate = video.average_rate or Fraction(30)
        every = max(1, -int(-rate // Fraction(MAX_RATE)))
        width, height = even_size(video.width, video.height)
        audio = path if _has_sound(container, path) else None
        if next(_decode(container), None) is None:
            raise InputError(f"{path} holds no frame that can be decoded: give another clip")

    def frames() -> Iterator[av.VideoFrame]:
        while True:
            with open_video(path) as again:
                for index, frame in enumerate(_decode(again)):
                    if index % every == 0:
                        yield frame.reformat(width, height, "yuv420p")

    return Source(frames, width, height, rate / every, audio=audio)


def _has_sound(container: av.container.InputContainer, path: Path) -> bool:
    """Whether aiortc can play and repeat the sound of a clip."""
    streams = container.streams.audio
    if streams and (streams[0].codec_context is None or container.duration is None):
        # No decoder is known, or the file does not say how long it is, as those of browsers.
        logger.warning("%s is sent without its sound: it cannot be repeated", path)
        return False
    return bool(streams)


def camera_source(number: int, instead: str = "--clip FILE") -> Source:
    """A camera by its number. Raises InputError, which offers `instead`, if it gives no picture."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    camera = cv2.VideoCapture(number)  # OpenCV would print a page of its own if there is none
    cv2.utils.logging.setLogLevel(level)
    opened, picture = camera.read()
    if not opened:
        camera.release()
        raise InputError(f"camera {number} gives no picture: try another number or {instead}")
    width, height = even_size(picture.shape[1], picture.shape[0])
    rate = Fraction(round(camera.get(cv2.CAP_PROP_FPS)) or 30)

    def frames() -> Iterator[av.VideoFrame]:
        try:
            while camera.grab():
                bgr: Picture = camera.retrieve()[1]
                frame = av.VideoFrame.from_ndarray(bgr, format="bgr24")
                yield frame.reformat(width, height, "yuv420p")
        finally:
            camera.release()

    return Source(frames, width, height, rate, live=True)


def open_video(path: Path) -> av.container.InputContainer:
    """Opens a file that has a video stream, in one of `FORMATS`.

    Raises InputError with the reason if there is none.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # follows links
            raise InputError(f"{path} is not a regular file: give a video file")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"there is no file {path}: check the path") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        container = av.open(_url(path), container_options=READING, metadata_errors="replace")
    except av.ArgumentError as error:  # what libav says of a demuxer that is not listed
        raise InputError(
            f"{path} is no video that can be read: playlists, scripts and rare formats are not "
            "opened, convert it to .mp4 or .mkv first"
        ) from error
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} is no video that can be read: give another file") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} has no video stream: give a file with one")
    if container.streams.video[0].codec_context is None:  # no decoder is known
        container.close()
        raise InputError(f"{path} has a video that cannot be decoded: give another file")
    return container


def clip_sound(path: Path) -> MediaStreamTrack | None:
    """Returns the sound of a clip, repeated as the clip is, or None if it has none.

    Raises InputError if the file is not what `clip_source` opened.
    """
    try:
        return MediaPlayer(_url(path), options=READING, loop=True).audio
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"the sound of {path} cannot be read: give another clip") from error


def _url(path: Path) -> str:
    """A path as libav takes it: without the prefix, what stands before a colon is a protocol."""
    return f"file:{path}"


def even_size(width: int, height: int) -> tuple[int, int]:
    """The size at which frames are sent: even, and at most `MAX_SIDE` on the longer side."""
    scale = min(1.0, MAX_SIDE / max(width, height))
    return (max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2))


def _decode(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    try:
        yield from container.decode(video=0)
    except av.FFmpegError:
        return  # what came before a broken end is still worth playing


class KeyframeRequests:
    """Requests for key frames of one encoder, granted once in an interval at most.

    To be asked in the event loop, and taken in the encoder's thread.
    """

    def __init__(self, interval: float = KEYFRAMES_EVERY) -> None:
        """`interval` is in seconds."""
        self._interval = interval
        self._is_asked = False
        self._granted = -math.inf

    def ask(self) -> None:
        """Asks for a key frame: the next picture, or the first after the interval."""
        self._is_asked = True

    def take(self) -> bool:
        """Returns whether the next picture is to be a key frame; the requests are done with then.

        To be called once for each picture.
        """
        now = time.monotonic()
        if not self._is_asked or now < self._granted + self._interval:
            return False
        self._is_asked, self._granted = False, now
        return True


class EncodedTrack(MediaStreamTrack):
    """Encodes a source's frames and gives aiortc the packets.

    aiortc's own encoder never goes below 500 kbit/s and starts anew whenever its target moves.

    Attributes:
        sent: the newest frames by their pts in 1/90000 s, oldest first.
        newest: the last of them, None before the first; to be read in any thread.
        bytes_sent: size of everything encoded so far.
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
        self.bytes_sent = 0
        self._source = source
        self._frames = source.frames()
        self._encoder = encoding.open(source.width, source.height, source.rate)
        if not scene_cuts:
            self._encoder.options = {**self._encoder.options, "sc_threshold": "0"}
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sender")
        self._count = 0
        self._limit = None if seconds is None else round(seconds * source.rate)
        self._begin = asyncio.Event()
        self._began = 0.0
        self._keyframes = KeyframeRequests()
        self.ended = asyncio.Event()

    @property
    def frames_sent(self) -> int:
        """How many frames were encoded so far."""
        return self._count

    def begin(self) -> None:
        """Lets the first frame go: called once the other side is there to see it."""
        self._began = time.perf_counter()
        self._begin.set()

    def request_keyframe(self) -> None:
        """Makes the next frame an IDR, or the first that `KeyframeRequests` grants."""
        self._keyframes.ask()

    async def recv(self) -> VideoPacket:
        """The next encoded frame, at its time. Raises MediaStreamError at the end."""
        await self._begin.wait()
        if self.readyState != "live" or self._count == self._limit:
            self.stop()
            raise MediaStreamError
        if not self._source.live:
            due = self._began + float(self._count / self._source.rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        packet = await asyncio.get_running_loop().run_in_executor(self._worker, self._next_packet)
        if packet is None:
            self.stop()
            raise MediaStreamError
        self._count += 1
        self.bytes_sent += packet.size
        return packet

    def stop(self) -> None:
        """Ends the track."""
        super().stop()
        self._begin.set()
        self._worker.shutdown(wait=False, cancel_futures=True)
        self.ended.set()

    def _next_packet(self) -> "VideoPacket | None":
        picture = next(self._frames, None)
        if picture is None:
            return None
        picture.pts = round(self._count * 90000 / self._source.rate)
        if self._source.live:
            picture.pts = round((time.perf_counter() - self._began) * 90000)
        picture.time_base = self._encoder.time_base
        kinds = av.video.frame.PictureType
        picture.pict_type = kinds.I if self._keyframes.take() else kinds.NONE
        self.sent[picture.pts] = self.newest = picture
        while len(self.sent) > REMEMBERED:
            self.sent.popitem(last=False)
        return self._encoder.encode(picture)[0]
