"""Tests each rule of the request policy, and its budget for random courses of a call."""

import math
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyframes import Budget, ReferenceNeed, Request, RequestPolicy
from keyframes.requests import (
    BUDGET_WINDOW,
    FAR,
    GAP,
    I_FRAME_BYTES,
    LARGEST,
    MOST_USELESS,
    SETTLED,
    SMALLEST,
    TIME_OUT,
    WORST_QP,
)

EMPTY = ReferenceNeed(None, 30.0)
GOOD = ReferenceNeed(10.0, 30.0)
POSED = ReferenceNeed(FAR + 50, 30.0)
AMPLE = Budget(kbps=1000.0, requests=1000)


def requests_during(
    policy: RequestPolicy, need: ReferenceNeed, seconds: tuple[float, float], kinds=("still", "pli")
):
    """Passes `need` at 30 fps in [start, end); returns the requests with their times."""
    frames = range(math.ceil(seconds[0] * 30), math.ceil(seconds[1] * 30))
    asked = [(i / 30, policy.decide(i / 30, need, kinds)) for i in frames]
    return [(now, request) for now, request in asked if request is not None]


def test_a_face_without_reference_requests_a_still_at_once_or_else_a_pli():
    assert RequestPolicy().decide(0.0, EMPTY, ["pli", "still"]) == Request("still", LARGEST)
    assert RequestPolicy().decide(0.0, EMPTY, ["pli"]) == Request("pli", I_FRAME_BYTES)
    assert RequestPolicy().decide(0.0, EMPTY, []) is None


def test_no_request_for_a_static_face_with_a_good_reference():
    assert requests_during(RequestPolicy(), GOOD, (0, 100)) == []
    assert requests_during(RequestPolicy(), ReferenceNeed(FAR, None), (0, 100)) == []


def test_a_far_pose_is_requested_once_it_has_settled():
    (first, request), *more = requests_during(RequestPolicy(), POSED, (5, 8))
    assert first == pytest.approx(5 + SETTLED, abs=0.04)
    assert (request.kind, more) == ("still", [])


def test_no_request_for_a_blink():
    policy = RequestPolicy()
    for second in range(20):
        assert requests_during(policy, GOOD, (second, second + 0.85)) == []
        assert requests_during(policy, POSED, (second + 0.85, second + 1)) == []


def test_no_request_while_a_pose_moves_on():
    policy = RequestPolicy()
    turning = [
        policy.decide(i / 30, ReferenceNeed(FAR + 6 * i, 30.0), ["still"]) for i in range(1, 30)
    ]
    assert turning == [None] * 29
    assert len(requests_during(policy, ReferenceNeed(FAR + 6 * 29, 30.0), (1, 1.4))) == 1


def test_two_decisions_far_apart_do_not_make_a_settled_pose():
    policy = RequestPolicy()
    assert policy.decide(0.0, POSED, ["still"]) is None
    assert policy.decide(5.0, POSED, ["still"]) is None


def test_one_request_at_a_time_until_it_times_out_and_is_charged_in_full():
    policy = RequestPolicy(Budget(kbps=14_000 * 8 / BUDGET_WINDOW / 1000))
    assert policy.decide(0.0, EMPTY, ["still"]) == Request("still", LARGEST)
    assert requests_during(policy, EMPTY, (0.1, TIME_OUT)) == []
    # 6,000 of 14,000 bytes are left, and a failed request is not repeated at once.
    (again, request), *more = requests_during(policy, EMPTY, (TIME_OUT, 80), ["still"])
    assert again == pytest.approx(TIME_OUT + 2 * GAP["still"], abs=0.04)
    assert (request.max_bytes, more[0][1].max_bytes) == (6_000, LARGEST)
    assert more[0][0] >= TIME_OUT + BUDGET_WINDOW


def test_an_answer_after_the_time_out_is_charged_on_top():
    policy = RequestPolicy()
    policy.decide(0.0, EMPTY, ["still"])
    policy.arrived(TIME_OUT + 1, 30_000)
    assert policy.excess_bytes == 30_000
    assert policy._spent == LARGEST + 30_000


