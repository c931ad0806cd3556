"""A clip that is played in a loop: frames at their own times, and files that are damaged."""

import gc
import logging
import os
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from receiver.enhance.faces.tracking import FaceTracker
from receiver.errors import InputError
from receiver.media.files.playing import SHORTEST, SOUND_RATE, Loop
from receiver.media.planes import planes
from receiver.sending.sources import MAX_RATE, clip_source
from tests.conftest import plain_frame, write_clip
from tests.media.clips import VARIABLE, heard, number_of, onsets, played, tone, write_timed
from tests.media.probing import run_ffmpeg

# Times of frames


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.mov"])
def test_frames_of_a_variable_rate_come_at_their_own_times(tmp_path, name):
    """At the average rate the pictures were up to 2.4 s out of step."""
    path = write_timed(tmp_path / name, VARIABLE, video_codec="libx264")
    frames = played(Loop(path), 3 * len(VARIABLE))
    assert [number for number, _ in frames] == list(range(len(VARIABLE))) * 3
    begins = [time for number, time in frames if number == 0]
    for index, (number, time) in enumerate(frames):
        error = time - begins[index // len(VARIABLE)] - VARIABLE[number]
        assert abs(error) <= Fraction(1, 90000)
    lasts = begins[1] - begins[0]
    assert begins[2] - begins[1] == lasts
    assert VARIABLE[-1] < lasts <= VARIABLE[-1] + 2


@pytest.mark.parametrize(
    ("own", "sent"), [(24, 24), (25, 25), (29.97, 29.97), (30, 30), (50, 25), (60, 30), (120, 30)]
)
@pytest.mark.parametrize("scale", [1000, 90000])
def test_the_rate_is_limited_evenly(tmp_path, own, sent, scale):
    """Though times are rounded to milliseconds."""
    times, rate = [i / own for i in range(2 * round(own))], Fraction(own).limit_denominator(1001)
    path = write_timed(tmp_path / "clip.mkv", times, scale=scale, rate=rate)
    times = [float(time) for _, time in played(Loop(path), 40)]
    gaps = np.diff(times[: round(1.9 * sent)])
    assert len(gaps) > 30
    assert np.abs(gaps[1:] - 1 / sent).max() < 0.0025


def test_a_rate_that_jitters_is_not_limited(tmp_path):
    times = [i / 30 + (0.005 if i % 2 else -0.005) * (i > 0) for i in range(30)]
    assert [number for number, _ in played(Loop(write_timed(tmp_path / "a.mkv", times)), 60)] == [
        *range(30),
        *range(30),
    ]


def test_a_burst_is_limited_as_a_whole_clip_is(tmp_path):
    """A clip of 10 frames a second on average, with a second of 100."""
    times = [i / 100 for i in range(100)] + [1 + i / 2 for i in range(12)]
    source = write_timed(tmp_path / "a.mkv", times)
    within = [time for _, time in played(Loop(source), 60) if time < 1]
    assert 25 <= len(within) <= 31


def test_a_long_pause_stays_as_it_is(tmp_path):
    path = write_timed(tmp_path / "slides.mkv", [0, 10, 25])
    assert [float(time) for _, time in played(Loop(path), 3)] == [0, 10, 25]


def test_a_single_frame_does_not_open_the_file_all_the_time(tmp_path):
    path = write_timed(tmp_path / "one.mkv", [0])
    assert np.diff([time for _, time in played(Loop(path), 20)]).min() >= SHORTEST


# What is shown


@pytest.mark.parametrize(
    ("stored", "tag"),
    [("transpose=2", "-display_rotation:v:0 -90"), ("hflip", "-display_hflip:v:0")],
)
def test_a_phones_clip_is_sent_as_it_is_seen(raw, tmp_path, stored, tag):
    lying, phone = tmp_path / "lying.mp4", tmp_path / "phone.mp4"
    run_ffmpeg("-i", raw, "-vf", stored, "-c:v", "libx264", "-crf", 20, lying)
    run_ffmpeg(*tag.split(), "-i", lying, "-c", "copy", phone)
    plain, source, tracker = clip_source(raw), clip_source(phone), FaceTracker()
    assert (source.width, source.height) == (plain.width, plain.height)
    for seen, wanted in zip(islice(source.frames(), 24), islice(plain.frames(), 24), strict=True):
        assert (seen.width, seen.height) == (source.width, source.height)
        assert len(tracker.track(planes(seen)[0])) == 1
        luma = (planes(one)[0].astype(int) for one in (seen, wanted))
        assert np.abs(np.subtract(*luma)).mean() < 3


def test_wide_pixels_are_sent_square(raw, tmp_path):
    path = tmp_path / "sar.mp4"
    run_ffmpeg("-i", raw, "-vf", "scale=240:240,setsar=4/3", "-c:v", "libx264", path)
    source = clip_source(path)
    frame = next(source.frames())
    assert (source.width, source.height) == (frame.width, frame.height) == (320, 240)


def test_frames_keep_one_size_and_their_shape_if_the_files_change(raw, tmp_path):
    for name, size in (("a.ts", "320:240"), ("b.ts", "240:320")):
        run_ffmpeg("-i", raw, "-vf", f"scale={size}", "-c:v", "libx264", tmp_path / name)
    both = b"".join((tmp_path / name).read_bytes() for name in ("a.ts", "b.ts"))
    (tmp_path / "both.ts").write_bytes(both)
    frames = list(islice(clip_source(tmp_path / "both.ts").frames(), 48))
    assert {(frame.width, frame.height) for frame in frames} == {(320, 240)}
    assert planes(frames[-1])[0][:, :60].max() < 30  # black beside a frame that is upright


def test_cover_art_is_not_the_video(raw, tmp_path):
    cover, path = tmp_path / "cover.png", tmp_path / "cover.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "color=red:s=640x640", "-frames:v", 1, cover)
    run_ffmpeg(
        *("-i", cover, "-i", raw, "-map", 0, "-map", 1, "-c:v:0", "png", "-c:v:1", "libx264"),
        *("-disposition:v:0", "attached_pic", path),
    )
    assert (clip_source(path).width, clip_source(path).height) == (320, 240)


def test_a_clock_that_jumps_goes_on(raw, tmp_path):
    for name, offset in (("a.ts", 500), ("b.ts", 3)):
        run_ffmpeg("-i", raw, "-c:v", "libx264", "-output_ts_offset", offset, tmp_path / name)
    both = b"".join((tmp_path / name).read_bytes() for name in ("a.ts", "b.ts"))
    (tmp_path / "jump.ts").write_bytes(both)
    times = [frame.time for frame in islice(clip_source(tmp_path / "jump.ts").frames(), 96)]
    assert times[0] == 0
    assert np.diff(times).min() > 0.01
    assert np.diff(times).max() < 0.2


# Files that are damaged, or change


def test_a_broken_file_ends_its_pass_and_not_the_call(tmp_path):
    path = write_timed(
        *(tmp_path / "clip.mkv", [i / 25 for i in range(25)], tone(1.0)), video_codec="libx264"
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5])
    loop = Loop(path)
    frames = played(loop, 60)
    assert [number for number, _ in frames].count(0) >= 3
    begins = [time for number, time in frames if number == 0]
    assert begins[2] - begins[1] == begins[1] - begins[0] < 1
    assert len(heard(loop, 3.0))


