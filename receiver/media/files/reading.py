"""Opens video files: the stream that people watch, and its frames at their own times."""

import logging
import stat
import sys
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.container.core import Flags
from av.format import Flags as FormatFlags
from av.stream import Disposition

from receiver.errors import InputError
from receiver.media.files.clock import FrameClock, PacketClock
from receiver.media.frame import export_side_data

logger = logging.getLogger(__name__)

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
ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"),
    *(".mpg", ".mpeg", ".vob", ".m2v", ".flv", ".ogv", ".ogg", ".wmv", ".asf", ".mxf", ".dv"),
    *(".ivf", ".gif", ".y4m", ".h264", ".264", ".hevc", ".265"),
)
"""Usual endings of files in `FORMATS`, by which videos are found in a folder."""
READING = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
"""libav's options for every file that a user gives."""
STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
"""Dispositions of video streams that are not the video: cover art, thumbnails."""
DEFAULT_RATE = Fraction(30)
"""Frames a second of a video that does not say."""
SLACK = 3
"""Frames by which a whole file may end before its header says."""
DEFAULT_TIME_BASE = Fraction(1, 90_000)


class VideoReader:
    """A video file, opened to be read once from its start (or from `seek`).

    The stream that is decoded is the one that a player shows: of those that can be decoded and are
    not cover art, one that is marked as default, then the one with most pixels. Sound likewise,
    with most channels.

    Attributes:
        name: the file's path, or "standard input".
        container: libav's container.
        video: the chosen video stream.
        audio: the chosen sound, None if there is none that can be decoded.
        rate: frames a second on average.
        time_base: unit of the frames' pts, in seconds.
        damaged: packets of the video that could not be decoded.
        broke_off: whether the file ended in an error, or before the time that its header says.
    """

    def __init__(self, path: Path | None, *, side_data: bool = True) -> None:
        """
        Args:
            path: of a regular file in one of `FORMATS`, or None for standard input.
            side_data: whether frames come with their QPs and motion vectors; without them, all
                cores decode.

        Raises:
            InputError: with the reason if there is no video that can be decoded.
        """
        self.name = "standard input" if path is None else str(path)
        self.broke_off, self.damaged = False, 0
        self._path = path
        if path is not None:
            _check_regular(path)
        self.container = self._open(path)
        try:
            # libav would guess the pts of frames in formats that have none, and guess wrong.
            self.container.flags &= ~cast(int, Flags.gen_pts.value)
            self.video = self._choose_video()
            self.audio = _best(self.container.streams.audio, lambda one: one.channels)
        except BaseException:
            self.container.close()
            raise
        self.video.thread_type = "AUTO"
        if side_data:
            export_side_data(self.video.codec_context)
        rate = self.video.average_rate or self.video.guessed_rate
        self.rate = Fraction(rate) if rate else DEFAULT_RATE
        self.time_base = Fraction(self.video.time_base or DEFAULT_TIME_BASE)
        self._came, self._slack = Fraction(0), SLACK / self.rate
        self._restart(Fraction(0))

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self.container.close()

    @property
    def can_seek(self) -> bool:
        """Whether libav can go back in the file: not in a pipe."""
        return self._path is not None or sys.stdin.seekable()

    @property
    def begins(self) -> Fraction:
        """The first time in the file, in seconds of its own clock."""
        return Fraction(self.container.start_time or 0, av.time_base)

    @property
    def lasts(self) -> Fraction | None:
        """How long the file is in seconds, None if it does not say."""
        length = self.container.duration
        return None if length is None else Fraction(length, av.time_base)

    @property
    def _promises_its_length(self) -> bool:
        """Whether the file's header says how long it is; of other formats libav estimates it."""
        return any(name in self.container.format.name for name in ("mov", "matroska"))

    @property
    def total(self) -> int | None:
        """How many frames the video has, as far as the file says."""
        if self.video.frames:
            return int(self.video.frames)
        return None if self.lasts is None else round(self.lasts * self.rate)

    def seek(self, start: Fraction) -> None:
        """Goes to a key frame at or before `start`, in seconds after `begins`.

        Times in the file are given as seconds after `start` from then on, so that what comes before
        it has negative ones. A file that cannot be searched is read from its start.
        """
        target = self.begins + start
        has_times = self.video.start_time is not None
        self._restart(target, None if has_times and start > 0 else -start)
        if start <= 0 or not has_times:
            return
        try:
            for earlier in (0, *(2**power for power in range(30))):
                place = max(self.begins, target - earlier)
                self._search(place)
                # In a transport stream, libav lands anywhere: later, too.
                keyframe = self._next_keyframe()
                if place == self.begins or (keyframe is not None and keyframe <= target):
                    self._search(place)
                    return
        except (av.FFmpegError, OSError):
            logger.debug("%s cannot be searched: read from where it is", self.name)

    def _search(self, time: Fraction) -> None:
        self.container.seek(int(time * av.time_base))

    def _next_keyframe(self) -> Fraction | None:
        """The time of the video's next key frame in the file, in seconds of its own clock."""
        for packet in self.container.demux(self.video):
            if packet.is_keyframe and packet.pts is not None:
                return Fraction(packet.pts * self.time_base)
        return None

    def packets(self, streams: Collection[Any] | None = None) -> Iterator[Any]:
        """Yields the packets of these streams (by default: `video`) at times that go on.

        The last one of each stream is empty: it makes the decoder give the frames that it holds.
        """
        chosen = [self.video] if streams is None else list(streams)
        packets = self.container.demux(chosen)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError):
                self.broke_off = True  # what came before is kept, and what the decoder holds
                for stream in chosen:
                    yield _flush(stream)
                return
            if packet is None:
                return
            if packet.size:
                time = packet.dts if packet.pts is None else packet.pts
                if time is not None:
                    ends = (time + (packet.duration or 0)) * Fraction(packet.time_base)
                    self._came = max(self._came, ends)
                self._clock.place(packet)
            elif self._promises_its_length and self._came:  # the end, as far as libav can tell
                self.broke_off |= self._came + self._slack < (self.lasts or 0)
            yield packet

    def decode(self, packet: Any) -> list[av.VideoFrame]:
        """The frames that a packet of `video` completes, in order of presentation.

        Each has a pts, later than that of the frame before, and a duration. A damaged packet gives
        none: it costs its own frame, not the file.
        """
        self._frames.sent(packet)
        try:
            frames: list[av.VideoFrame] = packet.decode()
        except (av.FFmpegError, OSError):
            self.damaged += 1
            return []
        for frame in frames:
            self._frames.place(frame)
        return [frame for frame in frames if frame.pts is not None]

    def frames(self) -> Iterator[av.VideoFrame]:
        """The frames of the video, as `decode` gives them."""
        for packet in self.packets():
            yield from self.decode(packet)

    def _restart(self, origin: Fraction, begins: Fraction | None = Fraction(0)) -> None:
        flags = self.container.format.flags
        self._may_jump = bool(flags & cast(int, FormatFlags.ts_discont.value))
        if self._may_jump and not origin:  # the clock of a broadcast begins anywhere
            origin = self.begins
        self._clock = PacketClock(may_jump=self._may_jump, origin=origin)
        end = None
        if "mov" in self.container.format.name and self.lasts is not None:
            end = self.begins + self.lasts - origin
        self._frames = FrameClock(self.time_base, self.rate, begins=begins, end=end)

    def _open(self, path: Path | None) -> av.container.InputContainer:
        # Without the prefix, libav takes what stands before a colon for a protocol.
        source: Any = sys.stdin.buffer if path is None else f"file:{path}"
        try:
            container: av.container.InputContainer = av.open(
                source, "r", container_options=READING, metadata_errors="replace"
            )
            return container
        except av.ArgumentError as error:  # what libav says of a demuxer that is not listed
            raise InputError(
                f"{self.name} cannot be read as a video: playlists, scripts and rare formats are "
                "not supported, convert it to .mp4 or .mkv first"
            ) from error
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{self.name} cannot be read as a video: give another file") from error

    def _choose_video(self) -> Any:
        moving = [one for one in self.container.streams.video if not one.disposition & STILL]
        if not moving:
            raise InputError(f"{self.name} has no video stream: give a file with one")
        best = _best(moving, lambda one: one.width * one.height)
        if best is None:
            raise InputError(f"{self.name} has a video that cannot be decoded: give another file")
        return best


def _best(streams: Collection[Any], size: Any) -> Any:
    """Of the streams that have a decoder, the default one, then the largest, then the first."""
    known = [one for one in streams if one.codec_context is not None]
    return max(
        known,
        key=lambda one: (bool(one.disposition & Disposition.default), size(one)),
        default=None,
    )


def _flush(stream: Any) -> Any:
    packet: Any = av.Packet()
    packet.stream, packet.time_base = stream, stream.time_base
    return packet


def _check_regular(path: Path) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # follows links
            raise InputError(f"{path} is not a regular file: give a video file")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"there is no file {path}: check the path") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
