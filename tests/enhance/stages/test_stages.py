"""Stages of strangers: they plug in before and after ours, may enlarge, observe, fail."""

import asyncio
import contextlib
import time
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av.video.reformatter import Colorspace

from examples.grey_stage import GreyTwice
from receiver.calls.sound import DelayedAudioTrack
from receiver.calls.track import EnhancedVideoTrack
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import extract_crop, scaled
from receiver.enhance.pipeline import MISSED_AT_MOST, Pipeline
from receiver.enhance.quality import Quality
from receiver.enhance.stage import Canvas, Stage, StageLevel
from receiver.media.frame import DecodedFrame
from receiver.media.planes import copy_frame, planes
from receiver.media.sound import RATE, SoundHistory
from receiver.stats import Stats
from tests.conftest import plain_frame, same_pixels
from tests.enhance.test_track import ListTrack, numbered


class Noting(Stage):
    """Changes nothing; notes what it was called with."""

    levels = (StageLevel("half", 0.004), StageLevel("whole", 0.008))

    def __init__(self) -> None:
        self.ran, self.observed, self.rank = [], [], None
        self.heard = None
        self.resets = self.pauses = 0

    def run(self, context, canvas):
        self.ran.append(context)
        self.heard = context.sound
        return canvas

    def observe(self, context):
        self.observed.append(context.frame.video.pts)

    def between_frames(self):
        self.pauses += 1

    def reset(self):
        self.resets += 1

    def set_level(self, rank):
        self.rank = rank


class Darker(Stage):
    """Halves the luma, in place."""

    def run(self, context, canvas):
        own = canvas.writable()
        planes(own.video)[0][:] //= 2
        return own


def test_a_pipeline_without_work_returns_the_very_frame():
    frame = DecodedFrame.from_video(plain_frame())
    for stages in ([], [Noting(), Noting()]):
        enhanced = Pipeline(stages, Stats("cpu")).process(frame)
        assert enhanced.video is frame.video
        assert (enhanced.outcome, enhanced.scale) == ("passed: no face", 1.0)