def test_the_real_size_replaces_the_reservation_and_a_larger_one_is_reported():
    policy = RequestPolicy()
    policy.decide(0.0, EMPTY, ["still"])
    policy.arrived(1.0, 7_000)
    assert (policy._spent, policy.excess_bytes) == (7_000, 0)
    policy.decide(10.0, EMPTY, ["still"])
    policy.arrived(11.0, LARGEST + 500)
    assert (policy._spent, policy.excess_bytes) == (7_000 + LARGEST + 500, 500)


@pytest.mark.parametrize("kind", ["still", "pli"])
def test_requests_keep_a_gap(kind):
    policy = RequestPolicy(AMPLE)
    assert policy.decide(0.0, EMPTY, [kind]).kind == kind
    policy.arrived(0.1, 20_000)
    ((again, _),) = requests_during(policy, EMPTY, (0.1, GAP[kind] + 0.5), [kind])
    assert again == pytest.approx(GAP[kind], abs=0.04)


def test_refused_stills_double_the_pause_until_one_is_useful():
    policy, frame, pauses = RequestPolicy(AMPLE), 0, []
    for useful in (True, False, False, False, False, True, True):
        last = frame
        while policy.decide(frame / 30, EMPTY, ["still"]) is None:
            frame += 1
        pauses.append((frame - last) / 30)
        policy.arrived(frame / 30, 100)
        policy.judged(frame / 30, useful=useful)
    gap = GAP["still"]
    longest = gap * 2**MOST_USELESS
    assert pauses == pytest.approx([0, gap, 2 * gap, 4 * gap, longest, longest, gap], abs=0.04)


def test_failures_double_the_pause_up_to_a_minute_until_an_answer():
    policy = RequestPolicy(AMPLE)
    frame, pauses = 0, []
    policy.decide(0.0, EMPTY, ["still"])
    for _ in range(8):
        failed = frame
        policy.failed(frame / 30, 0)
        while policy.decide(frame / 30, EMPTY, ["still"]) is None:
            frame += 1
        pauses.append((frame - failed) / 30)
    assert pauses == pytest.approx([4, 8, 16, 32, 60, 60, 60, 60], abs=0.04)
    policy.arrived(frame / 30, 20_000)
    assert requests_during(policy, EMPTY, (frame / 30, frame / 30 + GAP["still"] + 0.1), ["still"])


def test_no_pli_if_an_i_frame_would_be_worse():
    for qp in (None, WORST_QP + 0.5):
        assert RequestPolicy().decide(0.0, ReferenceNeed(None, qp), ["pli"]) is None
        assert (
            RequestPolicy().decide(0.0, ReferenceNeed(None, qp), ["pli", "still"]).kind == "still"
        )
    assert RequestPolicy().decide(0.0, ReferenceNeed(None, WORST_QP), ["pli"]).kind == "pli"


@pytest.mark.parametrize("budget", [Budget(kbps=0), Budget(requests=0), Budget(kbps=0.75)])
def test_no_request_with_a_budget_too_small_for_a_still(budget):
    assert requests_during(RequestPolicy(budget), EMPTY, (0, 100)) == []


@pytest.mark.parametrize(
    "budget", [Budget(kbps=-1), Budget(kbps=math.nan), Budget(kbps=math.inf), Budget(requests=-1)]
)
def test_an_invalid_budget_is_refused(budget):
    with pytest.raises(ValueError, match="budget"):
        RequestPolicy(budget)


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="-1 bytes"):
        RequestPolicy().arrived(0.0, -1)


def test_useless_answers_leave_part_of_the_budget_for_later():
    policy = RequestPolicy()
    asked = 0
    for i in range(20 * 30):
        if policy.decide(i / 30, EMPTY, ["still"]):
            asked += 1
            policy.arrived(i / 30, 30_000)
    assert 2 <= asked <= 4


