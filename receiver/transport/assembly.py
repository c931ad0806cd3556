"""Assembles access units from video packets that are late, doubled, out of order or lost."""

from collections.abc import Iterator
from dataclasses import dataclass

from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtpPacket

from receiver.transport.aiortc_hooks import depayloaded
from receiver.transport.damage import begins_picture, holds_keyframe

PACKET_WAIT = (0.25, 0.6)
"""Shortest and longest wait for a missing packet in seconds; between them, two round trips."""
ASK_EVERY = (0.02, 0.1)
"""Shortest and longest time in seconds until a missing packet is requested again; between them, two
fifths of a round trip, since the request may be lost as well as its answer. Browsers send a packet
again once in a round trip, however often it is requested."""
ASK_EVERY_AT_FIRST = 0.05
"""The same in seconds until the first answer shows the round trip."""
OUTAGE = 128
"""Consecutive missing packets that are skipped at once: the network was interrupted."""
MAX_JUMP = 1000
"""Largest difference of sequence numbers within one stream; beyond it another stream starts."""
MOST_PACKETS = 2048
"""Maximum number of packets that wait for the rest of their frame: about 2.5 MB, or a hundred
I-frames."""
MOST_MISSING = 1024
"""Maximum number of missing packets that are waited for. Beyond it, the oldest ones are skipped."""
FORGOTTEN = 512
"""Skipped packets that are remembered, since their late arrival still shows the round trip."""


class AccessUnit(JitterFrame):
    """One access unit. `lost_before` says whether packets before it were skipped."""

    def __init__(self, data: bytes, timestamp: int, payload_type: int, lost_before: bool) -> None:
        super().__init__(data, timestamp)
        self.payload_type, self.lost_before = payload_type, lost_before


@dataclass(slots=True)
class _Missing:
    """A missing packet: when it was missed, when and how often it was requested (seconds)."""

    since: float
    asked: float
    times: int


class FrameAssembler:
    """Puts the packets of one H.264 stream in order and releases each access unit once it is whole.

    A frame is whole with its marker bit (RFC 6184, section 5.1), or with the next frame's first
    packet if its sender sets no markers. Packets behind a missing one wait for `PACKET_WAIT`; then
    the hole is skipped, and everything up to the beginning of the next frame. A whole I-frame
    behind a hole does not wait.

    It reads no clock: every call passes the time in seconds.

    Attributes:
        late: packets that arrived after their frame was released or skipped, or twice.
        asked_for: requests for single packets.
        recovered: packets that were missing and arrived.
        holes: holes that were skipped.
        needs_keyframe: whether a hole was skipped and no I-frame has been released since.
        round_trip: seconds from a request to the packet's arrival, smoothed; None before the first.
    """

    def __init__(self) -> None:
        self.late = self.asked_for = self.recovered = self.holes = 0
        self.round_trip: float | None = None
        self.needs_keyframe = False
        self._packets: dict[int, RtpPacket] = {}  # by sequence number, extended beyond 16 bits
        self._missing: dict[int, _Missing] = {}  # in ascending order
        self._given_up: dict[int, _Missing] = {}
        self._next = self._newest = -1  # the first that is not released; the newest received
        self._keyframe = -1  # first packet of the newest I-frame
        self._released: int | None = None  # timestamp
        self._has_markers = True
        self._lost = False

    @property
    def is_waiting(self) -> bool:
        """Whether packets are missing, so that `take` and `to_ask_for` depend on the time."""
        return bool(self._missing)

    def add(self, packet: RtpPacket, now: float) -> None:
        """Adds a packet that aiortc has depayloaded, at the time `now`."""
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
        """Yields all access units that can be released now, in order."""
        while True:
            while (unit := self._whole()) is not None:
                if unit.data:
                    yield unit
            if not self._skip_hole(now):
                return

    def to_ask_for(self, now: float) -> list[int]:
        """Returns the sequence numbers (16 bits) to request now, and counts them as requested."""
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
    def _packet_wait(self) -> float:
        return min(max(PACKET_WAIT[0], 2 * (self.round_trip or 0.0)), PACKET_WAIT[1])

    def _number_of(self, packet: RtpPacket) -> int:
        """Extends a packet's sequence number to the nearest one (RFC 3711, section 3.3.1)."""
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
        """Measures the round trip with a packet that was requested once (Karn's rule)."""
        if missing is not None and missing.times == 1:
            took = now - missing.asked
            known = self.round_trip
            self.round_trip = took if known is None else 0.8 * known + 0.2 * took

    def _whole(self) -> AccessUnit | None:
        """Releases the next access unit if all its packets have arrived."""
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
            # A marker within a frame: this sender's markers are wrong.
            self._has_markers, self._lost = False, True
        if data:
            self._released = first.timestamp
        lost_before = self._lost
        self._lost &= not data
        self.needs_keyframe &= not holds_keyframe(data)
        return AccessUnit(data, first.timestamp, first.payload_type, lost_before)

    def _skip_hole(self, now: float) -> bool:
        """Skips the oldest hole if it has timed out or a whole I-frame follows it."""
        if not self._missing:
            return False
        oldest = next(iter(self._missing))
        keyframe = self._is_whole(self._keyframe) and self._keyframe > oldest
        is_outage = self._run_of_missing(oldest) > OUTAGE or len(self._missing) > MOST_MISSING
        if not (keyframe or is_outage or now >= self._missing[oldest].since + self._packet_wait):
            return False
        self._drop_before(self._keyframe if keyframe else self._beginning_after(oldest))
        self._count_hole()
        return True

    def _count_hole(self) -> None:
        self.holes += 1
        self._lost = self.needs_keyframe = True

    def _is_whole(self, number: int) -> bool:
        """Returns whether all packets from `number` to a marker have arrived."""
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
        """Returns the first packet after a hole that begins a frame, or the next hole."""
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
