"""What the way from the sender to here can carry, from when its packets left and came."""

from collections import deque

WRAP_MS = 64_000.0
"""Milliseconds after which abs-send-time begins anew: 24 bits of 2^-18 s."""
SLOT_MS = 100.0
"""Milliseconds of packets of which only the fastest counts: the others waited for this computer's
own scheduler as well."""
SLOTS = (2, 4)
"""Slots in a row whose packets must all have waited before a long queue is believed in, and before
a short one: a key frame alone fills a narrow link for some tenths of a second."""
BASE_MS = 15_000.0
"""Milliseconds whose fastest packet is taken for one without a queue: clocks drift, ways change."""
QUEUE_MS = (150.0, 60.0)
"""Milliseconds that make a long queue and a short one; below that the rate grows."""
RATE_MS = 500.0
"""Milliseconds over which the incoming rate is measured."""
START_KBPS = 600.0
"""kbit/s: what Chromium is told with the first packets. It believes higher ones in its first two
seconds alone; later it climbs by 8 % a second, whatever it is told."""
FLOOR_KBPS, CEILING_KBPS = 50.0, 5000.0
"""kbit/s that are told at least and at most."""
GROWTH = (3.0, 1.15)
"""Growth of the rate in a second without a queue: where nobody knows of a limit or it is far off,
and near one."""
NEAR = 0.85
"""Of what came through the last full link, from where on that is near."""
MAX_LEAD = 2.5
"""The rate told may be so much above what comes, plus `START_KBPS`: a sender that sends less than
it may proves nothing."""
EMPTIED_IN_MS = 1000.0
"""Milliseconds in which a queue is to be gone after the rate was lowered."""
LEAST_SHARE, MOST_SHARE = 0.4, 0.95
"""Of what came through a full link: what is told, by the length of its queue."""
REST_MS = 2000.0
"""Milliseconds in which the rest of a queue may come thinned out, which is no narrower link."""
MOST_SOURCES = 16
"""Streams that a rate is told for; REMB has room for 255, and a call has two or three."""
DECIDE_MS, TELL_MS = 100.0, 500.0
"""Milliseconds from one decision to the next; from telling a rate to telling the same again."""
HOLD_MS = 400.0
"""Milliseconds from lowering the rate to lowering it again: as long as it takes to be heard."""


class BandwidthEstimate:
    """Stands in for `aiortc.rate.RemoteBitrateEstimator`: what REMB is to tell the sender.

    aiortc's takes every late packet for a full link, so a busy computer alone brings a sender down
    to 30 kbit/s. This one takes the fastest packet of each tenth of a second, and lowers the rate
    only for a queue that stays.

    Attributes:
        kbps: what the sender should send at most.
    """

    def __init__(self) -> None:
        self.kbps = START_KBPS
        self._ssrcs: set[int] = set()
        self._sent = _Unwrapped()
        self._slots: deque[tuple[float, float]] = deque()  # (when it began, least delay), ms
        self._bytes: deque[tuple[float, int]] = deque()  # (arrival in ms, size)
        self._decided = self._told = -float("inf")
        self._told_kbps = 0.0
        self._lowered = -float("inf")
        self._began = float("inf")
        self._passed_kbps = float("inf")  # through the link when it was full last
        self._full_since: float | None = None  # ms; None while it is empty

    @property
    def link_was_full(self) -> bool:
        """Whether a queue has stood so far."""
        return self._passed_kbps < float("inf")

    @property
    def queue_ms(self) -> float:
        """Milliseconds that even the fastest of the latest packets waited somewhere."""
        return self._standing_ms(SLOTS[0])

    def add(
        self, arrival_time_ms: int, abs_send_time: int, payload_size: int, ssrc: int
    ) -> tuple[int, list[int]] | None:
        """Takes a packet; returns bit/s and SSRCs when it is time to tell the sender.

        Args:
            arrival_time_ms: by any clock that goes on steadily.
            abs_send_time: of the packet's header extension: 24 bits of 2^-18 s.
            payload_size: in bytes.
            ssrc: the packet's.
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
        elapsed_ms = min(now - self._decided, 1000.0) if self._told_kbps else 0.0
        self._decided = now
        self._decide(now, elapsed_ms)
        if abs(self.kbps / max(self._told_kbps, 1.0) - 1) < 0.02 and now - self._told < TELL_MS:
            return None
        self._told, self._told_kbps = now, self.kbps
        return round(1000 * self.kbps), sorted(self._ssrcs)

    def _incoming_kbps(self, now: float, within_ms: float) -> float:
        """What came in the last so many milliseconds, `RATE_MS` at most."""
        span = min(within_ms, max(now - self._began, DECIDE_MS))
        return 8 * sum(size for at, size in self._bytes if at > now - span) / span  # bit/ms

    def _standing_ms(self, slots: int) -> float:
        """Milliseconds that even the fastest packet of so many slots waited."""
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
                # What came before the queue came through another link.
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
    """A clock that begins anew every `WRAP_MS`, counted on."""

    def __init__(self) -> None:
        self._offset: float | None = None  # of the counted clock from that of the arrivals

    def at(self, value: float, now: float) -> float:
        """The counted time that is nearest to what `now` makes expect."""
        if self._offset is None:
            self._offset = value - now
        expected = now + self._offset
        return value + round((expected - value) / WRAP_MS) * WRAP_MS