def test_a_face_that_turns_between_five_poses_gets_about_five_stills():
    policy = RequestPolicy()
    known: set[int] = set()
    asked: list[float] = []
    answer: tuple[float, int] | None = None
    for i in range(300 * 30):
        now = i / 30
        pose = int(now / 3) % 5
        if answer and now >= answer[0]:
            policy.arrived(now, 28_000)
            known.add(answer[1])
            answer = None
        distance = min((abs(pose - one) * 120.0 for one in known), default=None)
        if policy.decide(now, ReferenceNeed(distance, 32.0), ["still"]):
            asked.append(now)
            answer = now + 0.6, pose
    assert known == set(range(5))
    assert 5 <= len(asked) <= 6
    assert asked[1] < 10
    assert asked[-1] < 120


# Times in 64ths of a second are exact, so the policy and the test see the same windows.
STEPS = st.lists(
    st.tuples(
        st.sampled_from([2, 13, 64, 200, 400, 640, 900]),  # 64ths until this step
        st.sampled_from(["decide", "decide", "decide", "arrived", "arrived", "failed", "i-frame"]),
        st.sampled_from([None, 200.0, 205.0, 5.0]),
        st.sampled_from([30.0, 38.0, 45.0, None]),
        st.sampled_from([("still",), ("still", "pli"), ("pli",), ("pli",), ()]),
        st.sampled_from([1.0, 0.9, 0.4, 0.0]),  # share of the bytes that a still may have
        st.sampled_from([0, 4_000, 12_000, 12_001, 30_000, 60_000, 110_000, 149_000, 200_000]),
    ),
    min_size=60,
    max_size=120,
)
BUDGETS = st.builds(Budget, st.sampled_from([2.0, 5.0, 20.0, 100.0]), st.integers(0, 12))


@dataclass
class Cost:
    """The cost of one request; `expected` is the size of the largest I-frame before it."""

    asked: float
    ended: float
    size: int
    kind: str
    expected: int


def assert_within(budget: Budget, costs: list[Cost]) -> None:
    """Checks the guarantees of `RequestPolicy` from the costs alone."""
    window_bytes = budget.kbps * 1000 / 8 * BUDGET_WINDOW
    excess = 0
    for moment in ("asked", "ended"):
        for newest in costs:
            end = getattr(newest, moment)
            window = [one for one in costs if end - BUDGET_WINDOW <= getattr(one, moment) <= end]
            surprise = max(0, newest.size - newest.expected) if newest.kind == "pli" else 0
            assert sum(one.size for one in window) <= window_bytes + surprise
            assert len(window) <= budget.requests
    for one in costs:
        if one.kind == "pli":
            assert one.expected <= window_bytes  # otherwise it is not requested
            excess += max(0, one.size - one.expected)
    assert excess <= max(0, max((one.size for one in costs), default=0) - I_FRAME_BYTES)


class Sender:
    """Drives a policy and keeps the cost of each request."""

    def __init__(self, budget: Budget) -> None:
        self.policy = RequestPolicy(budget)
        self.costs: list[Cost] = []
        self.outstanding: tuple[float, Request, int] | None = None
        self.largest = I_FRAME_BYTES

    def decide(self, now: float, need: ReferenceNeed, kinds) -> None:
        self.time_out(now)
        request = self.policy.decide(now, need, kinds)
        if request:
            assert self.outstanding is None
            assert request.kind in kinds
            least = SMALLEST if request.kind == "still" else self.largest
            assert least <= request.max_bytes <= max(LARGEST, self.largest)
            self.outstanding = now, request, self.largest

    def time_out(self, now: float) -> None:
        if self.outstanding and now >= self.outstanding[0] + TIME_OUT:
            self._end(self.outstanding[0] + TIME_OUT, self.outstanding[1].max_bytes)

    def answer(self, now: float, part: float, i_frame_bytes: int, *, failed: bool) -> None:
        self.time_out(now)
        if self.outstanding:
            request = self.outstanding[1]
            size = i_frame_bytes if request.kind == "pli" else int(part * request.max_bytes)
            (self.policy.failed if failed else self.policy.arrived)(now, size)
            self._end(now, size)

    def saw_keyframe(self, size: int) -> None:
        self.largest = max(self.largest, size)
        self.policy.saw_keyframe(size)

    def _end(self, now: float, size: int) -> None:
        asked, request, expected = self.outstanding
        self.costs.append(Cost(asked, now, size, request.kind, expected))
        self.outstanding = None
        if request.kind == "pli":
            self.largest = max(self.largest, size)


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.large_base_example])
@given(steps=STEPS, budget=BUDGETS)
def test_no_window_exceeds_the_guarantees(steps, budget):
    sender, now = Sender(budget), 0.0
    for ticks, event, distance, qp, kinds, part, i_frame_bytes in steps:
        now += ticks / 64
        if event == "decide":
            sender.decide(now, ReferenceNeed(distance, qp), kinds)
        elif event == "i-frame":
            sender.saw_keyframe(i_frame_bytes)
        else:
            sender.answer(now, part, i_frame_bytes, failed=event == "failed")
    assert_within(budget, sender.costs)


