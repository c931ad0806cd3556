"""Times, views and pixel formats of video files, apart from any file."""

from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.media.display import Display
from receiver.media.files.clock import BACK, FORWARD, FrameClock, PacketClock
from receiver.media.fitting import fitted
from receiver.media.pixels import Storage, samples
from receiver.media.planes import planes

ONE = 0x10000
TURNS = {
    "upright": ((ONE, 0, 0, 0, ONE), lambda plane: plane),
    "a quarter, clockwise": ((0, ONE, 0, -ONE, 0), lambda plane: np.rot90(plane, -1)),
    "a half": ((-ONE, 0, 0, 0, -ONE), lambda plane: np.rot90(plane, 2)),
    "a quarter, counterclockwise": ((0, -ONE, 0, ONE, 0), np.rot90),
    "mirrored": ((-ONE, 0, 0, 0, ONE), lambda plane: plane[:, ::-1]),
    "upside down": ((ONE, 0, 0, 0, -ONE), lambda plane: plane[::-1]),
    "transposed": ((0, ONE, 0, ONE, 0), lambda plane: plane.T),
    "transposed across": ((0, -ONE, 0, -ONE, 0), lambda plane: np.rot90(plane, 2).T),
}
"""First five numbers of a display matrix, and its effect on a plane (ISO/IEC 14496-12, 8.3.2)."""


def packet(stream: int, dts: int | None, kind: str = "video", lasts: int = 1) -> SimpleNamespace:
    """Makes a packet on a clock of 25 ticks a second."""
    return SimpleNamespace(
        stream=SimpleNamespace(index=stream, type=kind),
        pts=dts,
        dts=dts,
        duration=lasts,
        time_base=Fraction(1, 25),
    )


def placed(clock: PacketClock, packets: list[SimpleNamespace]) -> list[int | None]:
    for one in packets:
        clock.place(one)
    return [one.dts for one in packets]


def test_times_without_a_jump_stay():
    clock = PacketClock(may_jump=True)
    assert placed(clock, [packet(0, t) for t in (3, 4, 5, 6)]) == [3, 4, 5, 6]


def test_the_origin_becomes_0():
    clock = PacketClock(may_jump=True, origin=Fraction(3, 25))
    assert placed(clock, [packet(0, t) for t in (2, 3, 4)]) == [-1, 0, 1]


def test_times_continue_in_a_new_segment():
    clock = PacketClock(may_jump=True)
    assert placed(clock, [packet(0, t) for t in (10, 11, 12, 2, 3)]) == [10, 11, 12, 13, 14]


def test_a_leap_is_a_pause_unless_the_format_may_jump():
    leap = 12 + int(FORWARD * 25) + 1
    times = [10, 11, leap, leap + 1]
    pause = PacketClock(may_jump=False)
    assert placed(pause, [packet(0, t) for t in times]) == times
    jump = PacketClock(may_jump=True)
    assert placed(jump, [packet(0, t) for t in times]) == [10, 11, 12, 13]


def test_streams_that_reach_a_jump_one_after_another_are_shifted_alike():
    clock = PacketClock(may_jump=True)
    packets = [packet(0, 100), packet(1, 100, "audio"), packet(0, 101), packet(1, 101, "audio")]
    packets += [packet(0, 5), packet(1, 102, "audio"), packet(1, 5, "audio"), packet(0, 6)]
    assert placed(clock, packets) == [100, 100, 101, 101, 102, 102, 102, 103]


def test_a_segment_begins_after_the_end_of_every_stream():
    clock = PacketClock(may_jump=True)
    packets = [packet(0, 100), packet(1, 100, "audio", lasts=30), packet(0, 5)]
    assert placed(clock, packets)[-1] == 130


def test_disorder_within_a_tenth_of_a_second_is_no_jump():
    clock = PacketClock(may_jump=True)
    back = int(BACK * 25)
    assert placed(clock, [packet(0, 10), packet(0, 10 - back)]) == [10, 10 - back]


def test_a_clock_that_does_not_jump_is_left_alone():
    """Those of Matroska are guessed by libav and go back after a pause, those of .mp4 at edits."""
    clock = PacketClock(may_jump=False)
    assert placed(clock, [packet(0, t) for t in (0, 3124, 1, 2)]) == [0, 3124, 1, 2]


