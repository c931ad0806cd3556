"""The quality goes down at the first trouble, up after a calm time, and settles."""

import asyncio
import logging
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.enhance.capacity import FRAME_S, Measured
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.levels import LEVELS
from receiver.enhance.faces.tracking import MAX_FACES
from receiver.enhance.quality import (
    CALM,
    ROOM,
    SETTLES,
    Ladder,
    Quality,
    best_that_fits,
)
from receiver.errors import ModelError
from receiver.inference.model_files import WEIGHTS
from receiver.media.frame import DecodedFrame
from receiver.media.planes import planes
from tests.conftest import plain_frame

COSTS = (0.010, 0.010, 0.018)
CALM_LOOK = 0.0, 0.008
BUSY_LOOK = 0.5, 0.030

looks = st.tuples(st.floats(0, 1), st.floats(0, 0.2))
ladders = st.builds(
    Ladder, st.lists(st.floats(1e-3, 0.1), min_size=3, max_size=3).map(sorted), st.integers(0, 2)
)


def changes(levels: list[int]) -> list[int]:
    """At which looks the level changed."""
    return [i for i, (a, b) in enumerate(pairwise(levels), 1) if a != b]


@given(ladders, st.lists(looks, max_size=200))
def test_it_stays_within_bounds_goes_by_one_and_holds(ladder, seen):
    levels = [ladder.level] + [ladder.step(*look) for look in seen]
    assert set(levels) <= {0, 1, 2}
    when = changes(levels)
    assert all(abs(levels[i] - levels[i - 1]) == 1 for i in when)
    for i, last in zip(when, [0, *when], strict=False):
        assert i - last > (CALM if levels[i] > levels[i - 1] else SETTLES)


@given(
    ladders,
    st.lists(looks, min_size=3, max_size=3),
    st.lists(looks, max_size=50),
)
def test_under_a_constant_load_it_settles(ladder, by_level, before):
    """What each level costs does not change: then it changes more and more rarely."""
    for look in before:
        ladder.step(*look)
    levels = [ladder.level] + [ladder.step(*by_level[ladder.level]) for _ in range(4000)]
    when = changes(levels)
    assert len(when) <= 24
    falls = [i for i in when if levels[i] < levels[i - 1]]
    assert len([i for i in falls if i > 2000]) <= 1


def test_trouble_brings_it_down_at_once_and_calm_up_again_slowly():
    ladder = Ladder(COSTS, 2)
    assert [ladder.step(*BUSY_LOOK) for _ in range(6)] == [2, 1, 1, 0, 0, 0]
    went_up = [ladder.step(*CALM_LOOK) for _ in range(30)]
    assert went_up.index(1) + 1 >= CALM
    assert went_up[-1] == 2
    assert sorted(went_up) == went_up


def test_an_enhancement_that_takes_a_whole_frame_is_trouble_though_nothing_is_skipped_yet():
    ladder = Ladder(COSTS, 1)
    assert [ladder.step(0.0, 1.1 * FRAME_S) for _ in range(SETTLES + 1)][-1] == 0


def test_it_does_not_climb_to_what_does_not_fit():
    ladder = Ladder((0.010, 0.010, 0.030), 1)
    assert {ladder.step(0.0, 0.010) for _ in range(100)} == {1}


def test_it_does_not_climb_while_nothing_is_enhanced():
    ladder = Ladder(COSTS, 0)
    assert {ladder.step(0.0, 0.0) for _ in range(100)} == {0}


def test_a_climb_that_was_one_too_many_makes_it_patient_until_one_holds():
    ladder = Ladder(COSTS, 1)

    def looks_until(level: int, look: tuple[float, float]) -> int:
        for count in range(1, 1000):
            if ladder.step(*look) == level:
                return count
        raise AssertionError

    waits = []
    for _ in range(3):
        waits.append(looks_until(2, CALM_LOOK))
        looks_until(1, BUSY_LOOK)
    assert waits[1] - SETTLES == 2 * CALM
    assert waits[2] - SETTLES == 4 * CALM
    looks_until(2, CALM_LOOK)
    for _ in range(100):
        ladder.step(*CALM_LOOK)
    looks_until(1, BUSY_LOOK)
    assert looks_until(2, CALM_LOOK) - SETTLES == CALM


@pytest.mark.parametrize(
    ("costs", "level"),
    [
        ((0.01, 0.01, 0.015), 2),
        ((0.01, 0.01, 0.025), 1),
        ((0.05, 0.05, 0.09), 0),
        ((ROOM * FRAME_S,) * 3, 2),
    ],
)
def test_it_begins_with_the_best_that_leaves_room(costs, level):
    assert best_that_fits(costs) == level


# What a level does

FAST = Measured(frame_s=0.004, generator_s=0.002, pair_s=0.004)
SLOW = Measured(frame_s=0.2, generator_s=0.1, pair_s=0.2)


@pytest.fixture
def shared(monkeypatch) -> Generator:
    """A separate generator, and the floats take as long as the integers."""
    monkeypatch.setattr("receiver.enhance.quality.generator_seconds", lambda _: 0.002)
    return Generator("lite", "cpu")


def file_of(quality: Quality) -> str:
    return quality.generator.model.path.name


