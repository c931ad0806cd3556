"""Stages that break their contract, and frames missed around failures."""

import logging
import time
from fractions import Fraction

import av
import pytest

from receiver.calls.track import EnhancedVideoTrack
from receiver.enhance.pipeline import Pipeline
from receiver.enhance.stage import Canvas, Stage
from receiver.media.frame import DecodedFrame
from receiver.media.planes import planes
from receiver.stats import Stats
from tests.conftest import plain_frame
from tests.enhance.test_track import ListTrack, numbered, read_all


class Returning(Stage):
    """Returns what a function makes of the canvas."""

    def __init__(self, make) -> None:
        self.make = make

    def run(self, context, canvas):
        return self.make(canvas)


def end(canvas):
    raise SystemExit(3)


@pytest.mark.parametrize(
    "make",
    [
        lambda canvas: None,
        lambda canvas: canvas.video,
        lambda canvas: Canvas(av.VideoFrame(0, 0, "yuv420p")),
        lambda canvas: canvas.replaced(av.VideoFrame(64, 48, "rgb24")),
        lambda canvas: canvas.replaced(av.VideoFrame(64, 48, "yuv444p")),
        lambda canvas: canvas.replaced(av.VideoFrame(128, 96, "yuv420p")),
        lambda canvas: canvas.replaced(av.VideoFrame(64, 46, "yuv420p")),
        end,
    ],
)
async def test_frames_pass_through_if_a_stage_returns_no_usable_canvas(make, caplog):
    sent, outcomes = numbered(4), []
    track = EnhancedVideoTrack(
        ListTrack(sent, 0.1),  # slowly: none may be dropped on a busy machine
        Pipeline([Returning(make)], Stats("cpu")),
        deadline=5.0,
        on_frame=lambda one: outcomes.append(one.outcome),
    )
    with caplog.at_level(logging.ERROR):
        assert await read_all(track) == sent
    assert set(outcomes) == {"passed: failed"}
    assert track.stats.faults.counts["restoring"] >= 3
    assert len([one for one in caplog.records if "restoring failed" in one.message]) == 1


class Twice(Stage):
    """Promises twice the size, but leaves the frame alone."""

    def output_size(self, width, height):
        return 2 * width, 2 * height

    def run(self, context, canvas):
        return canvas


def test_a_changed_frame_has_the_size_that_sinks_expect():
    """Also if the stage that enlarges left this one alone."""

    def bright(canvas):
        own = canvas.writable()
        planes(own.video)[0][:] = 235
        return own

    video = plain_frame(64, 48)
    video.pts = 77
    frame = DecodedFrame.from_video(video)
    enhanced = Pipeline([Twice(), Returning(bright)], Stats("cpu")).process(frame)
    assert (enhanced.outcome, enhanced.scale, enhanced.video.pts) == ("restored", 2.0, 77)
    assert (enhanced.video.width, enhanced.video.height) == (128, 96)
    assert (planes(enhanced.video)[0] == 235).all()