def test_a_length_that_no_sound_has_is_not_believed():
    clock = PacketClock(may_jump=True)
    packets = [packet(1, 0, "audio", lasts=10**6), packet(1, 1, "audio"), packet(1, 0, "audio")]
    assert placed(clock, packets) == [0, 1, 0]
    assert packets[0].duration == 0


def test_subtitles_follow_the_others():
    clock = PacketClock(may_jump=True)
    packets = [packet(0, 100), packet(0, 3), packet(2, 4, "subtitle")]
    assert placed(clock, packets) == [100, 101, 102]


def frame(pts: int | None, lasts: int = 0) -> av.VideoFrame:
    one = av.VideoFrame(16, 16, "yuv420p")
    one.pts, one.duration = pts, lasts
    return one


def clocked(clock: FrameClock, frames: list[av.VideoFrame]) -> list[tuple[int, int]]:
    for one in frames:
        clock.place(one)
    return [(one.pts, one.duration) for one in frames]


def test_frames_keep_their_times_and_durations():
    clock = FrameClock(Fraction(1, 1000), Fraction(25))
    clock.sent(packet(0, 0))
    frames = [frame(0, 33), frame(33, 0), frame(1000, 3000)]
    assert clocked(clock, frames) == [(0, 33), (33, 40), (1000, 3000)]


def test_a_first_frame_stays_without_a_time_if_none_is_known():
    clock = FrameClock(Fraction(1, 25), Fraction(25), begins=None)
    clock.sent(packet(0, 7))
    frames = [frame(None), frame(7), frame(None)]
    for one in frames:
        clock.place(one)
    assert [one.pts for one in frames] == [None, 7, 8]


def test_frames_without_times_may_begin_before_nought():
    clock = FrameClock(Fraction(1, 25), Fraction(25), begins=Fraction(-2, 25))
    clock.sent(packet(0, None))
    assert [time for time, _ in clocked(clock, [frame(None)] * 1)] == [-2]


def test_no_frame_lasts_beyond_the_end():
    clock = FrameClock(Fraction(1, 25), Fraction(25), end=Fraction(7, 25))
    clock.sent(packet(0, 0))
    assert clocked(clock, [frame(0, 3), frame(4, 90)]) == [(0, 3), (4, 3)]


def test_frames_without_times_follow_at_the_rate():
    clock = FrameClock(Fraction(1, 1000), Fraction(30))
    clock.sent(packet(0, None))
    times = [time for time, _ in clocked(clock, [frame(None) for _ in range(91)])]
    assert times[:4] == [0, 33, 67, 100]
    assert times[-1] == 3000  # no sum of rounding errors


def test_frames_of_a_file_without_pts_take_the_packets_times_in_order():
    clock = FrameClock(Fraction(1, 25), Fraction(25))
    for dts, pts in ((0, None), (1, 4), (3, None), (2, 2)):
        one = packet(0, dts)
        one.pts = pts
        clock.sent(one)
    frames = [frame(pts) for pts in (None, 2, 4, 1)]
    assert [time for time, _ in clocked(clock, frames)] == [0, 1, 2, 3]


@given(st.lists(st.integers(-50, 50) | st.none(), min_size=1, max_size=30))
def test_times_always_ascend(times):
    clock = FrameClock(Fraction(1, 25), Fraction(25))
    clock.sent(packet(0, 0))
    placed_times = [time for time, _ in clocked(clock, [frame(time) for time in times])]
    assert all(a < b for a, b in pairwise(placed_times))


def noise(width: int, height: int, name: str) -> av.VideoFrame:
    """Makes a frame of random samples, far enough from black and white for any change."""
    random, one = np.random.default_rng(5), av.VideoFrame(width, height, name)
    deep = 4 if "10" in name else 1
    for plane in samples(one):
        plane[:] = random.integers(30 * deep, 200 * deep, plane.shape)
    return one


@pytest.mark.parametrize("name", ["yuv420p", "yuvj420p", "yuv420p10le"])
@pytest.mark.parametrize("turn", TURNS)
def test_a_view_is_what_players_show(turn, name):
    matrix, shown = TURNS[turn]
    stored = noise(34, 22, name)
    view = Display((*matrix, 0, 0, 0, 1 << 30)).shown(stored)
    assert (view is stored) == (turn == "upright")
    for seen, plane in zip(planes(view), planes(stored), strict=True):
        np.testing.assert_array_equal(seen, shown(plane))


