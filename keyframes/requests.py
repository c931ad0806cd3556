"""Decides when to ask the sender for a better reference, within the call's budget."""

import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

RequestKind: TypeAlias = Literal["still", "pli"]
"""A still outside the stream, or an I-frame in it (RTCP's Picture Loss Indication)."""

FAR = 20.0
"""Landmark distance in crop pixels (2.4 a landmark) above which a nearer reference helps more."""
GOOD_QP = 28.0
"""A face of lower QP is a high-quality input: a reference is not worth its bits."""
SETTLED = 0.2
"""Seconds for which a face must keep a far pose before a reference is requested; a blink is
shorter."""
AS_STILL = 20.0
"""Change of the distance in crop pixels above which a face is considered to have changed pose."""
UNSEEN = 0.5
"""Seconds without a decision after which the duration of the pose is forgotten."""
WORST_QP = 38.0
"""QP above which the sender has so few bits that an I-frame would be worse than the frames now."""

BUDGET_WINDOW = 60.0
"""Seconds over which the budget is kept."""
TIME_OUT = 12.0
"""Seconds after which an answer no longer counts."""
GAP: dict[RequestKind, float] = {"still": 2.0, "pli": 5.0}
"""Minimum seconds between two requests; a PLI lowers the stream's quality for a second or two."""
LONGEST_BACKOFF: dict[RequestKind, float] = {"still": 60.0, "pli": 600.0}
"""Maximum seconds between two requests after failures. An encoder whose I-frames were worse than
their predecessors is unlikely to make better ones, and each one lowers the stream's quality."""
MOST_USELESS = 3
"""Maximum number of refused stills in a row that lengthen the pause before the next request."""
EMPTY_SHARE = 0.5
"""Share of the budget that a face without any reference may use as fast as it can."""
LARGEST = 8_000
"""Largest still that is requested, in bytes: a face of 250 px in good quality. More stills help
more than larger ones."""
SMALLEST = 6_000
"""Smallest still, in bytes, that is worth a request."""
I_FRAME_BYTES = 12_000
"""Expected bytes of an I-frame, until the call has had a larger one."""


@dataclass(frozen=True)
class Budget:
    """Limits what references may cost in any window of 60 s.

    Attributes:
        kbps: average kbit/s, counting every bit of a reference.
        requests: number of requests.
    """

    kbps: float = 20.0
    requests: int = 20


@dataclass(frozen=True)
class ReferenceNeed:
    """What a face lacks in references.

    Attributes:
        distance: landmark distance in crop pixels to the nearest reference that is much better than
            the face; None if there is none.
        qp: QP of the face, see `crop_qp`; None if unknown.
    """

    distance: float | None
    qp: float | None


@dataclass(frozen=True)
class Request:
    """A request for a reference: its kind and the maximum size of the answer in bytes."""

    kind: RequestKind
    max_bytes: int


@dataclass(frozen=True, slots=True)
class _Spending:
    end: float  # seconds: when its last byte arrived
    size_bytes: int