def test_a_stage_writes_to_a_copy_once(decoded):
    before = planes(decoded[0].video)[0].copy()
    enhanced = Pipeline([Darker(), Darker()], Stats("cpu")).process(decoded[0])
    assert np.array_equal(planes(decoded[0].video)[0], before)
    assert np.array_equal(planes(enhanced.video)[0], before // 4)
    assert enhanced.outcome == "restored"
    canvas = Canvas(decoded[0].video)
    assert canvas.writable().writable().video is not canvas.video
    own = canvas.writable()
    assert own.writable() is own


def test_a_frame_without_a_time_base_is_enhanced():
    video = plain_frame()
    assert video.time_base is None
    assert Pipeline([Darker()], Stats("cpu")).enhance(DecodedFrame.from_video(video)) is not video


def test_faces_are_not_searched_for_unless_a_stage_asks(decoded):
    enhanced = Pipeline([Darker()], Stats("cpu")).process(decoded[0])
    assert enhanced.faces == ()


def test_an_enlarging_stage_before_the_faces(generator, decoded):
    """Faces are restored in the enlarged frame; pts, time base and colours are the input's."""
    enhancer = Enhancer(generator)
    enhancer.stages.insert(0, GreyTwice())
    frame = decoded[0]
    enhanced = enhancer.process(frame)
    video = enhanced.video
    assert (video.width, video.height, enhanced.scale) == (1280, 960, 2.0)
    assert (video.pts, video.time_base) == (frame.video.pts, frame.video.time_base)
    nearest = planes(frame.video)[0].repeat(2, axis=0).repeat(2, axis=1)
    changed = planes(video)[0] != nearest
    (face,) = enhanced.faces
    left, top, right, bottom = (2 * face.box).astype(int)
    assert changed[top:bottom, left:right].mean() > 0.2
    assert not changed[:, :100].any()


def test_frames_that_pass_have_the_size_of_those_that_are_changed(enhancer):
    """So that a recording or a viewer's encoder sees one size."""

    class Never(GreyTwice):
        def run(self, context, canvas):
            return canvas

    enhancer.stages[:] = [Never()]
    frame = DecodedFrame.from_video(plain_frame())
    frame.video.pts, frame.video.time_base = 77, Fraction(1, 90000)
    frame.video.colorspace = Colorspace.ITU709
    late = enhancer.passed(frame, "passed: late")
    unchanged = enhancer.process(frame)
    assert (late.outcome, unchanged.outcome) == ("passed: late", "passed: no face")
    for result in (late, unchanged):
        assert (result.video.width, result.video.height, result.scale) == (640, 480, 2.0)
        assert (result.video.pts, result.video.time_base) == (77, Fraction(1, 90000))
        assert result.video.colorspace == Colorspace.ITU709
    rgb = DecodedFrame.from_video(av.VideoFrame(32, 32, "rgb24"))
    assert enhancer.process(rgb).video.width == 64


def test_a_new_frame_gets_the_time_and_colours_of_the_old_one(decoded):
    class Blank(Stage):
        def run(self, context, canvas):
            return canvas.replaced(copy_frame(av.VideoFrame(640, 480, "yuv420p")))

    frame = copy_frame(decoded[3].video)
    frame.colorspace = Colorspace.ITU709
    output = Pipeline([Blank()], Stats("cpu")).enhance(DecodedFrame.from_video(frame))
    assert output.colorspace == Colorspace.ITU709
    assert output.pts == frame.pts


def test_an_enlarging_stage_after_the_faces(generator, decoded):
    plain = Enhancer(generator).process(decoded[0])
    enhancer = Enhancer(generator)
    enhancer.stages.append(GreyTwice())
    enhanced = enhancer.process(decoded[0])
    assert np.array_equal(planes(enhanced.video)[0][::2, ::2], planes(plain.video)[0])
    assert np.all(planes(enhanced.video)[1] == 128)


def test_a_crop_of_an_enlarged_frame_shows_the_same(generator, decoded):
    """To a level or two: it is sampled at other places between the same pixels."""
    frame = decoded[0]
    (face,) = Enhancer(generator).process(frame).faces
    smooth = frame.video.reformat(320, 240).reformat(640, 480)
    larger = smooth.reformat(1280, 960, interpolation="BICUBIC")
    crop = extract_crop(smooth, face.crop_from_frame)
    again = extract_crop(larger, scaled(face.crop_from_frame, 2.0))
    assert np.abs(crop - again).mean() < 0.01
    off = extract_crop(larger, scaled(face.crop_from_frame, 2.0) + np.array([[0, 0, 3], [0, 0, 3]]))
    assert np.abs(crop - off).mean() > 0.02


def test_missed_frames_are_observed_in_order_and_reach_the_priors(decoded):
    noting = Noting()
    pipeline = Pipeline([noting], Stats("cpu"))
    pipeline.process(decoded[0])
    pipeline.process(decoded[3], missed=decoded[1:3])
    assert noting.observed == [frame.video.pts for frame in decoded[1:3]]
    first, second = (context.priors for context in noting.ran)
    assert first.before is None
    assert second.before is decoded[0].video
    assert second.frames == tuple(decoded[1:4])


def test_after_too_many_missed_frames_the_chain_is_broken(decoded):
    noting = Noting()
    pipeline = Pipeline([noting], Stats("cpu"))
    pipeline.process(decoded[0])
    pipeline.process(decoded[20], missed=decoded[1 : 2 + MISSED_AT_MOST])
    priors = noting.ran[-1].priors
    assert priors.before is None
    assert priors.motion is None
    assert priors.changed.all()


def test_other_pixel_formats_pass_all_stages():
    noting = Noting()
    video = av.VideoFrame(320, 240, "rgb24")
    enhanced = Pipeline([noting], Stats("cpu")).process(DecodedFrame.from_video(video))
    assert enhanced.video is video
    assert enhanced.outcome == "passed: format"
    assert not enhanced.was_processed
    assert noting.ran == []


def test_recovery_and_pauses_reach_all_stages(enhancer):
    noting = Noting()
    enhancer.stages.append(noting)
    enhancer.between_frames()
    enhancer.recover()
    assert (noting.pauses, noting.resets) == (1, 1)


def test_levels_reach_all_stages_and_their_cost_counts(generator, enhancer):
    noting = Noting()
    enhancer.stages.append(noting)
    quality = Quality(generator, "fast", None)
    quality.watch(enhancer)
    assert noting.rank is None  # it may be running in another thread now
    enhancer.process(DecodedFrame.from_video(plain_frame()))
    assert noting.rank == 0
    assert quality._ladder.costs == (0.004, 0.008, 0.008)


def test_outcomes(generator, decoded):
    enhancer = Enhancer(generator)
    restored = enhancer.process(replace(decoded[0], qp=40.0))
    assert (restored.outcome, restored.is_restored) == ("restored", True)
    assert restored.reference_need is not None
    assert restored.seconds > 0
    empty = enhancer.process(DecodedFrame.from_video(plain_frame()))
    assert empty.reference_need is None or empty.faces


async def test_dropped_and_late_frames_are_observed_in_a_call(enhancer):
    """Every frame of the source is either run on or observed, in order."""
    noting = Noting()
    enhancer.stages[:] = [noting]
    sound = SoundHistory()
    outcomes = []
    track = EnhancedVideoTrack(
        ListTrack(numbered(30), 0.004),
        enhancer,
        on_frame=lambda enhanced: outcomes.append(enhanced.outcome),
        sound=sound,
    )
    piece = av.AudioFrame.from_ndarray(np.full((1, 960), 8192, np.int16), "s16", "mono")
    piece.sample_rate = 48_000
    sound.add(piece, time.perf_counter())
    with contextlib.suppress(MediaStreamError):
        while True:
            await track.recv()
            await asyncio.sleep(0.015)  # slower than the source
    seen = [*noting.observed, *(context.frame.video.pts for context in noting.ran)]
    assert len(noting.observed) > 0
    assert sorted(seen) == sorted(set(seen))
    assert noting.observed == sorted(noting.observed)
    assert set(outcomes) == {"passed: no face"}
    window = noting.heard
    assert window.samples.dtype == np.float32
    assert 0 < len(window.samples) <= RATE
    assert abs(float(np.median(window.samples)) - 0.25) < 0.01


def test_the_example_runs_as_documented(decoded):
    enhanced = Pipeline([GreyTwice()], Stats("cpu")).process(decoded[0])
    assert same_pixels(
        enhanced.video, Pipeline([GreyTwice()], Stats("cpu")).process(decoded[0]).video
    )


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 3.0])
def test_scaled_maps_corners_to_corners(scale):
    affine = np.array([[2.0, 0.5, 3.0], [-0.5, 2.0, 7.0]])
    larger = scaled(affine, scale)
    for point in ((0.0, 0.0), (17.0, 5.0), (640.0, 480.0)):
        q = [(coordinate + 0.5) * scale - 0.5 for coordinate in point]
        assert larger @ [*q, 1.0] == pytest.approx(affine @ [*point, 1.0])