def test_auto_takes_what_was_measured_to_fit(shared):
    assert file_of(Quality(shared, "auto", FAST)) == "lite.onnx"
    quality = Quality(shared, "auto", SLOW)
    assert (quality.level, file_of(quality)) == (LEVELS[0], "lite-int8.onnx")
    with pytest.raises(ValueError, match="needs a measure"):
        Quality(shared, "auto", None)


@pytest.mark.parametrize(("choice", "file"), [("best", "lite.onnx"), ("fast", "lite-int8.onnx")])
async def test_what_was_chosen_stays(choice, file):
    quality = Quality(Generator("lite", "cpu"), choice, None)
    assert quality.is_fixed
    assert file_of(quality) == file
    tasks = asyncio.all_tasks()

    async def call() -> bool:
        return asyncio.all_tasks() == tasks

    assert await quality.beside(call())


def test_a_file_of_ones_own_has_nothing_but_the_detection_to_choose_from():
    path = str(WEIGHTS / "lite-int8.onnx")
    for choice in ("best", "fast"):
        quality = Quality(Generator(path, "cpu"), choice, None)
        assert file_of(quality) == "lite-int8.onnx"
    assert quality.level == LEVELS[0]


def skip(enhancer: Enhancer, share: float, seconds: float) -> None:
    """A look's time of frames."""
    enhancer.stats.frames.received += 100
    enhancer.stats.frames.skipped += round(100 * share)
    for _ in range(100):
        enhancer.stats.enhancement.add(seconds)


def test_all_calls_change_together_and_it_is_told_once(shared, caplog):
    quality = Quality(shared, "auto", FAST)
    calls = [quality.watch(Enhancer(shared)) for _ in range(2)]
    caplog.set_level(logging.INFO, "receiver.enhance.quality")
    for _ in range(SETTLES + 1):
        skip(calls[0], 0.5, 0.03)
        skip(calls[1], 0.0, 0.01)
        quality.look()
    assert quality.snapshot() == {"level": "balanced", "changes": 1}
    assert [record.getMessage() for record in caplog.records] == [
        "quality changed to balanced from best"
    ]
    assert file_of(quality) == "lite-int8.onnx"
    rates = {call._tracker.rate for call in [*calls, quality.watch(Enhancer(shared))]}
    assert rates == {LEVELS[1].detection}
    for call in calls:
        call.process(DecodedFrame.from_video(plain_frame()))  # from the next frame on
    assert {call.face_stage.most_faces for call in calls} == {LEVELS[1].faces}
    for _ in range(SETTLES + CALM):
        for call in calls:
            skip(call, 0.0, 0.002)
        quality.look()
    assert quality.snapshot() == {"level": "best", "changes": 2}


def test_a_call_that_ends_is_no_trouble(shared):
    quality = Quality(shared, "auto", FAST)
    call = quality.watch(Enhancer(shared))
    skip(call, 0.0, 0.002)
    quality.look()
    del call
    for _ in range(10):
        quality.look()
    assert quality.changes == 0


def test_it_stays_where_the_other_file_cannot_be_had(shared, monkeypatch, caplog):
    quality = Quality(shared, "auto", SLOW)
    quality._ladder, quality._face_costs = Ladder(COSTS, 1), list(COSTS)
    quality._apply(LEVELS[1])
    call = quality.watch(Enhancer(shared))

    def gone(*_: object) -> None:
        raise ModelError("lite.onnx is missing")

    monkeypatch.setattr(shared, "switch", gone)
    for _ in range(SETTLES + CALM):
        skip(call, 0.0, 0.004)
        quality.look()
    assert quality.snapshot() == {"level": "balanced", "changes": 0}
    assert "quality best is not available" in caplog.text
    assert quality._ladder.level == 1


async def test_somebody_looks_as_long_as_the_call_lasts(shared, monkeypatch):
    monkeypatch.setattr("receiver.enhance.quality.LOOK_EVERY", 0.001)
    quality, looked = Quality(shared, "auto", SLOW), asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(quality, "look", lambda: loop.call_soon_threadsafe(looked.set))

    async def call() -> str:
        await asyncio.wait_for(looked.wait(), 10)
        return "ended"

    assert await quality.beside(call()) == "ended"
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    ("choice", "searches", "checks"), [("fast", 2, 8), ("balanced", 6, 18), ("best", 12, 36)]
)
def test_a_better_level_searches_and_checks_more_often(portrait, choice, searches, checks):
    """In 180 frames, six seconds; a search is of the whole frame, a check of one face."""
    enhancer, looked = Enhancer(Generator("lite", "cpu")), []
    if choice != "balanced":  # the level before any other is set
        Quality(enhancer.generator, choice, None).watch(enhancer)
    tracker, luma = enhancer._tracker, planes(portrait[0])[0]
    detect = tracker._detect
    tracker._detect = lambda picture: looked.append(picture.shape[1]) or detect(picture)
    for _ in range(180):
        assert len(tracker.track(luma)) == 1
    whole = [width for width in looked if width >= 320]
    assert (len(whole), len(looked) - len(whole)) == (searches, checks)


def test_only_the_fast_level_leaves_out_faces():
    assert [level.faces for level in LEVELS] == [2, MAX_FACES, MAX_FACES]