@pytest.mark.parametrize("becomes", [None, "ffconcat version 1.0\nfile other.mkv\n", ""])
def test_a_file_that_goes_ends_the_playing_with_a_word(tmp_path, caplog, becomes):
    path = write_timed(tmp_path / "clip.mkv", [i / 25 for i in range(5)], tone(0.2))
    write_timed(tmp_path / "other.mkv", [i / 25 for i in range(50)])
    loop = Loop(path)
    frames, sound = loop.frames(MAX_RATE), loop.sound()
    next(frames), next(sound)
    path.unlink()
    if becomes is not None:
        path.write_text(becomes)
    assert [number_of(frame) for frame in frames] == [1, 2, 3, 4]
    assert len(list(sound)) == 9
    assert caplog.text.count("it is played no further") == 2


def test_a_file_that_loses_its_frames_ends_the_playing(tmp_path, caplog):
    path, other = tmp_path / "clip.mp4", tmp_path / "other.mp4"
    write_timed(path, [i / 25 for i in range(5)], video_codec="libx264")
    write_timed(other, [i / 25 for i in range(5)], video_codec="libx264")
    data = bytearray(other.read_bytes())
    start, size = data.index(b"mdat") + 4, int.from_bytes(data[data.index(b"mdat") - 4 :][:4])
    data[start : start + size - 8] = bytes(size - 8)
    other.write_bytes(data)
    frames = Loop(path).frames(MAX_RATE)
    next(frames)
    other.replace(path)
    assert [number_of(frame) for frame in frames] == [1, 2, 3, 4]
    assert "holds no frame any more, it is played no further" in caplog.text


