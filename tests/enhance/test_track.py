"""The plugin on tracks that behave and misbehave."""

import asyncio
import logging
import time

import av
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from receiver.calls.track import RETRY_AFTER, EnhancedVideoTrack, NewestSlot
from receiver.enhance.enhancer import Enhancer
from receiver.media.frame import DecodedFrame
from tests.conftest import plain_frame


class ListTrack(MediaStreamTrack):
    """Gives frames one by one, `interval` seconds apart, and ends."""

    kind = "video"

    def __init__(self, frames: list[av.VideoFrame], interval: float) -> None:
        super().__init__()
        self.frames, self.interval, self.given = list(frames), interval, 0

    async def recv(self):
        await asyncio.sleep(self.interval)
        if not self.frames:
            self.stop()
            raise MediaStreamError
        self.given += 1
        return self.frames.pop(0)


def numbered(count: int) -> list[av.VideoFrame]:
    frames = [plain_frame(64, 48) for _ in range(count)]
    for index, frame in enumerate(frames):
        frame.pts = 3000 * index
    return frames


def fresh(decoded: list[DecodedFrame]) -> list[av.VideoFrame]:
    """The shared decoded frames, as if they had not arrived yet."""
    for frame in decoded:
        frame.video.opaque = None
    return [frame.video for frame in decoded]


class SlowEnhancer(Enhancer):
    """Does the real work and sleeps on top of it."""

    pause = 0.0

    def process(self, frame, *more):
        time.sleep(self.pause)
        return super().process(frame, *more)


async def read_all(track: MediaStreamTrack) -> list[av.VideoFrame]:
    frames = []
    while True:
        try:
            frames.append(await track.recv())
        except MediaStreamError:
            return frames


async def test_every_frame_comes_out_in_order_with_its_pts(enhancer):
    source = ListTrack(numbered(20), 0.01)
    track = EnhancedVideoTrack(source, enhancer)
    assert [frame.pts for frame in await read_all(track)] == [3000 * i for i in range(20)]
    counts = track.stats.frames
    assert (counts.received, counts.passed, counts.dropped) == (20, 20, 0)
    assert track.readyState == "ended"


async def test_faces_are_restored_on_the_way(enhancer, decoded):
    source = ListTrack(fresh(decoded), 0.1)
    track = EnhancedVideoTrack(source, enhancer, deadline=10.0)
    outputs = await read_all(track)
    assert len(outputs) == len(decoded)
    assert track.stats.frames.enhanced == len(decoded)
    assert track.stats.milliseconds("added latency", 50)[0] > 0


async def test_a_slow_consumer_gets_the_newest_and_nothing_piles_up(enhancer):
    for video in numbered(10):  # the first search loads the detector
        enhancer.enhance(DecodedFrame.from_video(video))
    source = ListTrack(numbered(40), 0.005)
    track = EnhancedVideoTrack(source, enhancer)
    await asyncio.sleep(0.1)
    taken = 0
    while source.readyState == "live":
        given = source.given
        frame = await track.recv()
        assert frame.pts >= 3000 * (given - 1)  # nothing older than the last one that was given
        taken += 1
        await asyncio.sleep(0.02)
    counts = track.stats.frames
    assert counts.received == 40
    assert counts.dropped == 40 - counts.passed - (1 if track._slot._frame else 0)
    assert counts.dropped > 10
    track.stop()


class NotingEnhancer(Enhancer):
    """Notes what it is asked for, and when its frames left."""

    def __init__(self, generator):
        super().__init__(generator)
        self.noted = []

    def process(self, frame, *more):
        self.noted.append("enhance")
        return super().process(frame, *more)

    def between_frames(self):
        self.noted.append("between")
        super().between_frames()

    def left(self, enhanced):
        self.noted.append("left")


