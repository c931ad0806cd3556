"""Estimates the rate that the path from the sender can carry, by the delays of its packets."""

from collections import deque

WRAP_MS = 64_000.0
"""Milliseconds after which abs-send-time wraps: 24 bits of 2^-18 s."""
SLOT_MS = 100.0
"""Milliseconds of packets of which only the fastest counts: the others also waited for this
computer's scheduler."""
SLOTS = (2, 4)
"""Consecutive slots whose packets must all have waited to prove a long queue, and a short one: one
I-frame fills a narrow link for some tenths of a second."""
BASE_MS = 15_000.0
"""Milliseconds whose fastest packet counts as one without a queue: clocks drift, paths change."""
QUEUE_MS = (150.0, 60.0)
"""Milliseconds of a long queue and of a short one. Below the short one, the rate grows."""
RATE_MS = 500.0
"""Milliseconds over which the incoming rate is measured."""
START_KBPS = 600.0
"""First rate in kbit/s that Chromium receives. It follows higher ones at once in its first two
seconds only; later it climbs by 8 % a second, whatever it receives."""
FLOOR_KBPS, CEILING_KBPS = 50.0, 5000.0
"""Lowest and highest rate in kbit/s that REMB carries."""
GROWTH = (3.0, 1.15)
"""Growth of the rate in a second without a queue: far from the known limit or without one, and near
it."""
NEAR = 0.85
"""Fraction of the last full link's rate from which on the limit is near."""
MAX_LEAD = 2.5
"""Highest ratio of the rate to what arrives, apart from `START_KBPS`: a sender that sends less than
it may proves nothing."""
EMPTIED_IN_MS = 1000.0
"""Milliseconds in which a queue should drain after the rate was lowered."""
LEAST_SHARE, MOST_SHARE = 0.4, 0.95
"""Fractions of a full link's rate that REMB may carry, by the length of its queue."""
REST_MS = 2000.0
"""Milliseconds in which the rest of a queue may arrive at a lower rate without a narrower link."""
MOST_SOURCES = 16
"""Maximum of SSRCs in a REMB, which has room for 255. A call has two or three."""
DECIDE_MS, REPEAT_MS = 100.0, 500.0
"""Milliseconds from one decision to the next, and until the same rate is sent again."""
HOLD_MS = 400.0
"""Milliseconds from lowering the rate to lowering it again: the time until it takes effect."""


