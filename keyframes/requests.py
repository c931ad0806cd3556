"""When to ask the sender for a better reference: rarely enough for the call's budget."""

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

RequestKind: TypeAlias = Literal["still", "pli"]
"""A still beside the stream, or an I-frame in it (RTCP's Picture Loss Indication)."""

FAR = 20.0
"""Landmark distance in crop pixels (4 a landmark) beyond which a nearer reference helps more."""
GOOD_QP = 28.0
"""Below it a face has come so well that no reference is worth its bits."""
SETTLED = 0.2
"""Seconds for which a face keeps its far pose before a reference is asked for: no blink does."""
AS_STILL = 20.0
"""Change of the distance in crop pixels by which a face counts as having moved on."""
UNSEEN = 0.5
"""Seconds without a decision after which nothing is known of how long a pose has lasted."""
WORST_QP = 38.0
"""Above it the sender has so few bits that an I-frame would be worse than what is there."""

WINDOW = 60.0
"""Seconds over which a budget is kept."""
TIME_OUT = 12.0
"""Seconds after which an answer does not count as one any more."""
GAP: dict[RequestKind, float] = {"still": 2.0, "pli": 5.0}
"""Seconds between two requests at least; a PLI costs the stream quality for one or two."""
LONGEST_BACKOFF: dict[RequestKind, float] = {"still": 60.0, "pli": 600.0}
"""Seconds between two requests, however often they failed: an encoder whose key frames were worse
than the pictures before them will hardly make better ones, and each spoils its stream a little."""
MOST_USELESS = 3
"""Stills refused in a row that make the pause before the next request longer."""
EMPTY_SHARE = 0.5
"""Of the budget: what a face without any reference may use as fast as it can."""
LARGEST = 8_000
"""Bytes of a still at most: a face of 250 px in good quality. More stills bring more than larger
ones."""
SMALLEST = 6_000
"""Bytes below which a still is not worth its request."""
KEYFRAME = 12_000
"""Bytes that an I-frame is expected to take, before a larger one was seen in the call."""


@dataclass(frozen=True)
class Budget:
    """What references may cost in any window of 60 s.

    Attributes:
        kbps: kbit/s on average, every bit of a reference counted.
        requests: how many of them.
    """

    kbps: float = 20.0
    requests: int = 20


@dataclass(frozen=True)
class ReferenceNeed:
    """How well a face is served now.

    Attributes:
        distance: landmark distance in crop pixels to the nearest reference that is much better;
            None if there is none.
        qp: mean luma QP of the face, None where unknown.
    """

    distance: float | None
    qp: float | None


@dataclass(frozen=True)
class Request:
    """What to ask for: which kind, and how many bytes the answer may have."""

    kind: RequestKind
    max_bytes: int


@dataclass(frozen=True, slots=True)
class _Spending:
    end: float  # seconds: when its last byte had come
    size_bytes: int