class RequestPolicy:
    """Decides when to ask for a reference. Has no clock: every call passes the time in seconds.

    A request reserves its `max_bytes` until `arrived` or `failed` reports the real size, or until
    `TIME_OUT`, when it is charged in full. A request is made only if the last 60 s and the
    reservation together stay within the budget. A still is never larger than its `max_bytes`. An
    I-frame is as large as the sender makes it, so the size of the largest one in the call, at least
    `I_FRAME_BYTES`, is reserved.

    If the transport ignores answers after `TIME_OUT`, the policy guarantees the following, whether
    an answer is counted at the time of its request or of its arrival:

    - A window of 60 s stays within the budget, unless its newest answer is an I-frame larger than
      every one before its request; then it exceeds the budget by that difference at most.
    - No further I-frame is requested until the budget has room for one of that size; if that is
      more than the budget of a whole window, none is requested in this call.
    - So those differences add up to less than the call's largest I-frame.

    Only references are counted. I-frames that repair damage are requested elsewhere, regardless of
    the budget (`receiver.calls.requester`, `receiver.transport.receiving`).

    The budget is spent fast at first and increasingly slowly later, see `_pause`.

    Attributes:
        excess_bytes: bytes that arrived beyond what was requested; charged like all others.
    """

    def __init__(self, budget: Budget = Budget()) -> None:
        """Raises ValueError for a budget that is negative or not finite."""
        if not (math.isfinite(budget.kbps) and budget.kbps >= 0 and budget.requests >= 0):
            raise ValueError(
                f"{budget} is not a valid budget: both limits must be finite and at least 0"
            )
        self.excess_bytes = 0
        self._window_bytes = math.floor(budget.kbps * 1000 / 8 * BUDGET_WINDOW)
        self._window_requests = budget.requests
        self._spendings: deque[_Spending] = deque()  # of the last window, oldest first
        self._spent = 0  # their sum in bytes
        self._largest_i_frame = I_FRAME_BYTES
        self._outstanding: Request | None = None
        self._asked = -math.inf  # seconds
        self._failures = 0  # since the last answer
        self._useless = 0  # stills refused since the last one that became a reference
        self._ended = -math.inf
        self._pose: tuple[float, float] | None = None  # seconds since when, distance then
        self._looked = -math.inf

    def decide(
        self, now: float, need: ReferenceNeed, kinds: Collection[RequestKind]
    ) -> Request | None:
        """Returns the request to send now, which then counts as sent; None if there is none.

        Call it for every frame, with the need of the face that references should help.

        Args:
            now: time in seconds, never earlier than in the previous call.
            need: what that face lacks.
            kinds: the kinds that the sender offers; a still is preferred.
        """
        self._bring_up_to(now)
        if not self._is_wanted(now, need) or self._outstanding is not None or not kinds:
            return None
        kind: RequestKind = "still" if "still" in kinds else "pli"
        if kind == "pli" and (need.qp is None or need.qp > WORST_QP):
            return None
        left = self._window_bytes - self._spent
        least = SMALLEST if kind == "still" else self._largest_i_frame
        if left < least or len(self._spendings) >= self._window_requests:
            return None
        pause, backoff = self._pause(kind, need), self._backoff(kind)
        if now < max(self._asked + pause, self._ended + backoff):
            return None
        self._asked = now
        self._outstanding = Request(kind, min(LARGEST, left) if kind == "still" else least)
        return self._outstanding

    def saw_keyframe(self, size_bytes: int) -> None:
        """Records the size of an I-frame of the stream, requested or not."""
        self._largest_i_frame = max(self._largest_i_frame, size_bytes)

    def arrived(self, now: float, size_bytes: int) -> None:
        """Records the answer to the outstanding request. Raises ValueError for a negative size.

        Bytes without an outstanding request are charged as well.
        """
        self._bring_up_to(now)
        self._end_request(now, size_bytes, failed=False)

    def failed(self, now: float, size_bytes: int) -> None:
        """Records that the outstanding request was refused, or broke off after `size_bytes`.

        Raises ValueError for a negative size.
        """
        self._bring_up_to(now)
        self._end_request(now, size_bytes, failed=True)

    def judged(self, now: float, *, useful: bool) -> None:
        """Records whether a still that had arrived became a reference.

        A refused still counts like a failure: a sender whose stills are useless is asked rarely.
        """
        self._bring_up_to(now)
        self._useless = 0 if useful else self._useless + 1
        if not useful:
            self._ended = now

    def _bring_up_to(self, now: float) -> None:
        """Ends a request that has timed out and forgets the costs that have left the window."""
        if self._outstanding is not None and now >= self._asked + TIME_OUT:
            self._end_request(self._asked + TIME_OUT, self._outstanding.max_bytes, failed=True)
        while self._spendings and self._spendings[0].end < now - BUDGET_WINDOW:
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
        """Returns whether a reference is missing, or too far from a pose that has settled."""
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
        """Returns the seconds from one request to the next, so that later poses get a share.

        They are the cube of the spent share of the budget times the window: with 8 kB stills and
        the default budget the first seven requests are 2 s apart, then 3, 5, 7, 9 and 12 s pass.
        Until half of the budget is spent, a face without any reference waits for `GAP` only.
        """
        requests = len(self._spendings) / self._window_requests
        share = max(requests, self._spent / self._window_bytes)
        if kind == "still" and need.distance is None and share < EMPTY_SHARE:
            return GAP[kind]
        return max(GAP[kind], share**3 * BUDGET_WINDOW)

    def _backoff(self, kind: RequestKind) -> float:
        """Returns the seconds to wait after failed requests or refused stills.

        They are 2, 4, 8 ... gaps. Refused stills alone double the gap `MOST_USELESS` times at most,
        because the next still may be better than a stream that has become worse.
        """
        doublings = self._failures + min(self._useless, MOST_USELESS)
        doubled: float = GAP[kind] * 2.0 ** min(doublings, 10)
        return min(doubled, LONGEST_BACKOFF[kind]) if doublings else 0.0
