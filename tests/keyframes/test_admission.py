"""Tests which observations become references."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyframes import FaceObservation, Keyframe, KeyframeSet, admit, crop_qp
from keyframes.admission import BETTER, SAME_POSE, Admitted
from tests.keyframes.test_keyframe_set import CROP, face_at

FAR = 10 * SAME_POSE / math.sqrt(68)
"""A shift of all landmarks that makes another pose."""


def held(*known: tuple[float, float | None], capacity: int = 10) -> KeyframeSet:
    """Returns a set of keyframes with these positions and QPs, each of sharpness 10."""
    keyframes = KeyframeSet(capacity)
    for position, qp in known:
        keyframes.add(Keyframe(CROP, face_at(position), qp, sharpness=10.0))
    return keyframes


def observation(position: float = 0.0, qp: float | None = 30.0, **more) -> FaceObservation:
    sharp = more.pop("sharpness", 10.0)
    return FaceObservation(
        face_at(position), qp, **{"is_keyframe": False} | more, sharpness=lambda: sharp
    )


def test_the_first_observation_is_admitted():
    assert admit(KeyframeSet(), observation()) == Admitted()


def test_a_reference_of_the_same_pose_is_replaced_only_by_a_clearly_better_one():
    keyframes = held((0.0, 30.0), (FAR, 30.0))
    first = next(iter(keyframes))
    assert admit(keyframes, observation(0.5, 30.0 - BETTER)) == Admitted(replaces=first)
    assert admit(keyframes, observation(0.5, 30.1 - BETTER)) is None
    assert admit(keyframes, observation(0.5, 20.0, is_keyframe=True)) == Admitted(replaces=first)


def test_a_new_pose_is_admitted_unless_it_would_evict_a_better_reference():
    assert admit(held((0.0, 20.0)), observation(FAR, 45.0)) == Admitted()
    full = held((0.0, 20.0), (2 * FAR, 30.0), capacity=2)
    full.choose(face_at(2 * FAR))  # so the one with QP 20 would be evicted
    assert admit(full, observation(FAR, 22.0)) == Admitted()
    assert admit(full, observation(FAR, 30.0)) is None


def test_a_new_pose_is_compared_with_the_reference_that_the_policy_evicts():
    for policy, admitted in (("lfu", None), ("max-distance", Admitted())):
        full = KeyframeSet(2, policy)
        for position, qp in ((0.0, 20.0), (2 * FAR, 40.0)):
            full.add(Keyframe(CROP, face_at(position), qp, sharpness=10.0))
        # LFU would evict the first, of QP 20; the second lies between the first and the new one.
        assert admit(full, observation(4 * FAR, 30.0)) == admitted


@pytest.mark.parametrize(
    "flaw",
    [{"damaged": True}, {"roll": 50.0}, {"roll": -50.0}, {"enlarged": 5.0}, {"sharpness": 3.0}],
)
@pytest.mark.parametrize("position", [0.0, FAR])
def test_a_flawed_observation_is_never_admitted(flaw, position):
    assert admit(held((0.0, 40.0)), observation(position, 20.0)) is not None
    assert admit(held((0.0, 40.0)), observation(position, 20.0, **flaw)) is None


def test_without_a_qp_only_i_frames_are_admitted():
    assert admit(held((0.0, None)), observation(qp=None)) is None
    assert admit(held((0.0, None)), observation(qp=None, is_keyframe=True)) == Admitted()


@given(
    qp=st.none() | st.floats(0, 51),
    is_keyframe=st.booleans(),
    damaged=st.booleans(),
    roll=st.floats(-180, 180),
)
def test_with_i_frames_exactly_the_undamaged_i_frames_are_admitted(qp, is_keyframe, damaged, roll):
    keyframes = held((0.0, 10.0))
    observed = observation(qp=qp, is_keyframe=is_keyframe, damaged=damaged, roll=roll)
    expected = Admitted() if is_keyframe and not damaged else None
    assert admit(keyframes, observed, "i-frames") == expected


@given(qps=st.lists(st.floats(10, 51), min_size=1, max_size=80))
def test_the_reference_of_a_pose_is_about_the_best_observation_of_it(qps):
    keyframes = KeyframeSet()
    for qp in qps:
        admitted = admit(keyframes, observation(qp=qp))
        if admitted is not None and admitted.replaces is not None:
            keyframes.replace(admitted.replaces, Keyframe(CROP, face_at(0), qp, sharpness=10.0))
        elif admitted is not None:
            keyframes.add(Keyframe(CROP, face_at(0), qp, sharpness=10.0))
    assert len(keyframes) == 1
    (kept,) = keyframes
    assert min(qps) <= kept.qp < min(qps) + BETTER


def test_a_face_of_half_the_size_is_six_qp_steps_worse():
    assert crop_qp(30.0, 2.0) == 36.0
    assert crop_qp(30.0, 0.5) == 30.0


def test_a_reference_of_high_qp_is_replaced_by_one_of_low_qp():
    keyframes = held((0.0, 38.0))
    assert admit(keyframes, observation(0.0, 18.0, sharpness=30.0)) == Admitted(
        next(iter(keyframes))
    )


# The limits as numbers, because tests that take them from the code follow any change of them.

NEW, NONE = Admitted(), None


def at(distance: float) -> float:
    """Returns the shift of all landmarks that makes this landmark distance."""
    return distance / math.sqrt(68)


@pytest.mark.parametrize(("distance", "expected"), [(29.9, NONE), (30.1, NEW), (60.0, NEW)])
def test_faces_show_the_same_pose_up_to_30_pixels(distance, expected):
    assert admit(held((0.0, 30.0)), observation(at(distance), 30.0)) == expected


@pytest.mark.parametrize(("qp", "replaces"), [(27.0, True), (27.1, False), (24.0, True)])
def test_a_reference_is_replaced_by_one_that_is_3_steps_better(qp, replaces):
    keyframes = held((0.0, 30.0))
    expected = Admitted(replaces=next(iter(keyframes))) if replaces else None
    assert admit(keyframes, observation(0.0, qp)) == expected


@pytest.mark.parametrize(("qp", "expected"), [(33.0, NEW), (33.1, NONE), (38.0, NONE)])
def test_a_new_pose_may_be_3_steps_worse_than_what_it_evicts(qp, expected):
    assert admit(held((0.0, 30.0), capacity=1), observation(FAR, qp)) == expected


@pytest.mark.parametrize(
    ("flaw", "expected"),
    [
        ({"sharpness": 6.0}, NEW),
        ({"sharpness": 5.9}, NONE),
        ({"roll": 35.0}, NEW),
        ({"roll": -35.0}, NEW),
        ({"roll": 35.1}, NONE),
        ({"roll": -35.1}, NONE),
        ({"enlarged": 3.0}, NEW),
        ({"enlarged": 3.1}, NONE),
    ],
)
def test_flaws_count_beyond_their_limits(flaw, expected):
    assert admit(held((0.0, 30.0)), observation(FAR, 30.0, **flaw)) == expected
