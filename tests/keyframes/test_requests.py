"""The request policy: rule by rule, and its budget against any course of a call."""

import math
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyframes import Budget, ReferenceNeed, Request, RequestPolicy
from keyframes.requests import (
    FAR,
    GAP,
    KEYFRAME,
    LARGEST,
    MOST_USELESS,
    SETTLED,
    SMALLEST,
    TIME_OUT,
    WINDOW,
    WORST_QP,
)

EMPTY = ReferenceNeed(None, 30.0)
GOOD = ReferenceNeed(10.0, 30.0)
POSED = ReferenceNeed(FAR + 50, 30.0)
AMPLE = Budget(kbps=1000.0, requests=1000)


def look(
    policy: RequestPolicy, need: ReferenceNeed, seconds: tuple[float, float], ways=("still", "pli")
):
    """Shows the policy `need` at 30 fps in [start, end); returns what it asked for, and when."""
    frames = range(math.ceil(seconds[0] * 30), math.ceil(seconds[1] * 30))
    asked = [(i / 30, policy.decide(i / 30, need, ways)) for i in frames]
    return [(now, request) for now, request in asked if request is not None]


def test_an_empty_set_asks_at_once_and_for_a_still_rather_than_a_pli():
    assert RequestPolicy().decide(0.0, EMPTY, ["pli", "still"]) == Request("still", LARGEST)
    assert RequestPolicy().decide(0.0, EMPTY, ["pli"]) == Request("pli", KEYFRAME)
    assert RequestPolicy().decide(0.0, EMPTY, []) is None


def test_a_static_face_with_a_good_reference_asks_for_nothing():
    assert look(RequestPolicy(), GOOD, (0, 100)) == []
    assert look(RequestPolicy(), ReferenceNeed(FAR, None), (0, 100)) == []


def test_a_far_pose_is_asked_for_once_it_has_settled():
    (first, request), *more = look(RequestPolicy(), POSED, (5, 8))
    assert first == pytest.approx(5 + SETTLED, abs=0.04)
    assert (request.kind, more) == ("still", [])


def test_a_blink_asks_for_nothing():
    policy = RequestPolicy()
    for second in range(20):
        assert look(policy, GOOD, (second, second + 0.85)) == []
        assert look(policy, POSED, (second + 0.85, second + 1)) == []


def test_a_pose_that_moves_on_asks_for_nothing_until_it_rests():
    policy = RequestPolicy()
    turning = [
        policy.decide(i / 30, ReferenceNeed(FAR + 6 * i, 30.0), ["still"]) for i in range(1, 30)
    ]
    assert turning == [None] * 29
    assert len(look(policy, ReferenceNeed(FAR + 6 * 29, 30.0), (1, 1.4))) == 1


def test_two_looks_far_apart_are_no_settled_pose():
    policy = RequestPolicy()
    assert policy.decide(0.0, POSED, ["still"]) is None
    assert policy.decide(5.0, POSED, ["still"]) is None


def test_one_request_at_a_time_until_it_times_out_and_is_charged_in_full():
    policy = RequestPolicy(Budget(kbps=14_000 * 8 / WINDOW / 1000))
    assert policy.decide(0.0, EMPTY, ["still"]) == Request("still", LARGEST)
    assert look(policy, EMPTY, (0.1, TIME_OUT)) == []
    # 6,000 bytes are left of 14,000, and what failed is not asked for again at once.
    (again, request), *more = look(policy, EMPTY, (TIME_OUT, 80), ["still"])
    assert again == pytest.approx(TIME_OUT + 2 * GAP["still"], abs=0.04)
    assert (request.max_bytes, more[0][1].max_bytes) == (6_000, LARGEST)
    assert more[0][0] >= TIME_OUT + WINDOW


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


@pytest.mark.parametrize("way", ["still", "pli"])
def test_requests_keep_their_distance(way):
    policy = RequestPolicy(AMPLE)
    assert policy.decide(0.0, EMPTY, [way]).kind == way
    policy.arrived(0.1, 20_000)
    ((again, _),) = look(policy, EMPTY, (0.1, GAP[way] + 0.5), [way])
    assert again == pytest.approx(GAP[way], abs=0.04)


def test_refused_stills_double_the_pause_until_one_is_of_use():
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