@pytest.mark.parametrize("aspect", [Fraction(1), Fraction(4, 3), Fraction(8, 9)])
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p", "yuv444p10le", "gray", "yuv420p10le"])
def test_a_change_is_put_back_where_it_was_seen(name, turn, aspect):
    """And nothing else changes, to the bit."""
    display = Display((*TURNS[turn][0], 0, 0, 0, 1 << 30), aspect)
    stored = noise(96, 64, name)
    before = [plane.copy() for plane in samples(stored)]
    view = display.shown(stored)
    restored = av.VideoFrame(view.width, view.height, view.format.name)
    for to, of in zip(samples(restored), samples(view), strict=True):
        to[:] = of
    box = np.array([8.0, 12.0, 24.0, 36.0])
    luma = next(samples(restored))
    luma[12:36, 8:24] += 20
    display.put_back(stored, view, restored)
    left, top, right, bottom = display.stored_box(box, 96, 64)
    changed = np.argwhere(next(samples(stored)) != before[0])
    assert abs(changed.min(axis=0) - (top, left)).max() <= 1
    assert abs(changed.max(axis=0) + 1 - (bottom, right)).max() <= 1
    inner = np.s_[round(top) + 2 : round(bottom) - 2, round(left) + 2 : round(right) - 2]
    assert (next(samples(stored))[inner] == before[0][inner] + 20).all()
    for plane, was in list(zip(samples(stored), before, strict=True))[1:]:
        np.testing.assert_array_equal(plane, was)


def test_an_impossible_aspect_ratio_is_ignored():
    assert Display.of(noise(16, 16, "yuv420p"), Fraction(100)).aspect == 1
    assert Display.of(noise(16, 16, "yuv420p"), None).aspect == 1


@pytest.mark.parametrize(
    ("name", "size", "stored", "words"),
    [
        ("yuv420p", (64, 48), "yuv420p", ()),
        ("nv12", (64, 48), "yuv420p", ()),
        ("yuvj422p", (64, 48), "yuvj422p", ()),
        ("yuv444p10le", (63, 47), "yuv444p10le", ()),
        ("yuv420p10be", (64, 48), "yuv420p10le", ()),
        ("p010le", (64, 48), "yuv420p10le", ()),
        ("yuv411p", (64, 48), "yuv422p", ()),
        ("yuv440p", (64, 48), "yuv444p", ()),
        ("gray", (63, 47), "gray", ()),
        ("yuv420p", (63, 48), "yuv444p", ("63x48", "not every player")),
        ("yuv422p", (64, 47), "yuv422p", ()),
        ("yuv420p12le", (64, 48), "yuv420p10le", ("10 bits", "instead of 12")),
        ("yuva420p", (64, 48), "yuv420p", ("transparency",)),
        ("rgb24", (64, 48), "yuv444p", ("RGB",)),
        ("gbrp10le", (64, 48), "yuv444p10le", ("RGB",)),
        ("pal8", (64, 48), "yuv444p", ("RGB",)),
    ],
)
def test_frames_are_stored_in_the_nearest_format_of_x264(name, size, stored, words):
    one = av.VideoFrame(*size, name)
    storage = Storage.of(one)
    assert storage.name == stored
    assert storage.stored(one).format.name == stored
    assert bool(storage.change) == bool(words)
    for word in (name, stored, *words) if words else ():
        assert word in storage.change


def test_a_frame_of_another_size_lies_in_the_middle():
    inner = noise(40, 40, "yuv420p")
    inner.pts, inner.time_base, inner.duration = 7, Fraction(1, 25), 3
    outer = fitted(inner, 80, 40)
    assert (outer.width, outer.height, outer.pts, outer.duration) == (80, 40, 7, 3)
    luma, blue, red = planes(outer)
    np.testing.assert_array_equal(luma[:, 20:60], planes(inner)[0])
    np.testing.assert_array_equal(blue[:, 10:30], planes(inner)[1])
    assert (luma[:, :20] == 16).all()
    assert (luma[:, 60:] == 16).all()
    assert (red[:, :10] == 128).all()


def test_a_frame_of_the_same_size_is_not_touched():
    one = noise(40, 40, "yuv420p")
    assert fitted(one, 40, 40) is one
