"""Reads the packets of a video file, or of a part of it, and decodes its frames."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from receiver.errors import InputError
from receiver.media.files.reading import STILL, VideoReader

READ_AHEAD = 400
"""Maximum number of packets read before the output is opened, to find one of each stream."""
READ_AHEAD_BYTES = 32 << 20
"""Maximum size of those packets in bytes."""
FIRST_FRAME_BYTES = 256 << 20
"""Bytes within which the first frame must be complete."""
TRAILING = 10.0
"""Seconds after the end of a part in which sound of the part may still follow."""


class Part:
    """The packets of a file, or of a part of it, with the frames that they complete.

    Attributes:
        ahead: packets that `read_ahead` has read.
    """

    def __init__(self, reader: VideoReader, start: Fraction, length: Fraction | None) -> None:
        """Seeks to the part.

        Args:
            reader: the open file.
            start: start of the part in seconds after the file's first time.
            length: length of the part in seconds; None: to the end of the file.
        """
        self.ahead: list[Any] = []
        self._reader = reader
        self._starts_late = start > 0
        self._is_part = self._starts_late or length is not None
        self._end = length
        if self._is_part:
            reader.seek(start)
        self._packets = reader.packets(list(reader.container.streams))
        self._decoded: list[list[av.VideoFrame]] = []  # of the first packets of `ahead`
        self._is_over = False

    def read_ahead(self) -> av.VideoFrame:
        """Reads the first frame and, within the limits, a packet of each video and audio stream.

        Returns the first frame. Raises InputError if there is none.
        """
        first: av.VideoFrame | None = None
        streams = self._reader.container.streams
        wanted = {one.index for one in streams if one.type in ("video", "audio")}
        size = 0
        for packet in self._packets:
            self.ahead.append(packet)
            size += packet.size
            wanted.discard(packet.stream.index)
            if packet.stream is self._reader.video and first is None:
                self._decoded.append(self._kept(self._reader.decode(packet)))
                first = next(iter(self._decoded[-1]), None)
            if first and (not wanted or len(self.ahead) >= READ_AHEAD or size >= READ_AHEAD_BYTES):
                return first
            if size >= FIRST_FRAME_BYTES:
                break
        if first is None:
            raise InputError(f"{self._reader.name} holds no frame {self._why_none()}")
        return first

    def _why_none(self) -> str:
        if self._starts_late:
            return "at or after that start: give an earlier one"
        if not self._reader.can_seek:
            return (
                "that can be decoded without going back: give another video, or write an .mp4 with "
                "its index at its beginning (ffmpeg: -movflags +faststart)"
            )
        return "that can be decoded: give another file"

    def items(self, copied: set[int]) -> Iterator[tuple[Any, list[av.VideoFrame]]]:
        """Yields the packets of the video with the frames that they complete, and copied packets.

        Args:
            copied: indexes of the streams whose packets are copied.
        """
        for packet in self._in_order():
            if packet.stream is self._reader.video:
                yield packet, self._frames(packet)
            elif packet.stream.index in copied and packet.size and self._is_within(packet):
                yield packet, []
            if self._is_over and self._is_late(packet):
                return

    def _in_order(self) -> Iterator[Any]:
        self.ahead.reverse()
        while self.ahead:
            yield self.ahead.pop()
        yield from self._packets

    def _frames(self, packet: Any) -> list[av.VideoFrame]:
        return self._decoded.pop(0) if self._decoded else self._kept(self._reader.decode(packet))

    def _kept(self, frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
        """Returns the frames that belong to the part."""
        if not self._is_part:
            return frames
        kept = []
        for frame in frames:
            time = (frame.pts or 0) * self._reader.time_base
            if self._end is not None and time >= self._end:
                self._is_over = True
            elif time >= 0:
                kept.append(frame)
        return kept

    def _is_within(self, packet: Any) -> bool:
        """Returns whether a copied packet belongs to the part; cuts subtitles at its ends."""
        time = packet.dts if packet.pts is None else packet.pts
        if not self._is_part or time is None:
            return True
        base = Fraction(packet.time_base)
        begins, ends = time * base, (time + (packet.duration or 0)) * base
        if self._end is not None and begins >= self._end:
            return False
        if packet.stream.type == "subtitle" and ends > 0:
            begins = max(begins, Fraction(0))
            ends = ends if self._end is None else min(ends, self._end)
            packet.pts = packet.dts = round(begins / base)
            packet.duration = round((ends - begins) / base)
        return begins >= 0 or bool(packet.stream.disposition & STILL)

    def _is_late(self, packet: Any) -> bool:
        """Returns whether no packet of the part can follow this packet."""
        if self._end is None or packet.dts is None:
            return False
        return bool(packet.dts * Fraction(packet.time_base) > self._end + Fraction(TRAILING))
