"""From video packets that come late, twice, out of order or never to whole access units."""

from collections.abc import Iterator
from dataclasses import dataclass

from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket

from receiver.transport.aiortc_hooks import depayloaded
from receiver.transport.damage import begins_picture, holds_keyframe

PACKET_WAIT = (0.25, 0.6)
"""Seconds that a missing packet is waited for, at least and at most: two round trips in between."""
ASK_EVERY = (0.02, 0.1)
"""Seconds after which a missing packet is asked for again, at least and at most: two fifths of a
round trip in between, since the request may be lost as well as its answer. Browsers send a packet
again once in a round trip, however often they are asked."""
ASK_EVERY_AT_FIRST = 0.05
"""Seconds, while no answer has told the round trip."""
HOPELESS = 128
"""Missing packets in a row that nobody waits for: the network was away."""
MAX_JUMP = 1000
"""Sequence numbers between two packets that make it another stream."""
MOST_PACKETS = 2048
"""Packets that may wait to be a whole frame: some 2.5 MB, a hundred times a call's key frame."""
MOST_MISSING = 1024
"""Missing packets that are waited for at once; of more, the oldest are given up."""
FORGOTTEN = 512
"""Packets given up whose late coming still tells the round trip."""


class AccessUnit(JitterFrame):
    """One access unit, whole unless `lost_before` tells of a hole between it and the last one."""

    def __init__(self, data: bytes, timestamp: int, payload_type: int, lost_before: bool) -> None:
        super().__init__(data, timestamp)
        self.payload_type, self.lost_before = payload_type, lost_before


@dataclass(slots=True)
class _Missing:
    since: float  # seconds
    asked: float  # seconds, the last time
    times: int


