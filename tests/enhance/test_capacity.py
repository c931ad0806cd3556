"""Tests the estimate of how many calls a machine can enhance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.enhance import capacity
from receiver.enhance.capacity import (
    FRAME_S,
    Measured,
    calls_carried,
    drawn_faces,
    in_words,
    measure,
)
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import BATCH
from receiver.media.frame import DecodedFrame

LAPTOP = Measured(frame_s=0.016, generator_s=0.0085, pair_s=0.018)
FOUR_THREADS = Measured(frame_s=0.011, generator_s=0.0035, pair_s=0.0065, threads=4)
GPU = Measured(frame_s=0.009, generator_s=0.0015, pair_s=0.0018)


@pytest.mark.parametrize(
    ("measured", "cores", "calls"),
    [
        (LAPTOP, 1, 1),
        (LAPTOP, 2, 2),
        (LAPTOP, 64, 2),  # they share one generator, however many cores there are
        (FOUR_THREADS, 4, 3),
        (FOUR_THREADS, 16, 5),
        (GPU, 2, 2),  # limited by the cores
        (GPU, 64, 18),
        (Measured(0.2, 0.18, 0.36), 64, 1),  # far too slow, but at least one call
    ],
)
def test_the_estimate(measured, cores, calls):
    assert calls_carried(measured, cores) == calls


times = st.floats(1e-4, 1.0)


@st.composite
def measures(draw):
    generator_s = draw(times)
    pair_s = generator_s * draw(st.floats(1.0, 2.5))
    return Measured(generator_s + draw(times), generator_s, pair_s, draw(st.integers(1, 4)))


@given(measures(), st.integers(1, 128))
def test_the_estimate_leaves_enough_time_for_each_frame(measured, cores):
    calls = calls_carried(measured, cores)
    assert calls >= 1
    if calls > 1:
        assert measured.frame_s < FRAME_S
        assert calls * (measured.rest_s + measured.generator_s * measured.threads) < cores * FRAME_S
    assert calls_carried(measured, cores + 1) >= calls


@given(measures(), st.floats(1.0, 4.0))
def test_a_slower_machine_carries_no_more(measured, slower):
    other = Measured(
        measured.frame_s * slower,
        measured.generator_s * slower,
        measured.pair_s * slower,
        measured.threads,
    )
    assert calls_carried(other, 8) <= calls_carried(measured, 8)


def test_faces_are_batched_only_if_that_is_quicker():
    assert LAPTOP.batch == FOUR_THREADS.batch == 1
    assert GPU.batch == BATCH


def test_the_estimate_in_words():
    assert in_words(LAPTOP, 2) == (
        "2 calls at 30 frames a second: a face takes 16.0 ms of the 33.3 ms between two frames, "
        "on 2 cores"
    )
    assert in_words(LAPTOP, 1).startswith("1 call at 30 frames a second")


def test_a_machine_that_is_too_slow_for_one_call_says_so():
    slow = Measured(frame_s=0.041, generator_s=0.03, pair_s=0.06)
    assert in_words(slow, 1) == (
        "1 call, but cannot restore all of its frames: a face takes 41.0 ms, more than the 33.3 ms "
        "between two frames, on 1 core"
    )


def test_the_drawn_face_costs_what_a_face_in_a_call_costs(generator):
    """It is found, tracked and restored with a reference, so every step runs."""
    enhancer = Enhancer(generator, admission="i-frames")
    for turn, frame in enumerate(drawn_faces(2) * 2):
        output = enhancer.enhance(DecodedFrame(frame, is_keyframe=turn == 0, qp=None))
        assert output is not frame
    stages = enhancer.stats.snapshot()["stages_ms"]
    assert {"faces", "crop", "warp", "generator", "paste"} <= set(stages)


def test_the_measurement_includes_the_whole_frame(generator, monkeypatch):
    monkeypatch.setattr(capacity, "SECONDS", 0.0)  # the fewest runs
    measured = measure(generator)
    assert 0 < measured.generator_s < measured.frame_s
    assert measured.pair_s > 0
    assert measured.threads == generator.threads
