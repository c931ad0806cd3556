"""The request policy: rule by rule, and its budget against any course of a call."""

import math
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyframes import Budget, Need, Request, RequestPolicy
from keyframes.requests import (
    FAR,
    GAP,
    KEYFRAME,
    LARGEST,
    SETTLED,
    SMALLEST,
    TIME_OUT,
    WINDOW,
    WORST_QP,
)

EMPTY = Need(None, 30.0)
GOOD = Need(10.0, 30.0)
POSED = Need(FAR + 50, 30.0)
AMPLE = Budget(kbps=1000.0, requests=1000)


def look(policy: RequestPolicy, need: Need, seconds: tuple[float, float], ways=("still", "pli")):
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
    assert look(RequestPolicy(), Need(FAR, None), (0, 100)) == []


def test_a_far_pose_is_asked_for_once_it_has_settled():
    (first, request), *more = look(RequestPolicy(), POSED, (5, 8))
    assert first == pytest.approx(5 + SETTLED, abs=0.04)
    assert (request.way, more) == ("still", [])


def test_a_blink_asks_for_nothing():
    policy = RequestPolicy()
    for second in range(20):
        assert look(policy, GOOD, (second, second + 0.85)) == []
        assert look(policy, POSED, (second + 0.85, second + 1)) == []


def test_a_pose_that_moves_on_asks_for_nothing_until_it_rests():
    policy = RequestPolicy()
    turning = [policy.decide(i / 30, Need(FAR + 6 * i, 30.0), ["still"]) for i in range(1, 30)]
    assert turning == [None] * 29
    assert len(look(policy, Need(FAR + 6 * 29, 30.0), (1, 1.4))) == 1


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
    assert policy.decide(0.0, EMPTY, [way]).way == way
    policy.arrived(0.1, 20_000)
    ((again, _),) = look(policy, EMPTY, (0.1, GAP[way] + 0.5), [way])
    assert again == pytest.approx(GAP[way], abs=0.04)


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
        assert RequestPolicy().decide(0.0, Need(None, qp), ["pli"]) is None
        assert RequestPolicy().decide(0.0, Need(None, qp), ["pli", "still"]).way == "still"
    assert RequestPolicy().decide(0.0, Need(None, WORST_QP), ["pli"]).way == "pli"


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
        if policy.decide(now, Need(distance, 32.0), ["still"]):
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
        st.sampled_from(["look", "look", "arrived", "arrived", "failed"]),
        st.sampled_from([None, 200.0, 205.0, 5.0]),
        st.sampled_from([30.0, 38.0, 45.0, None]),
        st.sampled_from([("still",), ("still", "pli"), ("pli",), ()]),
        st.sampled_from([1.0, 0.9, 0.4, 0.0]),  # of the bytes allowed
    ),
    min_size=60,
    max_size=120,
)
BUDGETS = st.builds(Budget, st.sampled_from([2.0, 5.0, 20.0, 100.0]), st.integers(0, 12))


@settings(max_examples=150, suppress_health_check=[HealthCheck.large_base_example])
@given(steps=STEPS, budget=BUDGETS)
def test_no_window_ever_holds_more_than_the_budget(steps, budget):
    policy = RequestPolicy(budget)
    now, outstanding = 0.0, None
    costs: list[tuple[float, float, int]] = []  # asked, ended, bytes
    for ticks, event, distance, qp, ways, part in steps:
        now += ticks / 64
        if outstanding and now >= outstanding[0] + TIME_OUT:
            costs.append((outstanding[0], outstanding[0] + TIME_OUT, outstanding[1].max_bytes))
            outstanding = None
        if event == "look":
            request = policy.decide(now, Need(distance, qp), ways)
            if request:
                assert outstanding is None
                assert request.way in ways
                assert SMALLEST <= request.max_bytes <= max(LARGEST, KEYFRAME)
                outstanding = now, request
        elif outstanding:
            size = int(part * outstanding[1].max_bytes)
            (policy.arrived if event == "arrived" else policy.failed)(now, size)
            costs.append((outstanding[0], now, size))
            outstanding = None
    assert_within(budget, costs)


def assert_within(budget: Budget, costs: list[tuple[float, float, int]]) -> None:
    for moment in (0, 1):  # counted when asked for, and when it came
        for cost in costs:
            start = cost[moment]
            window = [one for one in costs if start <= one[moment] <= start + WINDOW]
            assert sum(one[2] for one in window) * 8 / 1000 / WINDOW <= budget.kbps
            assert len(window) <= budget.requests


@pytest.mark.parametrize("seed", range(5))
def test_an_hour_of_a_restless_call_stays_within_the_budget(seed):
    random, budget = Random(seed), Budget()
    policy = RequestPolicy(budget)
    costs, outstanding = [], None
    need = EMPTY
    for tick in range(0, 3600 * 64, 8):
        now = tick / 64
        if random.random() < 0.02:
            need = Need(random.choice([None, 5.0, 100.0, 300.0]), random.uniform(20, 50))
        if outstanding and random.random() < 0.1:
            size = random.randint(0, outstanding[1].max_bytes)
            policy.arrived(now, size) if random.random() < 0.8 else policy.failed(now, size)
            costs.append((outstanding[0], now, size))
            outstanding = None
        elif outstanding and now >= outstanding[0] + TIME_OUT:
            costs.append((outstanding[0], outstanding[0] + TIME_OUT, outstanding[1].max_bytes))
            outstanding = None
        request = policy.decide(now, need, ["still", "pli"])
        if request:
            assert outstanding is None
            outstanding = now, request
    assert_within(budget, costs)
    assert len(costs) > 60
