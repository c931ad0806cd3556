"""Where the frames of a call come from."""

import asyncio
import threading
import time
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path

import av
import numpy as np
import pytest
from aiortc.mediastreams import MediaStreamError

from receiver.commands.loopback import consume
from receiver.errors import InputError, MissingError
from receiver.media.encoding import Encoding, open_decoder
from receiver.media.planes import copy_frame
from receiver.sending.portrait import LOOP, portrait_frames
from receiver.sending.tracks import (
    KEYFRAMES_EVERY,
    LATE,
    STANDS,
    Clock,
    EncodedTrack,
    KeyframeRequests,
    Source,
    camera_source,
    clip_source,
    even_size,
    portrait_source,
)
from tests.conftest import plain_frame, write_clip
from tests.media.test_playing import VARIABLE, number_of, onsets, open_files, tone, write_timed


def test_the_portrait_is_a_seamless_loop(portrait):
    frames = list(portrait_frames())
    assert len(frames) == LOOP == 240
    assert {(f.width, f.height, f.format.name) for f in frames} == {(640, 480, "yuv420p")}
    luma = [f.reformat(format="gray").to_ndarray().astype(float) for f in frames]
    steps = [abs(luma[i] - luma[i - 1]).mean() for i in range(1, LOOP)]
    seam = abs(luma[0] - luma[-1]).mean()
    assert seam < 1.5 * max(steps)
    assert abs(luma[60] - luma[0]).mean() > 1.5 * max(steps)  # it does move


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skimage.data", None)
    with pytest.raises(MissingError, match=r"keyframe-receiver\[demo\]"):
        next(portrait_frames())


def test_a_clip_goes_round(clip):
    source = clip_source(clip)
    assert (source.width, source.height, source.rate) == (640, 480, 30)
    assert source.sound is not None
    assert len(list(islice(source.frames(), 100))) == 100  # of 40 in the file


@pytest.mark.parametrize(("rate", "sent"), [(24, 24), (30, 30), (50, 25), (60, 30), (120, 30)])
def test_calls_have_thirty_frames_a_second_at_most(tmp_path, rate, sent):
    path = tmp_path / "fast.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for index in range(12):
            frame = plain_frame(64, 48)
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    assert clip_source(path).rate == sent


@pytest.mark.parametrize(
    ("size", "sent"),
    [
        ((640, 480), (640, 480)),
        ((641, 479), (640, 478)),
        ((3840, 2160), (1280, 720)),
        ((1, 1), (2, 2)),
    ],
)
def test_frames_are_sent_even_and_not_larger_than_calls_are(size, sent):
    assert even_size(*size) == sent


def test_an_odd_clip_can_be_sent(tmp_path):
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", rate=30)
        video.width, video.height, video.pix_fmt = 101, 75, "yuv420p"
        frame = av.VideoFrame(101, 75, "yuv420p")
        frame.pts, frame.time_base = 0, Fraction(1, 30)
        container.mux(video.encode(frame))
        container.mux(video.encode(None))
    frame = next(clip_source(path).frames())
    assert (frame.width, frame.height) == (100, 74)