class Troubled(Stage):
    """Notes the numbers of its frames; fails or takes long on the fifth."""

    def __init__(self, trouble) -> None:
        self.trouble, self.observed, self.ran = trouble, [], {}

    def observe(self, context):
        self.observed.append(context.frame.video.pts // 3000)

    def run(self, context, canvas):
        number, priors = context.frame.video.pts // 3000, context.priors
        before = None if priors.before is None else priors.before.pts // 3000
        self.ran[number] = before, [frame.video.pts // 3000 for frame in priors.frames]
        if number == 4:
            self.trouble()
        return canvas


def fail_slowly():
    time.sleep(0.1)  # frames are dropped meanwhile
    raise RuntimeError("no reason")


@pytest.mark.parametrize("trouble", [fail_slowly, lambda: time.sleep(0.15)])
async def test_frames_around_trouble_run_or_are_observed_once_and_in_order(trouble):
    stage = Troubled(trouble)
    track = EnhancedVideoTrack(
        ListTrack(numbered(26), 0.02), Pipeline([stage], Stats("cpu")), deadline=5.0
    )
    track._waits_most = 0.12
    await read_all(track)
    assert 4 in stage.ran
    seen = [*stage.observed, *stage.ran]
    assert sorted(seen) == sorted(set(seen))
    assert stage.observed == sorted(stage.observed)
    after = min(number for number in stage.ran if number > 4)
    before, frames = stage.ran[after]
    assert before == (None if trouble is fail_slowly else 4)
    assert frames == list(range(5, after + 1))


def test_an_unsupported_format_breaks_the_chain_of_frames():
    stage = Troubled(lambda: None)
    pipeline = Pipeline([stage], Stats("cpu"))
    first, other, last = (
        DecodedFrame(av.VideoFrame(64, 48, name), False, None)
        for name in ("yuv420p", "rgb24", "yuv420p")
    )
    for number, frame in enumerate((first, other, last)):
        frame.video.pts = 3000 * number
        pipeline.process(frame)
    assert stage.ran == {0: (None, [0]), 2: (None, [2])}


@pytest.mark.parametrize("method", ["observe", "set_level", "run"])
def test_a_failure_in_any_method_breaks_the_chain_of_frames(method, monkeypatch):
    def fail(*given):
        raise RuntimeError("no reason")

    stage = Troubled(lambda: None)
    pipeline = Pipeline([stage], Stats("cpu"))
    frames = [DecodedFrame(video, False, None) for video in numbered(4)]
    pipeline.process(frames[0])
    pipeline.set_level(0)
    with monkeypatch.context() as broken:
        broken.setattr(stage, method, fail)
        with pytest.raises(RuntimeError):
            pipeline.process(frames[2], frames[1:2])
    pipeline.process(frames[3])
    assert stage.ran[3] == (None, [3])


async def test_skipped_frames_are_observed():
    """Frames that would be late, because the first ones took too long."""

    class Slow(Troubled):
        def run(self, context, canvas):
            time.sleep(0.05)
            return super().run(context, canvas).writable()

    stage = Slow(lambda: None)
    pipeline = Pipeline([stage], Stats("cpu"))
    await read_all(EnhancedVideoTrack(ListTrack(numbered(9), 0.07), pipeline))
    assert pipeline.stats.frames.skipped > 0
    before_last = [number for number in stage.observed if number < max(stage.ran)]
    assert sorted([*before_last, *stage.ran]) == list(range(max(stage.ran) + 1))


def test_an_observed_frame_has_the_priors_of_its_own_time():
    class Observer(Stage):
        frames: tuple[list[int], ...] = ()

        def run(self, context, canvas):
            return canvas

        def observe(self, context):
            numbers = [frame.video.pts // 3000 for frame in context.priors.frames]
            self.frames = (*self.frames, numbers)

    observer = Observer()
    one, two, three = (DecodedFrame(video, False, None) for video in numbered(3))
    Pipeline([observer], Stats("cpu")).process(three, [one, two])
    assert observer.frames == ([0], [0, 1])


def test_a_frame_that_a_stage_made_without_a_time_gets_it():
    video = plain_frame(64, 48)
    video.pts, video.time_base = 77, Fraction(1, 90_000)
    blank = Returning(lambda canvas: Canvas(av.VideoFrame(64, 48, "yuv420p")))
    output = Pipeline([blank], Stats("cpu")).enhance(DecodedFrame.from_video(video))
    assert output is not video
    assert (output.pts, output.time_base) == (77, Fraction(1, 90_000))


def test_the_scale_of_a_canvas_adds_up():
    canvas = Canvas(plain_frame(64, 48))
    for width in (128, 256):
        canvas = canvas.replaced(av.VideoFrame(width, width * 3 // 4, "yuv420p"))
    assert canvas.scale == 4.0


def test_the_search_for_faces_restarts_even_if_a_stage_cannot():
    class Stuck(Stage):
        def reset(self):
            raise RuntimeError("no reason")

    pipeline = Pipeline([Stuck()], Stats("cpu"))
    tracker = pipeline._tracker
    with pytest.raises(RuntimeError, match="no reason"):
        pipeline.recover()
    assert pipeline._tracker is not tracker