class RequestPolicy:
    """Decides when to ask for a reference. Has no clock: every call gives the time in seconds.

    A request reserves its `max_bytes` until `arrived` or `failed` reports the real size, or until
    `TIME_OUT`, when it is charged in full. It is made only if the last 60 s and the reservation
    together stay within the budget. A still is never larger than its `max_bytes`. An I-frame is as
    large as the sender makes it, so the largest one seen in the call, or `KEYFRAME`, is reserved.

    What is promised, if the transport ignores answers that come after `TIME_OUT`, and whether an
    answer is counted when it was asked for or when it came:

    - A window of 60 s holds no more than the budget, unless its newest answer is an I-frame larger
      than every one before its request; then it holds more by that difference at most.
    - No further I-frame is asked for until the budget has room for one of that size; if that is
      more than the budget of a whole window, none is asked for in this call.
    - So those differences add up to less than the call's largest I-frame.

    Only references are counted: key frames that repair damage are asked for by others, whatever the
    budget (`receiver.calls.requester`, `receiver.transport.receiving`).

    The budget is spent fast at first, more and more slowly then: see `_pause`.

    Attributes:
        excess_bytes: that came beyond what was asked for; charged like all others.
    """

    def __init__(self, budget: Budget = Budget()) -> None:
        """Raises ValueError for a budget that is negative or no number."""
        if not (math.isfinite(budget.kbps) and budget.kbps >= 0 and budget.requests >= 0):
            raise ValueError(f"{budget} is no budget")
        self.excess_bytes = 0
        self._window_bytes = math.floor(budget.kbps * 1000 / 8 * WINDOW)
        self._window_requests = budget.requests
        self._spendings: deque[_Spending] = deque()  # of the last window, oldest first
        self._spent = 0  # their sum
        self._largest_keyframe = KEYFRAME
        self._outstanding: Request | None = None
        self._asked = -math.inf
        self._failures = 0  # since the last answer
        self._useless = 0  # stills refused since the last one that became a reference
        self._ended = -math.inf
        self._pose: tuple[float, float] | None = None  # seconds since when, distance then
        self._looked = -math.inf

    def decide(
        self, now: float, need: ReferenceNeed, kinds: Collection[RequestKind]
    ) -> Request | None:
        """Whether to ask now; what it returns counts as asked.

        To be called for every frame, with the face that is to be helped.

        Args:
            now: seconds, never less than before.
            kinds: those that the sender offers; a still is preferred.
        """
        self._bring_up_to(now)
        if not self._is_wanted(now, need) or self._outstanding is not None or not kinds:
            return None
        kind: RequestKind = "still" if "still" in kinds else "pli"
        if kind == "pli" and (need.qp is None or need.qp > WORST_QP):
            return None
        left = self._window_bytes - self._spent
        least = SMALLEST if kind == "still" else self._largest_keyframe
        if left < least or len(self._spendings) >= self._window_requests:
            return None
        pause, backoff = self._pause(kind, need), self._backoff(kind)
        if now < max(self._asked + pause, self._ended + backoff):
            return None
        self._asked = now
        self._outstanding = Request(kind, min(LARGEST, left) if kind == "still" else least)
        return self._outstanding

    def saw_keyframe(self, size_bytes: int) -> None:
        """Takes the size of any I-frame of the stream, asked for or not."""
        self._largest_keyframe = max(self._largest_keyframe, size_bytes)

    def arrived(self, now: float, size_bytes: int) -> None:
        """The answer to the outstanding request came. Raises ValueError for a negative size.

        Bytes for which there is no outstanding request are charged all the same.
        """
        self._bring_up_to(now)
        self._end_request(now, size_bytes, failed=False)

    def failed(self, now: float, size_bytes: int) -> None:
        """The outstanding request was refused, or broke off after `size_bytes`.

        Raises ValueError for a negative size.
        """
        self._bring_up_to(now)
        self._end_request(now, size_bytes, failed=True)

    def judged(self, now: float, *, useful: bool) -> None:
        """A still that had arrived became a reference, or was refused as one.

        Refused ones count like failures: a sender whose stills are of no use is asked rarely.
        """
        self._bring_up_to(now)
        self._useless = 0 if useful else self._useless + 1
        if not useful:
            self._ended = now

    def _bring_up_to(self, now: float) -> None:
        """Ends a request that timed out, and forgets what has left the window."""
        if self._outstanding is not None and now >= self._asked + TIME_OUT:
            self._end_request(self._asked + TIME_OUT, self._outstanding.max_bytes, failed=True)
        while self._spendings and self._spendings[0].end < now - WINDOW:
            self._spent -= self._spendings.popleft().size_bytes

    def _end_request(self, end: float, size_bytes: int, *, failed: bool) -> None:
        if size_bytes < 0:
            raise ValueError(f"{size_bytes} bytes")
        request, self._outstanding = self._outstanding, None
        if request and request.kind == "pli":
            self.saw_keyframe(size_bytes)
        self.excess_bytes += max(0, size_bytes - (request.max_bytes if request else 0))
        if request or size_bytes:
            self._spendings.append(_Spending(end, size_bytes))
            self._spent += size_bytes
        if request:
            self._failures = self._failures + 1 if failed else 0
            self._ended = end

    def _is_wanted(self, now: float, need: ReferenceNeed) -> bool:
        """Whether no reference helps, or only a far one for as long as the pose has settled."""
        if now > self._looked + UNSEEN:
            self._pose = None
        self._looked = now
        if need.qp is not None and need.qp < GOOD_QP:
            self._pose = None
            return False
        if need.distance is None or need.distance <= FAR:
            self._pose = None
            return need.distance is None
        if self._pose is None or abs(need.distance - self._pose[1]) > AS_STILL:
            self._pose = now, need.distance
        return now >= self._pose[0] + SETTLED

    def _pause(self, kind: RequestKind, need: ReferenceNeed) -> float:
        """Seconds from one request to the next, so that something is left for later poses.

        The cube of the part of the budget that is spent, times the window: of 8 kB stills and the
        default budget the first seven come 2 s apart, then 3, 5, 7, 9 and 12 s pass.
        Stills for a face without any reference do not wait until half of the budget is spent.
        """
        requests = len(self._spendings) / self._window_requests
        share = max(requests, self._spent / self._window_bytes)
        if kind == "still" and need.distance is None and share < EMPTY_SHARE:
            return GAP[kind]
        return max(GAP[kind], share**3 * WINDOW)

    def _backoff(self, kind: RequestKind) -> float:
        """Seconds from requests that failed, or whose stills were refused, to the next.

        2, 4, 8 ... gaps; refused stills alone `MOST_USELESS` doublings at most, since the next one
        may be better than a stream that has become worse.
        """
        doublings = self._failures + min(self._useless, MOST_USELESS)
        doubled: float = GAP[kind] * 2.0 ** min(doublings, 10)
        return min(doubled, LONGEST_BACKOFF[kind]) if doublings else 0.0
