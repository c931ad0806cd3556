"""A link that delays, loses and queues packets."""

import json
import math
import random
from collections import deque
from dataclasses import dataclass

RTX_GONE = 1.0
"""Seconds without retransmissions after the packet that never arrives."""


@dataclass(frozen=True)
class Conditions:
    """What happens to packets in each direction.

    Attributes:
        delay_ms: delay of one way.
        jitter_ms: largest further delay, evenly distributed; packets stay in order.
        loss: share of the packets that are lost, 0 to 1.
        burst: mean number of packets lost in a row (Gilbert-Elliott); None for independent
            losses.
        kbps: rate of the link in kbit/s; None for no limit.
        queue_ms: capacity of the drop-tail queue of a limited link, as the time to send it.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    burst: float | None = None
    kbps: float | None = None
    queue_ms: float = 500.0


@dataclass(frozen=True)
class Phase:
    """Conditions that hold from `at` seconds after the start."""

    at: float
    conditions: Conditions


@dataclass(frozen=True)
class Plan:
    """What the network does from the start on; before, packets pass freely.

    Attributes:
        phases: in order.
        seed: of the random numbers.
        hole_s: second at which the next packet of the first namespace's video is lost for good;
            None for no such loss.
    """

    phases: tuple[Phase, ...]
    seed: int
    hole_s: float | None = None

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Reads what `json.dumps(asdict(plan))` wrote."""
        read = json.loads(text)
        phases = (Phase(one["at"], Conditions(**one["conditions"])) for one in read["phases"])
        return cls(tuple(phases), read["seed"], read["hole_s"])


@dataclass(frozen=True, slots=True)
class Passage:
    """One packet: its arrival, its size in bytes, its seconds in the queue (None: it was lost)."""

    at: float
    size: int
    waited: float | None


class Link:
    """One direction. It has no clock: each method takes the time in seconds.

    Attributes:
        passages: all packets so far.
        late: seconds by which packets left too late.
    """

    def __init__(self, seed: int) -> None:
        self.conditions = Conditions()
        self.passages: list[Passage] = []
        self.late: list[float] = []
        self._random = random.Random(seed)
        self._losing = False
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0  # bytes
        self._free_at = 0.0
        self._flying: deque[tuple[float, bytes]] = deque()

    def push(self, now: float, packet: bytes) -> None:
        """Takes a packet that arrives now."""
        self._serve(now)
        room = math.inf if self.conditions.kbps is None else self._room(self.conditions.kbps)
        if self._loses() or len(packet) > room:
            self.passages.append(Passage(now, len(packet), None))
            return
        self._queue.append((now, packet))
        self._queued += len(packet)
        self._serve(now)

    def due(self, now: float) -> list[bytes]:
        """Returns the packets that have to leave by now."""
        self._serve(now)
        packets = []
        while self._flying and self._flying[0][0] <= now:
            at, packet = self._flying.popleft()
            self.late.append(now - at)
            packets.append(packet)
        return packets

    def next_at(self) -> float:
        """Returns when `due` has work again; infinity if no packet is under way."""
        flying = self._flying[0][0] if self._flying else math.inf
        return min(flying, self._free_at if self._queue else math.inf)

    def _room(self, kbps: float) -> float:
        return kbps * self.conditions.queue_ms / 8 - self._queued

    def _loses(self) -> bool:
        """Takes the next step of a chain of two states: one loses all packets, the other none."""
        loss, burst = self.conditions.loss, self.conditions.burst
        ends = 1 - loss if burst is None else 1 / burst
        begins = loss if burst is None else min(1.0, loss / (1 - loss) / burst)
        stays = 1 - ends if self._losing else begins
        self._losing = self._random.random() < stays
        return self._losing

    def _serve(self, now: float) -> None:
        """Takes the packets from the queue that the link could start to send until now."""
        conditions = self.conditions
        while self._queue and self._free_at <= now:
            came, packet = self._queue.popleft()
            self._queued -= len(packet)
            begins = max(came, self._free_at)
            self._free_at = begins + (
                8e-3 * len(packet) / conditions.kbps if conditions.kbps else 0.0
            )
            delay = conditions.delay_ms + self._random.uniform(0, conditions.jitter_ms)
            before = self._flying[-1][0] if self._flying else 0.0
            self._flying.append((max(before, self._free_at + delay / 1e3), packet))
            self.passages.append(Passage(came, len(packet), begins - came))


def rtp_of(packet: bytes) -> tuple[int, int] | None:
    """Returns SSRC and sequence number of an IPv4 packet; None if it is not RTP.

    SRTP leaves both readable. A second byte of 192 to 223 is RTCP (RFC 5761, section 4).
    """
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != 17:
        return None
    payload = packet[4 * (packet[0] & 15) + 8 :]
    if len(payload) < 12 or payload[0] >> 6 != 2 or 192 <= payload[1] <= 223:
        return None
    return int.from_bytes(payload[8:12], "big"), int.from_bytes(payload[2:4], "big")


class Hole:
    """Loses one packet of a video, and its retransmissions.

    It is encrypted which packet a retransmission repeats, so all of `RTX_GONE` seconds are lost.
    """

    def __init__(self, at: float, ssrc: int, rtx: int) -> None:
        self.made_at: float | None = None
        self._at, self._ssrc, self._rtx = at, ssrc, rtx
        self._number: int | None = None

    def swallows(self, now: float, packet: bytes) -> bool:
        """Returns whether this packet is lost."""
        rtp = rtp_of(packet)
        if now < self._at or rtp is None:
            return False
        if self._number is None and rtp[0] == self._ssrc:
            self.made_at, self._number = now, rtp[1]
        if self.made_at is None:
            return False
        repeats = rtp[0] == self._rtx and now < self.made_at + RTX_GONE
        return repeats or rtp == (self._ssrc, self._number)
