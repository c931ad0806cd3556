"""Reads video files: the stream that a player shows, and its frames at their own times."""

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

from receiver.cores import codec_threads
from receiver.errors import InputError
from receiver.media.files.clock import FrameClock, PacketClock
from receiver.media.frame import export_side_data

logger = logging.getLogger(__name__)

READ_FORMATS = (
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
"""libav's names of the formats that can be opened, whatever a file's ending says. Formats that
refer to other files or servers are left out: HLS, DASH, concat scripts, SDP, numbered pictures."""
ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"),
    *(".mpg", ".mpeg", ".vob", ".m2v", ".flv", ".ogv", ".ogg", ".wmv", ".asf", ".mxf", ".dv"),
    *(".ivf", ".gif", ".y4m", ".h264", ".264", ".hevc", ".265"),
)
"""Usual endings of files in `READ_FORMATS`; they select the videos of a folder."""
READING = {"format_whitelist": ",".join(READ_FORMATS), "protocol_whitelist": "file"}
"""libav's options for every input file."""
STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
"""Dispositions of video streams that are not the main video: cover art, thumbnails."""
DEFAULT_RATE = Fraction(30)
"""Frames a second of a video without a stated rate."""
SLACK = 3
"""Frames by which a complete file may be shorter than its header says."""
DEFAULT_TIME_BASE = Fraction(1, 90_000)
"""Unit of pts, in seconds, of a stream without a stated time base."""


class VideoReader:
    """A video file that is read once, from its start or from `seek`.

    Decodes the video stream that a player shows. Among streams that can be decoded and are not
    cover art, it prefers those marked as default, then the one with most pixels. It selects sound
    likewise, by the number of channels.

    Attributes:
        name: the file's path, or "standard input".
        container: libav's container.
        video: the selected video stream.
        audio: the selected sound stream; None if no sound can be decoded.
        rate: frames a second on average.
        time_base: unit of the frames' pts, in seconds.
        damaged: packets of the video that could not be decoded.
        broke_off: whether the file ended with an error, or earlier than its header says.
    """

    def __init__(self, path: Path | None, *, side_data: bool = True) -> None:
        """Opens the file.

        Args:
            path: of a regular file in one of `READ_FORMATS`, or None for standard input.
            side_data: whether to export QPs and motion vectors with the frames; without them,
                libav decodes on all cores.

        Raises:
            InputError: if no video can be decoded, with the reason.
        """
        self.name = "standard input" if path is None else str(path)
        self.broke_off, self.damaged = False, 0
        self._path = path
        if path is not None:
            _check_regular(path)
        self.container = self._open(path)
        try:
            # In formats without pts, libav would guess them, and guess wrong.
            self.container.flags &= ~cast(int, Flags.gen_pts.value)
            self.video = self._choose_video()
            self.audio = _best(self.container.streams.audio, lambda one: one.channels)
        except BaseException:
            self.container.close()
            raise
        self.video.thread_type, self.video.thread_count = "AUTO", codec_threads()
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
        """Whether libav can seek in the file, unlike in a pipe."""
        return self._path is not None or sys.stdin.seekable()

    @property
    def begins(self) -> Fraction:
        """First time in the file, in seconds of its own clock."""
        return Fraction(self.container.start_time or 0, av.time_base)

    @property
    def lasts(self) -> Fraction | None:
        """Length of the file in seconds; None if it does not say."""
        length = self.container.duration
        return None if length is None else Fraction(length, av.time_base)

    @property
    def _promises_its_length(self) -> bool:
        """Whether the header states the file's length; for other formats, libav estimates it."""
        return any(name in self.container.format.name for name in ("mov", "matroska"))

    @property
    def total(self) -> int | None:
        """Number of frames of the video as stated or estimated; None if unknown."""
        if self.video.frames:
            return int(self.video.frames)
        return None if self.lasts is None else round(self.lasts * self.rate)

    def seek(self, start: Fraction) -> None:
        """Seeks to an I-frame at or before `start`, in seconds after `begins`.

        From then on, times are relative to `start`: frames before it have negative times. A file
        in which libav cannot seek is read from its start.
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
                # In a transport stream, libav may land anywhere, even later.
                keyframe = self._next_keyframe()
                if place == self.begins or (keyframe is not None and keyframe <= target):
                    self._search(place)
                    return
        except (av.FFmpegError, OSError):
            logger.debug("%s: cannot seek, reading on from the current position", self.name)

    def _search(self, time: Fraction) -> None:
        self.container.seek(int(time * av.time_base))

    def _next_keyframe(self) -> Fraction | None:
        """Returns the time of the video's next I-frame in seconds of its own clock, or None."""
        for packet in self.container.demux(self.video):
            if packet.is_keyframe and packet.pts is not None:
                return Fraction(packet.pts * self.time_base)
        return None

    def packets(self, streams: Collection[Any] | None = None) -> Iterator[Any]:
        """Yields packets, with times that continue if those in the file jump.

        The last packet of each stream is empty: it makes the decoder return the frames it holds.

        Args:
            streams: whose packets; by default those of `video`.
        """
        chosen = [self.video] if streams is None else list(streams)
        packets = self.container.demux(chosen)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError):
                self.broke_off = True  # earlier frames are kept, and those in the decoder
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
        """Returns the frames that a packet of `video` completes, in order of presentation.

        Each has a pts, later than that of the previous frame, and a duration. A damaged packet
        gives no frame; the file continues after it.
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
        """Yields the frames of the video, as `decode` returns them."""
        for packet in self.packets():
            yield from self.decode(packet)

    def _restart(self, origin: Fraction, begins: Fraction | None = Fraction(0)) -> None:
        flags = self.container.format.flags
        self._may_jump = bool(flags & cast(int, FormatFlags.ts_discont.value))
        if self._may_jump and not origin:  # the clock of a broadcast starts anywhere
            origin = self.begins
        self._clock = PacketClock(may_jump=self._may_jump, origin=origin)
        end = None
        if "mov" in self.container.format.name and self.lasts is not None:
            end = self.begins + self.lasts - origin
        self._frames = FrameClock(self.time_base, self.rate, begins=begins, end=end)

    def _open(self, path: Path | None) -> av.container.InputContainer:
        # Without the prefix, libav takes the text before a colon for a protocol.
        source: Any = sys.stdin.buffer if path is None else f"file:{path}"
        try:
            container: av.container.InputContainer = av.open(
                source, "r", container_options=READING, metadata_errors="replace"
            )
            return container
        except av.ArgumentError as error:  # libav's error for a demuxer that is not in the list
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
            raise InputError(f"the video in {self.name} cannot be decoded: give another file")
        return best


def _best(streams: Collection[Any], size: Any) -> Any:
    """Returns the best stream that has a decoder, or None.

    Prefers the one marked as default, then the largest, then the first.

    Args:
        size: returns the size of a stream.
    """
    known = [one for one in streams if one.codec_context is not None]
    return max(
        known,
        key=lambda one: (bool(one.disposition & Disposition.default), size(one)),
        default=None,
    )


def _flush(stream: Any) -> Any:
    """Returns the empty packet that ends a stream."""
    packet: Any = av.Packet()
    packet.stream, packet.time_base = stream, stream.time_base
    return packet


def _check_regular(path: Path) -> None:
    """Raises InputError if `path`, after links, is not a regular file that can be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # follows links
            raise InputError(f"{path} is not a regular file: give a video file")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"there is no file {path}: check the path") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
