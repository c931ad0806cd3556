"""Tracks that are sent: times, I-frames, rate, sound and end."""

import asyncio
import threading
import time
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from receiver.media.encoding import Encoding, open_decoder
from receiver.media.planes import copy_frame
from receiver.sending.encoded_track import MAX_LATENESS, REPEAT_AFTER, Clock, EncodedTrack
from receiver.sending.portrait import FPS
from receiver.sending.sources import Source, clip_source, portrait_source
from receiver.signalling.connections import read_to_the_end
from receiver.transport.sending import KeyframeRequests
from tests.conftest import plain_frame
from tests.media.clips import VARIABLE, number_of, onsets, tone, write_timed
from tests.media.test_playing import open_files


class Simulated(Clock):
    """A clock that never waits."""

    seconds = 0.0

    @property
    def now(self) -> float:
        return self.seconds

    async def until(self, due: float) -> None:
        self.seconds = max(self.seconds, due)
        await asyncio.sleep(0)


@pytest.fixture
def simulated(monkeypatch) -> None:
    monkeypatch.setattr("receiver.sending.encoded_track.Clock", Simulated)


async def test_frequent_requests_yield_a_key_frame_every_half_second(monkeypatch, simulated):
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("receiver.transport.sending.time", clock)
    track = EncodedTrack(portrait_source(), Encoding(kbps=100, keyframe_every=10_000))
    track.begin()
    keyed = []
    for number in range(31):
        now[0] = 1000 + number / FPS
        track.request_keyframe()
        if (await track.recv()).is_keyframe:
            keyed.append(number)
    track.stop()
    assert keyed == [0, FPS // 2, FPS]


async def sent_by(track: EncodedTrack, seconds: float) -> list[tuple[float, int]]:
    """Returns the time of each packet, and the number of `write_timed`'s frame that it shows."""
    decoder, sent = open_decoder(), []
    while not sent or sent[-1][0] < seconds:
        packet = await track.recv()
        (frame,) = decoder.decode(packet)
        sent.append((float(packet.pts * packet.time_base), number_of(frame)))
    track.stop()
    return sent


async def test_frames_of_a_variable_rate_keep_their_times(tmp_path, simulated):
    path = write_timed(tmp_path / "vfr.mkv", VARIABLE)
    track = EncodedTrack(clip_source(path), Encoding(crf=10))
    track.begin()
    sent = await sent_by(track, 5.999)
    first: dict[int, float] = {}
    for at, number in sent:
        first.setdefault(number, at)
    errors = [abs(first[number] - float(own)) for number, own in enumerate(VARIABLE)]
    assert max(errors) < 0.00002  # RTP's unit is 0.000011 s
    for at, number in sent:  # the frame shown is the one that the file shows at that time
        assert number == max(n for n, own in enumerate(VARIABLE) if own <= at + 0.001)


async def test_no_frame_is_sent_before_it_is_due(tmp_path):
    times = [*(i * 0.033 for i in range(10)), 0.8, 1.0]
    source = clip_source(write_timed(tmp_path / "vfr.mkv", times))
    track = EncodedTrack(source, Encoding(kbps=100))
    track.begin()
    began = time.perf_counter()
    for due in times:
        pts = 0.0
        while abs(pts - due) > 0.001:
            packet = await track.recv()
            pts = float(packet.pts * packet.time_base)
        assert time.perf_counter() - began > due - 0.005
    track.stop()


async def test_the_newest_frame_is_sent_again_in_a_pause(tmp_path, simulated):
    source = clip_source(write_timed(tmp_path / "slides.mkv", [0, 10.1, 25]))
    track = EncodedTrack(source, Encoding(crf=10, keyframe_every=10_000))
    track.begin()
    sent = await sent_by(track, 12.0)
    assert np.diff([at for at, _ in sent]).max() <= 1.5 * REPEAT_AFTER + 0.001
    assert [number for at, number in sent if at < 10.09] == [0] * 20
    assert (pytest.approx(10.1, abs=0.001), 1) in sent
    assert {number for at, number in sent if at > 10.09} == {1}


@pytest.mark.parametrize("gap", [0.26, 0.4, 0.7, 0.76, 0.9, 3.0])
async def test_repeated_frames_do_not_exceed_the_rate_of_the_encoder(tmp_path, simulated, gap):
    source = clip_source(write_timed(tmp_path / "slow.mp4", [gap * i for i in range(30)]))
    track = EncodedTrack(source, Encoding(kbps=100), 29 * gap)
    track.begin()
    await read_to_the_end(track)
    assert 29 <= track.frames_sent <= 29 * gap * track._encoder.framerate + 1


async def test_bursts_of_a_clip_keep_within_the_rate(portrait, simulated):
    """With the average rate, the encoder spent three times as many bits."""
    times = [t + i / 30 for t in (0, 6, 12) for i in range(60)]

    def frames():
        for at, picture in zip(times, cycle(portrait), strict=False):
            frame = copy_frame(picture)
            frame.pts, frame.time_base = round(at * 90000), Fraction(1, 90000)
            yield frame

    source = Source(frames, 640, 480, Fraction(len(times), 18), Fraction(30))
    track, sizes = EncodedTrack(source, Encoding(kbps=60), scene_cuts=False), []
    track.begin()
    await read_to_the_end(
        track, lambda one: sizes.append((float(one.pts * one.time_base), one.size))
    )
    for begin in (0, 6, 12):
        burst = sum(size for at, size in sizes if begin <= at < begin + 2)
        assert burst * 8 / 2 < 1.25 * 60_000


async def test_a_key_frame_requested_in_a_pause_is_sent(tmp_path, simulated):
    source = clip_source(write_timed(tmp_path / "slides.mkv", [0, 30, 60]))
    track = EncodedTrack(source, Encoding(kbps=100, keyframe_every=10_000))
    track.begin()
    assert (await track.recv()).is_keyframe
    before = await track.recv()
    assert not before.is_keyframe
    track._keyframes = KeyframeRequests(0.0)  # the last one is long ago
    track.request_keyframe()
    packet = await track.recv()
    assert packet.is_keyframe
    assert float((packet.pts - before.pts) * packet.time_base) == pytest.approx(REPEAT_AFTER)
    assert not (await track.recv()).is_keyframe
    track.stop()


@pytest.mark.parametrize(("seconds", "frames"), [(1.3, 3), (12.0, 24)])
async def test_the_limit_is_a_time_and_not_a_number_of_frames(tmp_path, simulated, seconds, frames):
    """At 0.1 frames a second, 1.3 s would be less than one frame."""
    source = clip_source(write_timed(tmp_path / "slides.mkv", [0, 10.1, 25]))
    track = EncodedTrack(source, Encoding(kbps=100), seconds)
    track.begin()
    await read_to_the_end(track)
    assert track.frames_sent == frames
    assert track._clock.now == pytest.approx(seconds)
    assert track.ended.is_set()


async def test_frames_of_a_camera_get_the_time_of_their_reading(simulated):
    def frames():
        for _ in range(3):
            time.sleep(0.2)
            yield plain_frame(64, 48)

    track = EncodedTrack(Source(frames, 64, 48, Fraction(30), live=True), Encoding(kbps=100))
    track._clock = Clock()
    track.begin()
    sent = [await track.recv() for _ in range(3)]
    gaps = np.diff([float(packet.pts * packet.time_base) for packet in sent])
    assert gaps == pytest.approx([0.2, 0.2], abs=0.15)
    with pytest.raises(MediaStreamError):
        await track.recv()


async def test_a_late_frame_delays_video_and_sound_alike(tmp_path):
    """A computer that decodes slower than a clip plays: the sound does not run away."""
    path = write_timed(tmp_path / "clip.mkv", [i / 25 for i in range(25)], tone(1.0))
    quick = clip_source(path)

    def slow():
        for frame in quick.frames():
            time.sleep(0.08)  # half as fast as it plays
            yield frame

    source = Source(slow, quick.width, quick.height, quick.rate, sound=quick.sound)
    track = EncodedTrack(source, Encoding(kbps=100))
    assert track.sound is not None
    heard = 0.0

    async def hear():
        nonlocal heard
        while True:
            heard = (await track.sound.recv()).time

    hearing = asyncio.ensure_future(hear())
    track.begin()
    apart = []
    while len(apart) < 40:
        packet = await track.recv()
        apart.append(heard - float(packet.pts * packet.time_base))
    track.stop()
    hearing.cancel()
    assert max(apart) < MAX_LATENESS + 0.15  # it would be 1.6


async def test_video_and_sound_stay_in_sync(tmp_path, simulated):
    """Compares the times sent in a hundred passes of the clip."""
    path = write_timed(tmp_path / "clip.mkv", [i / 25 for i in range(10)], tone(0.2), 0.1)
    track = EncodedTrack(clip_source(path), Encoding(crf=10))
    assert track.sound is not None
    track.begin()
    shown = [at for at, number in await sent_by(track, 39.5) if number == 0]
    assert len(shown) >= 99
    track = EncodedTrack(clip_source(path), Encoding(crf=10))
    track.begin()
    pieces = [await track.sound.recv() for _ in range(1975)]
    track.stop()
    samples = np.concatenate([piece.to_ndarray().reshape(-1, 2)[:, 0] for piece in pieces])
    begun = [n / 48000 for n in onsets(samples)]
    offsets = np.subtract(begun[:99], shown[:99])
    assert offsets[0] == pytest.approx(0.1, abs=0.001)
    assert np.ptp(offsets) < 0.0001


async def test_the_sound_and_the_threads_end_with_the_track(tmp_path):
    path = write_timed(tmp_path / "clip.mkv", [i / 25 for i in range(10)], tone(0.4))
    track = EncodedTrack(clip_source(path), Encoding(kbps=100))
    assert track.sound is not None
    waiting = [asyncio.ensure_future(one.recv()) for one in (track, track.sound)]
    await asyncio.sleep(0.05)
    assert not any(one.done() for one in waiting)  # it has not begun
    track.begin()
    await asyncio.gather(*waiting)
    assert {"sender", "sound"} <= {one.name for one in threading.enumerate()}
    waiting = [asyncio.ensure_future(one.recv()) for one in (track, track.sound)]
    track.stop()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, MediaStreamError | av.AudioFrame) for one in ends)
    for one in (track, track.sound):
        with pytest.raises(MediaStreamError):
            await one.recv()
    async with asyncio.timeout(10):
        while {"sender", "sound"} & {one.name for one in threading.enumerate()}:
            await asyncio.sleep(0.01)
    if Path("/proc/self/fd").is_dir():
        assert open_files(path) == 0


async def test_a_track_that_never_started_ends(tmp_path):
    path = write_timed(tmp_path / "clip.mkv", [i / 25 for i in range(10)], tone(0.4))
    track = EncodedTrack(clip_source(path), Encoding(kbps=100))
    waiting = asyncio.ensure_future(track.recv())
    await asyncio.sleep(0.01)
    track.stop()
    with pytest.raises(MediaStreamError):
        await waiting