def test_a_clip_that_cannot_be_played_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no file .*nowhere\.mp4"):
        clip_source(tmp_path / "nowhere.mp4")
    write_clip(tmp_path / "short.mp4", [plain_frame()], with_audio=False)
    data = bytearray((tmp_path / "short.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 3000] = bytes(3000)
    (tmp_path / "zeros.mp4").write_bytes(data[:])
    with pytest.raises(InputError, match=r"zeros\.mp4"):
        clip_source(tmp_path / "zeros.mp4")


def test_a_camera_that_is_not_there_is_named():
    with pytest.raises(InputError, match="camera 97 gives no picture"):
        camera_source(97)


def test_key_frames_on_request_are_one_in_an_interval():
    requests = KeyframeRequests(interval=0.2)
    assert not requests.take()  # nobody asked
    requests.ask()
    requests.ask()
    assert requests.take()
    assert not requests.take()
    requests.ask()
    assert not requests.take()  # too soon
    time.sleep(0.25)
    assert requests.take()  # but not forgotten
    time.sleep(0.25)
    assert not requests.take()


async def test_a_clip_has_few_key_frames_however_often_they_are_asked_for():
    track = EncodedTrack(portrait_source(), Encoding(kbps=100))
    track.begin()
    began, keyed = time.monotonic(), 0
    for _ in range(30):
        track.request_keyframe()
        keyed += (await track.recv()).is_keyframe
    track.stop()
    assert 2 <= keyed <= (time.monotonic() - began) / KEYFRAMES_EVERY + 1


class Simulated(Clock):
    """A clock on which nobody has to wait."""

    seconds = 0.0

    @property
    def now(self) -> float:
        return self.seconds

    async def until(self, due: float) -> None:
        self.seconds = max(self.seconds, due)
        await asyncio.sleep(0)


@pytest.fixture
def simulated(monkeypatch) -> None:
    monkeypatch.setattr("receiver.sending.tracks.Clock", Simulated)


async def sent_by(track: EncodedTrack, seconds: float) -> list[tuple[float, int]]:
    """When each frame was sent, and which one of `write_timed`'s it shows at the other side."""
    decoder, sent = open_decoder(), []
    while not sent or sent[-1][0] < seconds:
        packet = await track.recv()
        (frame,) = decoder.decode(packet)
        sent.append((float(packet.pts * packet.time_base), number_of(frame)))
    track.stop()
    return sent


async def test_frames_of_a_variable_rate_are_sent_at_their_own_times(tmp_path, simulated):
    path = write_timed(tmp_path / "vfr.mkv", VARIABLE)
    track = EncodedTrack(clip_source(path), Encoding(crf=10))
    track.begin()
    sent = await sent_by(track, 5.999)
    first: dict[int, float] = {}
    for at, number in sent:
        first.setdefault(number, at)
    errors = [abs(first[number] - float(own)) for number, own in enumerate(VARIABLE)]
    assert max(errors) < 0.00002  # RTP's unit is 0.000011 s
    for at, number in sent:  # whatever is shown is what the file shows then
        assert number == max(n for n, own in enumerate(VARIABLE) if own <= at + 0.001)


async def test_frames_are_sent_when_they_are_due(tmp_path):
    times = [*(i * 0.033 for i in range(10)), 0.8, 1.0]
    source = clip_source(write_timed(tmp_path / "vfr.mkv", times))
    track = EncodedTrack(source, Encoding(kbps=100))
    track.begin()
    began, late = time.perf_counter(), []
    for due in times:
        pts = 0.0
        while abs(pts - due) > 0.001:
            packet = await track.recv()
            pts = float(packet.pts * packet.time_base)
        late.append(time.perf_counter() - began - due)
    track.stop()
    assert min(late) > -0.005
    assert sorted(late)[len(late) // 2] < 0.1


async def test_the_newest_frame_is_sent_again_in_a_pause(tmp_path, simulated):
    source = clip_source(write_timed(tmp_path / "slides.mkv", [0, 10.1, 25]))
    track = EncodedTrack(source, Encoding(crf=10, keyframe_every=10_000))
    track.begin()
    sent = await sent_by(track, 12.0)
    assert np.diff([at for at, _ in sent]).max() <= 1.5 * STANDS + 0.001
    assert [number for at, number in sent if at < 10.09] == [0] * 20
    assert (pytest.approx(10.1, abs=0.001), 1) in sent
    assert {number for at, number in sent if at > 10.09} == {1}


@pytest.mark.parametrize("gap", [0.26, 0.4, 0.7, 0.76, 0.9, 3.0])
async def test_repeated_frames_are_no_more_than_the_encoder_counts_on(tmp_path, simulated, gap):
    source = clip_source(write_timed(tmp_path / "slow.mp4", [gap * i for i in range(30)]))
    track = EncodedTrack(source, Encoding(kbps=100), 29 * gap)
    track.begin()
    await consume(track, lambda packet: None)
    assert 29 <= track.frames_sent <= 29 * gap * track._encoder.framerate + 1


async def test_bursts_of_a_clip_take_no_more_bits_than_it_may(portrait, simulated):
    """They took three times as many: the encoder counted with the average rate."""
    times = [t + i / 30 for t in (0, 6, 12) for i in range(60)]

    def frames():
        for at, picture in zip(times, cycle(portrait), strict=False):
            frame = copy_frame(picture)
            frame.pts, frame.time_base = round(at * 90000), Fraction(1, 90000)
            yield frame

    source = Source(frames, 640, 480, Fraction(len(times), 18), Fraction(30))
    track, sizes = EncodedTrack(source, Encoding(kbps=60), scene_cuts=False), []
    track.begin()
    await consume(track, lambda one: sizes.append((float(one.pts * one.time_base), one.size)))
    for begin in (0, 6, 12):
        burst = sum(size for at, size in sizes if begin <= at < begin + 2)
        assert burst * 8 / 2 < 1.25 * 60_000


def test_the_encoder_counts_on_the_rate_of_bursts(tmp_path):
    source = clip_source(write_timed(tmp_path / "vfr.mp4", VARIABLE, video_codec="libx264"))
    assert source.rate < 10
    assert source.fastest == 30


async def test_a_key_frame_that_is_asked_for_in_a_pause_comes(tmp_path):
    source = clip_source(write_timed(tmp_path / "slides.mkv", [0, 30, 60]))
    track = EncodedTrack(source, Encoding(kbps=100, keyframe_every=10_000))
    track.begin()
    assert (await track.recv()).is_keyframe
    assert not (await track.recv()).is_keyframe
    began = time.monotonic()
    track.request_keyframe()
    assert (await track.recv()).is_keyframe
    assert time.monotonic() - began < 2 * STANDS
    assert not (await track.recv()).is_keyframe
    track.stop()


@pytest.mark.parametrize(("seconds", "frames"), [(1.3, 3), (12.0, 24)])
async def test_a_limit_is_of_time_and_not_of_frames(tmp_path, simulated, seconds, frames):
    """At 0.1 frames a second, 1.3 s were no frame at all."""
    source = clip_source(write_timed(tmp_path / "slides.mkv", [0, 10.1, 25]))
    track = EncodedTrack(source, Encoding(kbps=100), seconds)
    track.begin()
    await consume(track, lambda packet: None)
    assert track.frames_sent == frames
    assert track._clock.now == pytest.approx(seconds)
    assert track.ended.is_set()


async def test_a_camera_gives_its_frames_their_times(simulated):
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


async def test_what_is_late_puts_off_picture_and_sound_alike(tmp_path):
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
    assert max(apart) < LATE + 0.15  # it would be 1.6


async def test_picture_and_sound_are_sent_together(tmp_path, simulated):
    """Over a hundred passes, by the times that are sent."""
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


async def test_everything_ends_with_the_track(tmp_path):
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


async def test_a_track_that_never_began_ends(tmp_path):
    path = write_timed(tmp_path / "clip.mkv", [i / 25 for i in range(10)], tone(0.4))
    track = EncodedTrack(clip_source(path), Encoding(kbps=100))
    waiting = asyncio.ensure_future(track.recv())
    await asyncio.sleep(0.01)
    track.stop()
    with pytest.raises(MediaStreamError):
        await waiting
