"""Compares the keyframe set with a slow, obvious implementation."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyframes import Keyframe, KeyframeSet, landmark_distance, worth
from keyframes.keyframe_set import LEAST_WORTH, REACH, WORSE_THAN_FACE

CROP = np.zeros((1, 1, 3), np.uint8)


def face_at(position: float) -> np.ndarray:
    """Returns landmarks shifted by `position`, so that distances are |a - b| * sqrt(68)."""
    base = np.arange(136, dtype=np.float32).reshape(68, 2)
    return base + np.array([position, 0], np.float32)


@dataclass
class Held:
    """A keyframe in the obvious implementation: its position and its uses."""

    position: int
    uses: float = 0.0


def reference_lfu(steps: list[tuple[str, int]], capacity: int) -> tuple[list[Held], list[int]]:
    """Follows the paper's rules; returns what is held in the end and what was chosen."""
    held: list[Held] = []
    chosen = []
    for action, position in steps:
        if action == "add":
            if len(held) == capacity:
                lowest = min(one.uses for one in held)
                oldest = next(one for one in held if one.uses == lowest)
                held = [one for one in held if one is not oldest]
            held.append(Held(position))
            for one in held:
                one.uses = one.uses / 2
        elif held:
            nearest = min(abs(one.position - position) for one in held)
            oldest = next(one for one in held if abs(one.position - position) == nearest)
            oldest.uses += 1
            chosen.append(oldest.position)
    return held, chosen


STEPS = st.lists(st.tuples(st.sampled_from(["add", "choose"]), st.integers(-50, 50)), max_size=60)


@given(steps=STEPS, capacity=st.integers(1, 6))
def test_lfu_follows_the_paper(steps, capacity):
    keyframes = KeyframeSet(capacity)
    chosen = []
    for action, position in steps:
        if action == "add":
            keyframes.add(Keyframe(CROP, face_at(position)))
        elif len(keyframes):
            keyframe, distance = keyframes.choose(face_at(position))
            assert keyframes.nearest(face_at(position)) == (keyframe, distance)
            chosen.append(round(float(keyframe.landmarks[0, 0])))
            assert distance == pytest.approx(
                landmark_distance(keyframe.landmarks, face_at(position))
            )
    held, expected = reference_lfu(steps, capacity)
    assert chosen == expected
    assert [(round(float(k.landmarks[0, 0])), k.uses) for k in keyframes] == [
        (one.position, one.uses) for one in held
    ]


def reference_max_distance(positions: list[int], capacity: int) -> list[int]:
    """Keeps, of all groups that leave one out, the one with the largest sum of distances."""
    held: list[int] = []
    for position in positions:
        held = [*held, position]
        if len(held) > capacity:
            groups = [held[:i] + held[i + 1 :] for i in range(len(held))]
            totals = [sum(abs(a - b) for a in group for b in group) for group in groups]
            held = groups[totals.index(max(totals))]
    return held


@given(positions=st.lists(st.integers(-1000, 1000), max_size=25), capacity=st.integers(1, 5))
def test_max_distance_keeps_the_widest_group(positions, capacity):
    keyframes = KeyframeSet(capacity, "max-distance")
    for position in positions:
        keyframes.add(Keyframe(CROP, face_at(position)))
    held = [round(float(keyframe.landmarks[0, 0])) for keyframe in keyframes]
    expected = reference_max_distance(positions, capacity)
    # Rounding may decide between equally wide groups: compare their widths.
    spread = [sum(abs(a - b) for a in group for b in group) for group in (held, expected)]
    assert len(held) == len(expected)
    assert spread[0] == spread[1]


def widest_group(faces: list[np.ndarray], capacity: int) -> list[int]:
    """Returns the indices of the group with the largest total distance, of all of that size."""

    def total(group: tuple[int, ...]) -> float:
        return sum(
            float(np.sqrt(((faces[i] - faces[j]) ** 2).sum())) for i, j in combinations(group, 2)
        )

    groups = combinations(range(len(faces)), capacity)
    return list(max(groups, key=total))


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 30))
@pytest.mark.parametrize("capacity", [1, 3, 5, 10])
def test_max_distance_keeps_the_widest_of_all_groups_of_real_shapes(capacity, seed, count):
    # Random shapes have no ties, so the groups must be the same, in the same order.
    faces = list(np.random.default_rng(seed).uniform(0, 256, (count, 68, 2)))
    keyframes = KeyframeSet(capacity, "max-distance")
    held: list[int] = []
    for number, face in enumerate(faces):
        before, full = list(keyframes), len(held) == capacity
        evicted = keyframes.evicted_by(face)
        keyframes.add(Keyframe(CROP, face))
        held.append(number)
        if len(held) > capacity > 1:
            held = [held[i] for i in widest_group([faces[i] for i in held], capacity)]
        elif len(held) > capacity:  # a single keyframe has no distance: the oldest goes
            held = held[1:]
        assert [id(one.landmarks) for one in keyframes] == [id(faces[i]) for i in held]
        gone = [one for one in before if one not in list(keyframes)]
        assert gone == ([evicted] if evicted is not None else [])
        assert full or not gone