class BandwidthEstimate:
    """Computes the rate for REMB, in the place of `aiortc.rate.RemoteBitrateEstimator`.

    aiortc's estimator treats every late packet as a full link, so that a busy computer alone brings
    a sender down to 30 kbit/s. This one uses the fastest packet of each tenth of a second, and
    lowers the rate only for a queue that persists.

    Attributes:
        kbps: highest rate at which the sender should send.
    """

    def __init__(self) -> None:
        self.kbps = START_KBPS
        self._ssrcs: set[int] = set()
        self._sent = _Unwrapped()
        self._slots: deque[tuple[float, float]] = deque()  # (start, least delay), ms
        self._bytes: deque[tuple[float, int]] = deque()  # (arrival in ms, size)
        self._decided = self._reported = -float("inf")
        self._sent_kbps = 0.0
        self._lowered = -float("inf")
        self._began = float("inf")
        self._passed_kbps = float("inf")  # through the link when it was last full
        self._full_since: float | None = None  # ms; None while it is empty

    @property
    def link_was_full(self) -> bool:
        """Whether there has been a persistent queue."""
        return self._passed_kbps < float("inf")

    @property
    def queue_ms(self) -> float:
        """Milliseconds that even the fastest of the newest packets waited in a queue."""
        return self._standing_ms(SLOTS[0])

    def add(
        self, arrival_time_ms: int, abs_send_time: int, payload_size: int, ssrc: int
    ) -> tuple[int, list[int]] | None:
        """Adds a packet; returns (bit/s, SSRCs) when a REMB is due, otherwise None.

        Args:
            arrival_time_ms: of any monotonic clock.
            abs_send_time: value of the header extension, 24 bits in units of 2^-18 s.
            payload_size: in bytes.
            ssrc: of the packet.
        """
        now = float(arrival_time_ms)
        self._began = min(self._began, now)
        self._ssrcs.add(ssrc)
        if len(self._ssrcs) > MOST_SOURCES:
            self._ssrcs = {ssrc}
        self._bytes.append((now, payload_size))
        while self._bytes[0][0] < now - RATE_MS:
            self._bytes.popleft()
        self._note_delay(now, now - self._sent.at(abs_send_time * WRAP_MS / (1 << 24), now))
        if now - self._decided < DECIDE_MS:
            return None
        elapsed_ms = min(now - self._decided, 1000.0) if self._sent_kbps else 0.0
        self._decided = now
        self._decide(now, elapsed_ms)
        if (
            abs(self.kbps / max(self._sent_kbps, 1.0) - 1) < 0.02
            and now - self._reported < REPEAT_MS
        ):
            return None
        self._reported, self._sent_kbps = now, self.kbps
        return round(1000 * self.kbps), sorted(self._ssrcs)

    def _incoming_kbps(self, now: float, within_ms: float) -> float:
        """Returns the rate of the last `within_ms` milliseconds, `RATE_MS` at most."""
        span = min(within_ms, max(now - self._began, DECIDE_MS))
        return 8 * sum(size for at, size in self._bytes if at > now - span) / span  # bit/ms

    def _standing_ms(self, slots: int) -> float:
        """Returns the milliseconds that even the fastest packet of the newest slots waited."""
        latest = [delay for _, delay in list(self._slots)[-slots:]]
        return min(latest) - min(delay for _, delay in self._slots) if len(latest) == slots else 0.0

    def _note_delay(self, now: float, delay: float) -> None:
        if not self._slots or now >= self._slots[-1][0] + SLOT_MS:
            self._slots.append((now, delay))
        elif delay < self._slots[-1][1]:
            self._slots[-1] = (self._slots[-1][0], delay)
        while self._slots[0][0] < now - BASE_MS:
            self._slots.popleft()

    def _decide(self, now: float, elapsed_ms: float) -> None:
        queue, standing = (self._standing_ms(slots) for slots in SLOTS)
        if queue > QUEUE_MS[0] or standing > QUEUE_MS[1]:
            if now >= self._lowered + HOLD_MS:
                self._lowered = now
                # Packets from before the queue passed through another link.
                passes = self._incoming_kbps(now, SLOT_MS * SLOTS[queue <= QUEUE_MS[0]])
                if self._full_since is None or now > self._full_since + REST_MS:
                    self._full_since, self._passed_kbps = now, passes
                self._passed_kbps = max(self._passed_kbps, passes)
                share = max(LEAST_SHARE, MOST_SHARE - queue / EMPTIED_IN_MS)
                self.kbps = min(self.kbps, max(FLOOR_KBPS, share * self._passed_kbps))
        elif queue < QUEUE_MS[1]:
            self._full_since = None
            most = max(self.kbps, MAX_LEAD * self._incoming_kbps(now, RATE_MS) + START_KBPS)
            is_near = self.kbps > NEAR * self._passed_kbps
            grown = self.kbps * GROWTH[is_near] ** (elapsed_ms / 1000)
            self.kbps = min(grown, most, CEILING_KBPS)


class _Unwrapped:
    """Extends a clock that wraps every `WRAP_MS`."""

    def __init__(self) -> None:
        self._offset: float | None = None  # of the extended clock from that of the arrivals

    def at(self, value: float, now: float) -> float:
        """Returns the extended time that is nearest to the one expected at `now`."""
        if self._offset is None:
            self._offset = value - now
        expected = now + self._offset
        return value + round((expected - value) / WRAP_MS) * WRAP_MS