def test_failures_double_the_pause_up_to_a_minute_and_an_answer_ends_that():
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
    assert look(policy, EMPTY, (frame / 30, frame / 30 + GAP["still"] + 0.1), ["still"])


def test_no_pli_where_an_i_frame_would_be_worse():
    for qp in (None, WORST_QP + 0.5):
        assert RequestPolicy().decide(0.0, ReferenceNeed(None, qp), ["pli"]) is None
        assert (
            RequestPolicy().decide(0.0, ReferenceNeed(None, qp), ["pli", "still"]).kind == "still"
        )
    assert RequestPolicy().decide(0.0, ReferenceNeed(None, WORST_QP), ["pli"]).kind == "pli"


@pytest.mark.parametrize("budget", [Budget(kbps=0), Budget(requests=0), Budget(kbps=0.75)])
def test_a_budget_too_small_for_a_still_asks_for_nothing(budget):
    assert look(RequestPolicy(budget), EMPTY, (0, 100)) == []


@pytest.mark.parametrize(
    "budget", [Budget(kbps=-1), Budget(kbps=math.nan), Budget(kbps=math.inf), Budget(requests=-1)]
)
def test_nonsense_is_refused(budget):
    with pytest.raises(ValueError, match="budget"):
        RequestPolicy(budget)


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="-1 bytes"):
        RequestPolicy().arrived(0.0, -1)


def test_useless_answers_leave_something_for_later():
    policy = RequestPolicy()
    asked = 0
    for i in range(20 * 30):
        if policy.decide(i / 30, EMPTY, ["still"]):
            asked += 1
            policy.arrived(i / 30, 30_000)
    assert 2 <= asked <= 4


def test_a_face_that_turns_between_five_poses_gets_about_five_stills_and_then_rests():
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


# Times in 64ths of a second are exact, so a window is one for the policy and the test alike.
STEPS = st.lists(
    st.tuples(
        st.sampled_from([2, 13, 64, 200, 400, 640, 900]),  # 64ths until this step
        st.sampled_from(["look", "look", "look", "arrived", "arrived", "failed", "keyframe"]),
        st.sampled_from([None, 200.0, 205.0, 5.0]),
        st.sampled_from([30.0, 38.0, 45.0, None]),
        st.sampled_from([("still",), ("still", "pli"), ("pli",), ("pli",), ()]),
        st.sampled_from([1.0, 0.9, 0.4, 0.0]),  # of the bytes that a still may have
        st.sampled_from([0, 4_000, 12_000, 12_001, 30_000, 60_000, 110_000, 149_000, 200_000]),
    ),
    min_size=60,
    max_size=120,
)
BUDGETS = st.builds(Budget, st.sampled_from([2.0, 5.0, 20.0, 100.0]), st.integers(0, 12))


@dataclass
class Cost:
    """What one request has cost; `expected` is the largest I-frame seen before it."""

    asked: float
    ended: float
    size: int
    way: str
    expected: int


def assert_within(budget: Budget, costs: list[Cost]) -> None:
    """What `RequestPolicy` promises, counted from the costs alone."""
    window_bytes = budget.kbps * 1000 / 8 * WINDOW
    excess = 0
    for moment in ("asked", "ended"):
        for newest in costs:
            end = getattr(newest, moment)
            window = [one for one in costs if end - WINDOW <= getattr(one, moment) <= end]
            surprise = max(0, newest.size - newest.expected) if newest.kind == "pli" else 0
            assert sum(one.size for one in window) <= window_bytes + surprise
            assert len(window) <= budget.requests
    for one in costs:
        if one.kind == "pli":
            assert one.expected <= window_bytes  # else it is not asked for
            excess += max(0, one.size - one.expected)
    assert excess <= max(0, max((one.size for one in costs), default=0) - KEYFRAME)


class Sender:
    """Keeps what requests have cost while a policy is driven."""

    def __init__(self, budget: Budget) -> None:
        self.policy = RequestPolicy(budget)
        self.costs: list[Cost] = []
        self.outstanding: tuple[float, Request, int] | None = None
        self.largest = KEYFRAME

    def look(self, now: float, need: ReferenceNeed, ways) -> None:
        self.time_out(now)
        request = self.policy.decide(now, need, ways)
        if request:
            assert self.outstanding is None
            assert request.kind in ways
            least = SMALLEST if request.kind == "still" else self.largest
            assert least <= request.max_bytes <= max(LARGEST, self.largest)
            self.outstanding = now, request, self.largest

    def time_out(self, now: float) -> None:
        if self.outstanding and now >= self.outstanding[0] + TIME_OUT:
            self._end(self.outstanding[0] + TIME_OUT, self.outstanding[1].max_bytes)

    def answer(self, now: float, part: float, keyframe_bytes: int, *, failed: bool) -> None:
        self.time_out(now)
        if self.outstanding:
            request = self.outstanding[1]
            size = keyframe_bytes if request.kind == "pli" else int(part * request.max_bytes)
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


