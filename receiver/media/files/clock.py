"""Gives packets and frames times that continue, even if the times in the file jump."""

import heapq
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import av

BACK = Fraction(1, 10)
"""Seconds by which a stream's decoding times must go back to start a new segment, as in a file that
was appended to another (FFmpeg's limit)."""
FORWARD = Fraction(10)
"""Seconds by which they must jump forward to start a new segment (FFmpeg's `dts_delta_threshold`);
no packet of sound lasts that long."""
MOST_WAITING = 64
"""Maximum number of decoding times that wait for their frames: more than any codec reorders."""


@dataclass
class _Progress:
    """The position of one stream: its segment, and the decoding times in the file, in seconds."""

    segment: int = 0
    last: Fraction | None = None
    next: Fraction = Fraction(0)


class PacketClock:
    """Shifts the times of packets so that they continue when those in the file jump.

    A jump starts a new segment. Streams reach it one after another, and all of them are shifted by
    the same time, so that sound and video stay in step.
    """

    def __init__(self, *, may_jump: bool, origin: Fraction = Fraction(0)) -> None:
        """Starts with the first segment.

        Args:
            may_jump: whether the format's clock may jump (AVFMT_TS_DISCONT). In other formats,
                pauses may have any length, and decoding times go back at an edit.
            origin: time in the file, in seconds, that becomes 0.
        """
        self._may_jump = may_jump
        self._shifts = [-origin]
        self._streams: dict[int, _Progress] = {}

    def place(self, packet: Any) -> None:
        """Shifts the pts and dts of the next packet of the file."""
        base = Fraction(packet.time_base)
        segment, kind = len(self._shifts) - 1, packet.stream.type
        if kind == "audio" and (packet.duration or 0) * base > FORWARD:
            packet.duration = 0  # a damaged one
        if self._may_jump and kind in ("video", "audio") and packet.dts is not None:
            lasts = (packet.duration or 0) * base
            segment = self._segment(packet.stream.index, packet.dts * base, lasts)
        shift = round(self._shifts[segment] / base)
        if packet.pts is not None:
            packet.pts += shift
        if packet.dts is not None:
            packet.dts += shift

    def _segment(self, stream: int, dts: Fraction, lasts: Fraction) -> int:
        """Returns the segment of a stream's packet, and adds a new one if its time jumps."""
        progress = self._streams.setdefault(stream, _Progress())
        if progress.last is not None and (
            dts < progress.last - BACK or dts > progress.next + FORWARD
        ):
            progress.segment += 1
            if progress.segment == len(self._shifts):  # the first stream to reach it
                before = progress.segment - 1
                ends = [one.next for one in self._streams.values() if one.segment == before]
                self._shifts.append(self._shifts[before] + max([progress.next, *ends]) - dts)
        progress.last, progress.next = dts, dts + lasts
        return progress.segment


class FrameClock:
    """Gives each decoded frame a time that is later than that of the previous frame.

    A frame keeps its own pts. In a file whose first packet has no pts (AVI), frames get the
    decoding times of the packets in ascending order. In a file without any times (raw H.264),
    frames follow each other at the stream's rate.
    """

    def __init__(
        self,
        time_base: Fraction,
        rate: Fraction,
        *,
        begins: Fraction | None = Fraction(0),
        end: Fraction | None = None,
    ) -> None:
        """Starts before the first frame.

        Args:
            time_base: unit of the frames' pts, in seconds.
            rate: frames a second of a stream without times.
            begins: time of a first frame without a time, in seconds; None if unknown, so that such
                a frame stays without one.
            end: of the file, in seconds; no frame lasts longer. None if unknown. (In an .mp4,
                reordered frames have the durations of other frames.)
        """
        self._end = None if end is None else ceil(end / time_base)
        self._base, self._step = time_base, 1 / rate / time_base
        self._has_pts: bool | None = None  # unknown before the first packet
        self._waiting: list[int] = []
        self._due = None if begins is None else begins / time_base
        self._last: int | None = None

    def sent(self, packet: Any) -> None:
        """Takes note of a packet that is sent to the decoder."""
        if self._has_pts is None:
            self._has_pts = packet.pts is not None
        if not self._has_pts and packet.dts is not None:
            heapq.heappush(self._waiting, packet.dts)
            if len(self._waiting) > MOST_WAITING:
                heapq.heappop(self._waiting)

    def place(self, frame: av.VideoFrame) -> None:
        """Sets the next frame's pts and time base, and its duration if the file has none."""
        time = frame.pts if self._has_pts else None
        if time is None and self._waiting:
            time, frame.duration = heapq.heappop(self._waiting), round(self._step)
        if time is None and self._due is not None:
            time, frame.duration = round(self._due), round(self._step)
        if time is None:
            return
        if self._due is not None and time == round(self._due):
            self._due += self._step  # without a sum of rounding errors
        else:
            self._due = time + self._step
        if self._last is not None and time <= self._last:
            time = self._last + 1
        if frame.duration <= 0:
            frame.duration = max(1, round(self._step))
        if self._end is not None and time < self._end:
            frame.duration = min(frame.duration, self._end - time)
        frame.pts = self._last = time
        frame.time_base = self._base
