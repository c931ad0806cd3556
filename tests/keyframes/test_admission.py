"""Which pictures become references."""

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
    """A set of (position, QP), each of sharpness 10."""
    keyframes = KeyframeSet(capacity)
    for position, qp in known:
        keyframes.add(Keyframe(CROP, face_at(position), qp, sharpness=10.0))
    return keyframes


def observation(position: float = 0.0, qp: float | None = 30.0, **more) -> FaceObservation:
    sharp = more.pop("sharpness", 10.0)
    return FaceObservation(
        face_at(position), qp, **{"is_keyframe": False} | more, sharpness=lambda: sharp
    )


def test_the_first_picture_is_taken():
    assert admit(KeyframeSet(), observation()) == Admitted()


def test_a_known_pose_is_replaced_only_by_a_clearly_better_picture():
    keyframes = held((0.0, 30.0), (FAR, 30.0))
    first = next(iter(keyframes))
    assert admit(keyframes, observation(0.5, 30.0 - BETTER)) == Admitted(replaces=first)
    assert admit(keyframes, observation(0.5, 30.1 - BETTER)) is None
    assert admit(keyframes, observation(0.5, 20.0, is_keyframe=True)) == Admitted(replaces=first)


def test_a_new_pose_is_taken_unless_it_would_displace_a_better_one():
    assert admit(held((0.0, 20.0)), observation(FAR, 45.0)) == Admitted()
    full = held((0.0, 20.0), (2 * FAR, 30.0), capacity=2)
    full.choose(face_at(2 * FAR))  # so the one with QP 20 would go
    assert admit(full, observation(FAR, 22.0)) == Admitted()
    assert admit(full, observation(FAR, 30.0)) is None


@pytest.mark.parametrize(
    "flaw",
    [{"damaged": True}, {"roll": 50.0}, {"roll": -50.0}, {"enlarged": 5.0}, {"sharpness": 3.0}],
)
@pytest.mark.parametrize("position", [0.0, FAR])
def test_a_flawed_picture_is_never_taken(flaw, position):
    assert admit(held((0.0, 40.0)), observation(position, 20.0)) is not None
    assert admit(held((0.0, 40.0)), observation(position, 20.0, **flaw)) is None


def test_without_a_qp_key_frames_are_the_best_guess():
    assert admit(held((0.0, None)), observation(qp=None)) is None
    assert admit(held((0.0, None)), observation(qp=None, is_keyframe=True)) == Admitted()


@given(
    qp=st.none() | st.floats(0, 51),
    is_keyframe=st.booleans(),
    damaged=st.booleans(),
    roll=st.floats(-180, 180),
)
def test_by_i_frames_every_sound_key_frame_is_taken_and_nothing_else(
    qp, is_keyframe, damaged, roll
):
    keyframes = held((0.0, 10.0))
    seen = observation(qp=qp, is_keyframe=is_keyframe, damaged=damaged, roll=roll)
    expected = Admitted() if is_keyframe and not damaged else None
    assert admit(keyframes, seen, "i-frames") == expected


@given(qps=st.lists(st.floats(10, 51), min_size=1, max_size=80))
def test_one_pose_keeps_the_best_picture_but_for_small_steps(qps):
    keyframes = KeyframeSet()
    for qp in qps:
        place = admit(keyframes, observation(qp=qp))
        if place is not None and place.replaces is not None:
            keyframes.replace(place.replaces, Keyframe(CROP, face_at(0), qp, sharpness=10.0))
        elif place is not None:
            keyframes.add(Keyframe(CROP, face_at(0), qp, sharpness=10.0))
    assert len(keyframes) == 1
    (kept,) = keyframes
    assert min(qps) <= kept.qp < min(qps) + BETTER


def test_a_face_of_half_the_size_is_six_steps_worse():
    assert crop_qp(30.0, 2.0) == 36.0
    assert crop_qp(30.0, 0.5) == 30.0


def test_a_picture_of_the_call_is_replaced_by_a_still():
    keyframes = held((0.0, 38.0))
    assert admit(keyframes, observation(0.0, 18.0, sharpness=30.0)) == Admitted(
        next(iter(keyframes))
    )