@settings(max_examples=200, suppress_health_check=[HealthCheck.large_base_example])
@given(steps=STEPS, budget=BUDGETS)
def test_no_window_holds_more_than_is_promised(steps, budget):
    sender, now = Sender(budget), 0.0
    for ticks, event, distance, qp, ways, part, keyframe_bytes in steps:
        now += ticks / 64
        if event == "look":
            sender.look(now, ReferenceNeed(distance, qp), ways)
        elif event == "keyframe":
            sender.saw_keyframe(keyframe_bytes)
        else:
            sender.answer(now, part, keyframe_bytes, failed=event == "failed")
    assert_within(budget, sender.costs)


@pytest.mark.parametrize("ways", [("still", "pli"), ("pli",)])
@pytest.mark.parametrize("largest", [12_000, 60_000, 200_000])
@pytest.mark.parametrize("seed", range(3))
def test_an_hour_of_a_restless_call_stays_within_the_budget(seed, largest, ways):
    random, sender = Random(seed), Sender(Budget())
    need = EMPTY
    for tick in range(0, 3600 * 64, 8):
        now = tick / 64
        if random.random() < 0.02:
            need = ReferenceNeed(random.choice([None, 5.0, 100.0, 300.0]), random.uniform(20, 50))
        if random.random() < 0.1:
            size = random.randint(largest // 4, largest)
            sender.answer(now, random.random(), size, failed=random.random() > 0.8)
        sender.look(now, need, ways)
    assert_within(Budget(), sender.costs)
    if "still" in ways:
        assert len(sender.costs) > 60


def seconds_of_requests(policy: RequestPolicy, size: int, seconds: int) -> list[float]:
    """When I-frames of `size` bytes were asked for; each comes at once."""
    asked = []
    for frame in range(seconds * 30):
        if policy.decide(frame / 30, EMPTY, ["pli"]):
            asked.append(frame / 30)
            policy.arrived(frame / 30, size)
    return asked


@pytest.mark.parametrize("size", [12_000, 13_000, 30_000, 60_000, 75_000])
def test_large_key_frames_come_more_rarely(size):
    """60 kB ones took 24 kbit/s, because 12 kB were reserved for each."""
    asked = seconds_of_requests(RequestPolicy(), size, 600)
    for start in asked:
        assert sum(start <= one <= start + WINDOW for one in asked) * size <= 150_000
    assert len(asked) >= 2


def test_a_surprise_is_paid_off_before_the_next_request():
    policy = RequestPolicy()
    assert policy.decide(0.0, EMPTY, ["pli"]) == Request("pli", KEYFRAME)
    policy.arrived(0.125, 149_000)
    ((again, request),) = look(policy, EMPTY, (0.125, 100), ["pli"])
    assert request == Request("pli", 149_000)
    assert again > 0.125 + WINDOW


@pytest.mark.parametrize("asked", [False, True])
def test_no_key_frame_is_asked_for_that_is_larger_than_a_minutes_budget(asked):
    policy = RequestPolicy()
    if asked:
        assert seconds_of_requests(policy, 200_000, 600) == [0.0]
    else:
        policy.saw_keyframe(200_000)
    assert look(policy, EMPTY, (600, 1500), ["pli"]) == []
    assert look(policy, EMPTY, (1500, 1510), ["still"])  # a still is as small as is asked


def test_a_stream_that_began_with_a_large_key_frame_is_asked_for_no_second_one_within_the_minute():
    policy = RequestPolicy()
    policy.saw_keyframe(90_000)
    assert policy.decide(0.0, EMPTY, ["pli"]) == Request("pli", 90_000)
    policy.arrived(0.125, 70_000)
    ((again, _),) = look(policy, EMPTY, (0.125, 70), ["pli"])
    assert again > 0.125 + WINDOW