def test_a_file_that_grows_keeps_picture_and_sound_together(tmp_path):
    """A pass stays as long as the first one: what would come after its end is left out."""
    path, longer = tmp_path / "clip.mkv", tmp_path / "longer.mkv"
    write_timed(path, [i / 25 for i in range(10)], tone(0.2), 0.1)
    write_timed(longer, [i / 25 for i in range(30)], tone(1.0), 0.1)
    loop = Loop(path)
    frames, sound = loop.frames(MAX_RATE), loop.sound()
    first = [next(frames) for _ in range(11)]
    pieces = [next(sound)]
    longer.replace(path)
    shown = [frame.time for frame in [*first, *islice(frames, 40)] if number_of(frame) == 0]
    assert len(shown) == 6
    lasts = shown[1]
    pieces += islice(sound, 150)
    samples = np.concatenate([piece.to_ndarray().reshape(-1, 2)[:, 0] for piece in pieces])
    assert shown == pytest.approx([n * lasts for n in range(len(shown))], abs=0.0001)
    begun = [n / SOUND_RATE for n in onsets(samples)][: len(shown)]
    assert np.subtract(begun, shown) == pytest.approx([0.1] * len(shown), abs=0.0001)


def test_sound_that_cannot_be_decoded_is_left_out_with_a_word(tmp_path, caplog):
    """Its codec is known, but nothing of it makes sense."""
    whole, path = tmp_path / "whole.mkv", tmp_path / "odd.mkv"
    write_timed(whole, [i / 25 for i in range(25)], tone(1.0), sound_codec="flac")
    chance = np.random.default_rng(0)
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        streams = {one.index: target.add_stream_from_template(one) for one in source.streams}
        for packet in source.demux():
            if not packet.size:
                continue
            sent = packet
            if packet.stream.type == "audio":
                sent = av.Packet(chance.bytes(packet.size))
                sent.pts, sent.dts, sent.time_base = packet.pts, packet.dts, packet.time_base
            sent.stream = streams[packet.stream.index]
            target.mux(sent)
    with caplog.at_level(logging.WARNING):
        assert clip_source(path).sound is None
    assert caplog.text.count("is sent without its sound: it cannot be decoded") == 1


def test_a_clip_without_frames_is_named(tmp_path):
    write_clip(tmp_path / "a.mp4", [plain_frame(64, 48)], with_audio=False)
    with pytest.raises(InputError, match=r"nowhere\.mp4"):
        Loop(tmp_path / "nowhere.mp4")


def open_files(path: Path) -> int:
    return sum(
        os.path.realpath(f"/proc/self/fd/{one}") == str(path.resolve())
        for one in os.listdir("/proc/self/fd")
    )


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_file_is_open_only_while_it_is_played(tmp_path):
    path = write_timed(tmp_path / "clip.mkv", [i / 25 for i in range(5)], tone(0.2))
    loop = Loop(path)
    assert open_files(path) == 0
    frames, sound = loop.frames(MAX_RATE), loop.sound()
    for _ in range(12):
        next(frames), next(sound)
        assert open_files(path) == 2
    frames.close()
    sound.close()
    gc.collect()
    assert open_files(path) == 0