class Broken(Stage):
    """Raises wherever it can."""

    def run(self, context, canvas):
        raise RuntimeError("run")

    def output_size(self, width, height):
        raise RuntimeError("output_size")

    def observe(self, context):
        raise RuntimeError("observe")

    def between_frames(self):
        raise RuntimeError("between_frames")

    def reset(self):
        raise RuntimeError("reset")


async def test_a_stage_that_raises_everywhere_does_not_break_the_stream(enhancer):
    enhancer.stages[:] = [Broken()]
    outcomes, sent = [], numbered(12)
    track = EnhancedVideoTrack(
        ListTrack(sent, 0.02), enhancer, on_frame=lambda one: outcomes.append(one.outcome)
    )
    with contextlib.suppress(MediaStreamError):
        while True:
            assert await track.recv() in sent
    assert len(outcomes) + track.stats.frames.dropped == 12
    assert set(outcomes) <= {"passed: failed", "passed: late"}
    assert {"restoring", "between frames", "resizing"} <= set(track.stats.faults.counts)


class Sound(MediaStreamTrack):
    """Five frames, then silence or the end."""

    kind = "audio"

    def __init__(self, ends: bool) -> None:
        super().__init__()
        self.ends, self.count = ends, 0

    async def recv(self):
        self.count += 1
        if self.count > 5:
            if self.ends:
                raise MediaStreamError
            await asyncio.Event().wait()
        piece = av.AudioFrame.from_ndarray(np.full((1, 960), 8192, np.int16), "s16", "mono")
        piece.sample_rate = 48_000
        return piece


async def test_stopping_a_rooms_sound_ends_a_wait_for_it():
    """A relay that waits for the next frame would never end otherwise."""
    track = DelayedAudioTrack(Sound(ends=False), lambda: 0.0, Stats("cpu"))
    for _ in range(5):
        await track.recv()
    waiting = asyncio.ensure_future(track.recv())
    await asyncio.sleep(0.01)
    track.stop()
    with pytest.raises(MediaStreamError):
        await asyncio.wait_for(waiting, 5)
    for _ in range(3):  # more viewers' relays
        with pytest.raises(MediaStreamError):
            await asyncio.wait_for(track.recv(), 5)


async def test_a_rooms_sound_reaches_its_history():
    history, stats = SoundHistory(), Stats("cpu")
    track = DelayedAudioTrack(Sound(ends=True), lambda: 0.0, stats, history)
    heard = [await track.recv() for _ in range(5)]
    with pytest.raises(MediaStreamError):
        await track.recv()
    assert len(heard) == 5
    window = history.window(time.perf_counter())
    assert abs(len(window.samples) - 5 * 320) <= 32