@pytest.mark.parametrize("kinds", [("still", "pli"), ("pli",)])
@pytest.mark.parametrize("largest", [12_000, 60_000, 200_000])
@pytest.mark.parametrize("seed", range(3))
def test_an_hour_of_a_restless_call_stays_within_the_budget(seed, largest, kinds):
    random, sender = Random(seed), Sender(Budget())
    need = EMPTY
    for tick in range(0, 3600 * 64, 8):
        now = tick / 64
        if random.random() < 0.02:
            need = ReferenceNeed(random.choice([None, 5.0, 100.0, 300.0]), random.uniform(20, 50))
        if random.random() < 0.1:
            size = random.randint(largest // 4, largest)
            sender.answer(now, random.random(), size, failed=random.random() > 0.8)
        sender.decide(now, need, kinds)
    assert_within(Budget(), sender.costs)
    if "still" in kinds:
        assert len(sender.costs) > 60


def seconds_of_requests(policy: RequestPolicy, size: int, seconds: int) -> list[float]:
    """Returns when I-frames of `size` bytes were requested; each arrives at once."""
    asked = []
    for frame in range(seconds * 30):
        if policy.decide(frame / 30, EMPTY, ["pli"]):
            asked.append(frame / 30)
            policy.arrived(frame / 30, size)
    return asked


@pytest.mark.parametrize("size", [12_000, 13_000, 30_000, 60_000, 75_000])
def test_large_i_frames_are_requested_more_rarely(size):
    """I-frames of 60 kB took 24 kbit/s, because 12 kB were reserved for each."""
    asked = seconds_of_requests(RequestPolicy(), size, 600)
    for start in asked:
        assert sum(start <= one <= start + BUDGET_WINDOW for one in asked) * size <= 150_000
    assert len(asked) >= 2


def test_an_unexpectedly_large_i_frame_delays_the_next_request():
    policy = RequestPolicy()
    assert policy.decide(0.0, EMPTY, ["pli"]) == Request("pli", I_FRAME_BYTES)
    policy.arrived(0.125, 149_000)
    ((again, request),) = requests_during(policy, EMPTY, (0.125, 100), ["pli"])
    assert request == Request("pli", 149_000)
    assert again > 0.125 + BUDGET_WINDOW


@pytest.mark.parametrize("asked", [False, True])
def test_no_i_frame_larger_than_the_budget_of_a_minute_is_requested(asked):
    policy = RequestPolicy()
    if asked:
        assert seconds_of_requests(policy, 200_000, 600) == [0.0]
    else:
        policy.saw_keyframe(200_000)
    assert requests_during(policy, EMPTY, (600, 1500), ["pli"]) == []
    assert requests_during(
        policy, EMPTY, (1500, 1510), ["still"]
    )  # a still has no more bytes than requested


def test_after_a_large_first_i_frame_no_second_one_is_requested_within_the_minute():
    policy = RequestPolicy()
    policy.saw_keyframe(90_000)
    assert policy.decide(0.0, EMPTY, ["pli"]) == Request("pli", 90_000)
    policy.arrived(0.125, 70_000)
    ((again, _),) = requests_during(policy, EMPTY, (0.125, 70), ["pli"])
    assert again > 0.125 + BUDGET_WINDOW