def test_lfu_says_beforehand_which_keyframe_it_evicts():
    keyframes = KeyframeSet(2)
    for position in (0, 10):
        keyframes.add(Keyframe(CROP, face_at(position)))
    keyframes.choose(face_at(0))
    oldest, second = keyframes
    assert keyframes.evicted_by(face_at(500)) is second
    keyframes.add(Keyframe(CROP, face_at(20)))
    assert next(iter(keyframes)) is oldest
    assert second not in list(keyframes)
    assert KeyframeSet(1).evicted_by(face_at(0)) is None


def test_lfu_never_evicts_the_new_keyframe():
    keyframes = KeyframeSet(2)
    for position in (0, 10):
        keyframes.add(Keyframe(CROP, face_at(position)))
        keyframes.choose(face_at(position))
    keyframes.add(Keyframe(CROP, face_at(20)))
    assert [float(keyframe.landmarks[0, 0]) for keyframe in keyframes] == [10, 20]


def test_uses_are_halved_while_the_set_fills():
    keyframes = KeyframeSet(10)
    keyframes.add(Keyframe(CROP, face_at(0)))
    for _ in range(4):
        keyframes.choose(face_at(0))
    keyframes.add(Keyframe(CROP, face_at(10)))
    assert [keyframe.uses for keyframe in keyframes] == [2, 0]


def test_an_empty_set_returns_none():
    keyframes = KeyframeSet()
    assert keyframes.choose(face_at(0)) is None
    assert keyframes.nearest(face_at(0)) is None
    assert keyframes.evicted_by(face_at(0)) is None


def test_a_better_keyframe_may_be_farther_but_a_far_or_worse_one_is_not_chosen():
    near, far = Keyframe(CROP, face_at(0), 36.0), Keyframe(CROP, face_at(2), 20.0)
    keyframes = KeyframeSet()
    keyframes.add(near)
    keyframes.add(far)
    assert keyframes.choose(face_at(0)) == (near, 0.0)
    assert keyframes.choose(face_at(0), qp=38.0) == (far, pytest.approx(2 * np.sqrt(68)))
    assert keyframes.choose(face_at(0), qp=20.0 - WORSE_THAN_FACE) is None
    assert keyframes.choose(face_at(3 + REACH / np.sqrt(68)), qp=50.0) is None
    # Four uses: of the chosen keyframe, or of the nearest one if none was chosen.
    assert [near.uses, far.uses] == [2, 2]


@given(distance=st.floats(0, 500), better=st.floats(-30, 30), step=st.floats(0, 50))
def test_worth_grows_with_quality_and_falls_with_distance(distance, better, step):
    keyframe = Keyframe(CROP, face_at(0), 30.0)
    here = worth(keyframe, distance, 30.0 + better)
    assert worth(keyframe, distance, 30.0 + better + step) >= here
    assert worth(keyframe, distance + step, 30.0 + better) <= here
    assert (here > 0) == (better > -WORSE_THAN_FACE and distance < REACH)
    keyframes = KeyframeSet()
    keyframes.add(keyframe)
    at = face_at(distance / np.sqrt(68))
    chosen = keyframes.choose(at, qp=30.0 + better)
    exact = worth(keyframe, landmark_distance(keyframe.landmarks, at), 30.0 + better)
    assert (chosen is not None) == (exact >= LEAST_WORTH)


def test_nearest_better_ignores_keyframes_of_higher_qp():
    keyframes = KeyframeSet()
    for position, qp in ((0, 40.0), (10, 25.0), (30, None)):
        keyframes.add(Keyframe(CROP, face_at(position), qp))
    assert keyframes.nearest_better(face_at(0), 39.0) == pytest.approx(10 * np.sqrt(68))
    assert keyframes.nearest_better(face_at(0), 20.0) == pytest.approx(30 * np.sqrt(68))
    assert KeyframeSet().nearest_better(face_at(0), 51.0) is None


def test_a_replacement_takes_over_position_and_uses():
    keyframes = KeyframeSet()
    for position in (0, 10, 20):
        keyframes.add(Keyframe(CROP, face_at(position)))
    for _ in range(3):
        keyframes.choose(face_at(10))
    better = Keyframe(CROP, face_at(12), 20.0)
    keyframes.replace(list(keyframes)[1], better)
    assert [k.landmarks[0, 0] for k in keyframes] == [0, 12, 20]
    assert [k.uses for k in keyframes] == [0, 3, 0]
    assert keyframes.nearest(face_at(12)) == (better, 0.0)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_below_one_is_refused(capacity):
    with pytest.raises(ValueError, match="capacity"):
        KeyframeSet(capacity)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="'newest'"):
        KeyframeSet(policy="newest")