class FrameAssembler:
    """Puts the packets of one H.264 stream in order and releases every access unit as it is whole.

    A frame is whole with its marker bit (RFC 6184, section 5.1), or with the next frame's first
    packet if its sender sets no markers. Packets behind a missing one wait for `PACKET_WAIT`; then
    the gap is skipped, and everything up to the beginning of the next frame. A whole key frame
    behind a gap does not wait.

    It has no clock of its own: every call passes the time in seconds.

    Attributes:
        late: packets that came after their frame had been released or given up, or twice.
        asked_for: requests for single packets so far.
        recovered: packets that were missing and came.
        holes: skipped so far.
        needs_keyframe: whether a hole was skipped and no key frame has been released since.
        round_trip: seconds from asking for a packet to its coming, smoothed; None before any.
    """

    def __init__(self) -> None:
        self.late = self.asked_for = self.recovered = self.holes = 0
        self.round_trip: float | None = None
        self.needs_keyframe = False
        self._packets: dict[int, RtpPacket] = {}  # by sequence number, counted on beyond 16 bits
        self._missing: dict[int, _Missing] = {}  # in ascending order
        self._given_up: dict[int, _Missing] = {}
        self._next = self._newest = -1  # the first that is not released; the newest seen
        self._keyframe = -1  # where the newest key frame begins
        self._released: int | None = None  # timestamp
        self._has_markers = True
        self._lost = False

    @property
    def is_waiting(self) -> bool:
        """Whether packets are missing, so that `take` and `to_ask_for` change with time."""
        return bool(self._missing)

    def add(self, packet: RtpPacket, now: float) -> None:
        """Takes a packet whose `_data` is depayloaded."""
        number = self._number_of(packet)
        if self._next < 0:
            self._begin(number)
        elif abs(number - self._newest) > MAX_JUMP or len(self._packets) == MOST_PACKETS:
            self._begin(number)
            self._count_hole()
        if number < self._next or number in self._packets:
            self.late += 1
            self._learn(self._given_up.pop(number, None), now)
            return
        self._packets[number] = packet
        for missing in range(self._newest + 1, number):
            self._missing[missing] = _Missing(now, -1.0, 0)
        self._newest = max(self._newest, number)
        missed = self._missing.pop(number, None)
        self.recovered += missed is not None
        self._learn(missed, now)
        if begins_picture(depayloaded(packet), keyframe=True):
            self._keyframe = max(self._keyframe, number)

    def take(self, now: float) -> Iterator[AccessUnit]:
        """All access units that can be released now, in order."""
        while True:
            while (unit := self._whole()) is not None:
                if unit.data:
                    yield unit
            if not self._skip_hole(now):
                return

    def to_ask_for(self, now: float) -> list[int]:
        """Sequence numbers (16 bits) to send a NACK for now; they count as asked for."""
        due = []
        for number, missing in self._missing.items():
            if not missing.times or now >= missing.asked + self._ask_every:
                missing.asked = now
                missing.times += 1
                due.append(number & 0xFFFF)
        self.asked_for += len(due)
        return due

    @property
    def _ask_every(self) -> float:
        if self.round_trip is None:
            return ASK_EVERY_AT_FIRST
        return min(max(ASK_EVERY[0], 0.4 * self.round_trip), ASK_EVERY[1])

    @property
    def _patience(self) -> float:
        return min(max(PACKET_WAIT[0], 2 * (self.round_trip or 0.0)), PACKET_WAIT[1])

    def _number_of(self, packet: RtpPacket) -> int:
        """The sequence number that is nearest to the newest one (RFC 3711, section 3.3.1)."""
        number: int = packet.sequence_number
        if self._next < 0:
            return number + (1 << 16)
        return self._newest + (number - self._newest + (1 << 15)) % (1 << 16) - (1 << 15)

    def _begin(self, number: int) -> None:
        self._packets.clear()
        self._missing.clear()
        self._given_up.clear()
        self._next, self._newest, self._keyframe = number, number - 1, -1

    def _learn(self, missing: _Missing | None, now: float) -> None:
        """Takes the round trip from a packet that was asked for once (Karn's rule)."""
        if missing is not None and missing.times == 1:
            took = now - missing.asked
            known = self.round_trip
            self.round_trip = took if known is None else 0.8 * known + 0.2 * took

    def _whole(self) -> AccessUnit | None:
        """The next access unit, if all of it is there."""
        first = self._packets.get(self._next)
        if first is None:
            return None
        number = self._next
        while (packet := self._packets.get(number)) is not None:
            if packet.timestamp != first.timestamp:
                return self._release(number)
            number += 1
            if packet.marker and self._has_markers:
                return self._release(number)
        return None

    def _release(self, end: int) -> AccessUnit:
        packets = [self._packets.pop(number) for number in range(self._next, end)]
        data = b"".join(depayloaded(packet) for packet in packets)
        first, self._next = packets[0], end
        if data and first.timestamp == self._released:
            # The marker stood within a frame: this sender's cannot be trusted.
            self._has_markers, self._lost = False, True
        if data:
            self._released = first.timestamp
        lost_before = self._lost
        self._lost &= not data
        self.needs_keyframe &= not holds_keyframe(data)
        return AccessUnit(data, first.timestamp, first.payload_type, lost_before)

    def _skip_hole(self, now: float) -> bool:
        """Gives the oldest hole up if it was waited for, or a whole key frame lies behind it."""
        if not self._missing:
            return False
        oldest = next(iter(self._missing))
        keyframe = self._is_whole(self._keyframe) and self._keyframe > oldest
        hopeless = self._run_of_missing(oldest) > HOPELESS or len(self._missing) > MOST_MISSING
        if not (keyframe or hopeless or now >= self._missing[oldest].since + self._patience):
            return False
        self._drop_before(self._keyframe if keyframe else self._beginning_after(oldest))
        self._count_hole()
        return True

    def _count_hole(self) -> None:
        self.holes += 1
        self._lost = self.needs_keyframe = True

    def _is_whole(self, number: int) -> bool:
        """Whether all packets from `number` to a marker are there."""
        while (packet := self._packets.get(number)) is not None:
            if packet.marker:
                return True
            number += 1
        return False

    def _run_of_missing(self, number: int) -> int:
        end = number
        while end in self._missing:
            end += 1
        return end - number

    def _beginning_after(self, number: int) -> int:
        """The first packet behind the hole at `number` that begins a picture, or the next hole."""
        number += self._run_of_missing(number)
        while number in self._packets and not begins_picture(depayloaded(self._packets[number])):
            number += 1
        return number

    def _drop_before(self, number: int) -> None:
        for gone in [one for one in self._packets if one < number]:
            del self._packets[gone]
        for gone in [one for one in self._missing if one < number]:
            self._given_up[gone] = self._missing.pop(gone)
        while len(self._given_up) > FORGOTTEN:
            del self._given_up[next(iter(self._given_up))]
        self._next = number