@pytest.mark.parametrize("interval", [0.08, 0.0])
async def test_what_takes_long_is_done_when_a_frame_has_left(generator, decoded, interval):
    """Not before, and at least once per frame, even where the next one waits already."""
    enhancer = NotingEnhancer(generator)
    source = ListTrack(fresh(decoded)[:12], interval)
    track = EnhancedVideoTrack(source, enhancer, deadline=10.0, on_frame=enhancer.left)
    await read_all(track)
    noted = " ".join(enhancer.noted)
    assert "enhance between" not in noted
    assert noted.count("between") >= noted.count("enhance") >= 1
    if interval:
        assert noted.count("left between") >= noted.count("left") - 1  # the last one may end it


async def test_a_late_frame_goes_out_untouched_and_tries_become_rarer(generator, decoded):
    enhancer = SlowEnhancer(generator)
    SlowEnhancer.pause = 0.05
    sent = fresh(decoded)[:18]
    track = EnhancedVideoTrack(ListTrack(sent, 0.3), enhancer, deadline=0.02)
    outputs = await read_all(track)
    untouched = "".join("-" if any(one is frame for frame in sent) else "e" for one in outputs)
    skipped = [len(run) for run in untouched.split("e") if run]
    assert skipped == [RETRY_AFTER[0], 2 * RETRY_AFTER[0]]
    assert sum(skipped) == track.stats.frames.skipped
    assert track.stats.frames.enhanced == untouched.count("e")


async def test_a_moments_trouble_costs_a_moment(generator, decoded):
    enhancer = SlowEnhancer(generator)
    track = EnhancedVideoTrack(ListTrack(fresh(decoded), 0.1), enhancer, deadline=0.09)
    SlowEnhancer.pause = 0.1
    outputs = [await track.recv() for _ in range(6)]
    SlowEnhancer.pause = 0.0
    outputs += await read_all(track)
    assert track.stats.frames.skipped <= 2 * RETRY_AFTER[0]
    assert len(outputs) + track.stats.frames.dropped == len(decoded)
    assert outputs[-1].opaque is None  # restored again: a new frame


class FailingEnhancer(Enhancer):
    """Raises on every other frame."""

    count = 0

    def process(self, frame, *more):
        self.count += 1
        if self.count % 2:
            raise RuntimeError("no reason")
        return super().process(frame, *more)


async def test_a_failure_passes_the_frame_on_and_is_told_once(generator, caplog):
    source = ListTrack(numbered(10), 0.005)
    track = EnhancedVideoTrack(source, FailingEnhancer(generator))
    with caplog.at_level(logging.ERROR):
        outputs = await read_all(track)
    assert len(outputs) + track.stats.frames.dropped == 10
    assert track.stats.frames.failed == (len(outputs) + 1) // 2
    assert len([record for record in caplog.records if "restoring failed" in record.message]) == 1


async def test_stopping_the_track_stops_its_source(enhancer):
    source = ListTrack(numbered(100), 0.005)
    track = EnhancedVideoTrack(source, enhancer)
    await track.recv()
    track.stop()
    assert source.readyState == "ended"
    with pytest.raises(MediaStreamError):
        await track.recv()


async def test_every_frame_that_leaves_is_shown_as_received_and_as_it_leaves(enhancer):
    seen = []
    track = EnhancedVideoTrack(ListTrack(numbered(5), 0.01), enhancer, on_frame=seen.append)
    outputs = await read_all(track)
    assert [(one.received.video.pts, one.video) for one in seen] == [
        (output.pts, output) for output in outputs
    ]


async def test_the_slot_holds_one_and_the_newest():
    slot = NewestSlot()
    first, second = numbered(2)
    assert slot.put(first) is None
    assert slot.put(second) is first
    assert await slot.take() is second
    waiting = asyncio.ensure_future(slot.take())
    await asyncio.sleep(0)
    slot.put(first)
    assert await waiting is first
    slot.put(second)
    slot.close()
    assert await slot.take() is second
    assert await slot.take() is None
