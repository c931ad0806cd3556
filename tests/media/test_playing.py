"""A file that is played again and again: each frame at its own time, and its sound with it."""

import gc
import logging
import os
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from receiver.enhance.faces.tracking import FaceTracker
from receiver.errors import InputError
from receiver.media.files.playing import INTERLEAVED, PIECE, SHORTEST, SLIP, SOUND_RATE, Loop
from receiver.media.planes import planes
from receiver.sending.sources import MAX_RATE, clip_source
from tests.conftest import plain_frame, write_clip
from tests.media.probing import run_ffmpeg

VARIABLE = [Fraction(33 * i, 1000) for i in range(30)] + [Fraction(1 + i) for i in range(6)]
"""Frame times of a clip that runs at 30 frames a second, and then at 1."""
STEP = 5
"""Levels by which the frames of `write_timed` are brighter, one after the other."""


def tone(seconds: float) -> np.ndarray:
    """Mono samples, all of them loud."""
    return np.where(np.arange(round(seconds * SOUND_RATE)) // 24 % 2, 9000, -9000).astype(np.int16)


def write_timed(
    path: Path,
    times: Sequence[Any],
    sound: np.ndarray | None = None,
    sound_at: float = 0.0,
    *,
    video_codec: str = "ffv1",
    sound_codec: str = "pcm_s16le",
    scale: int = 1000,
    rate: Fraction = Fraction(30),
    chunk: int = 1024,
) -> Path:
    """Writes frames that grow brighter at these times, in 1/`scale` s, and mono sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, rate=rate)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, scale)
        audio = None if sound is None else container.add_stream(sound_codec, rate=SOUND_RATE)
        packets: list[tuple[float, Any]] = []
        for number, time in enumerate(times):
            frame = plain_frame(64, 48, 40 + STEP * number % 190)
            frame.pts, frame.time_base = round(time * scale), Fraction(1, scale)
            packets += [(float(time), packet) for packet in video.encode(frame)]
        packets += [(float(times[-1]), packet) for packet in video.encode(None)]
        if sound is not None and audio is not None:
            audio.layout = "mono"
            kind = "fltp" if sound_codec == "aac" else "s16"
            for start in range(0, len(sound), chunk):
                samples = sound[None, start : start + chunk]
                if kind == "fltp":
                    samples = (samples / 32768).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(samples, kind, "mono")
                piece.sample_rate, piece.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
                piece.pts = start + round(sound_at * SOUND_RATE)
                packets += [(piece.pts / SOUND_RATE, packet) for packet in audio.encode(piece)]
            packets += [(sound_at + len(sound) / SOUND_RATE, one) for one in audio.encode(None)]
        for _, packet in sorted(packets, key=lambda one: one[0]):
            container.mux(packet)
    return path


def number_of(frame: av.VideoFrame) -> int:
    """Which of `write_timed`'s frames it is."""
    return round((planes(frame)[0].mean() - 40) / STEP)


def played(loop: Loop, count: int) -> list[tuple[int, Fraction]]:
    """Numbers and times of the first frames."""
    frames = islice(loop.frames(MAX_RATE), count)
    return [(number_of(frame), Fraction(frame.pts) * frame.time_base) for frame in frames]


def heard(loop: Loop, seconds: float) -> np.ndarray:
    """The first samples, mono."""
    pieces = list(islice(loop.sound(), round(seconds * SOUND_RATE) // PIECE))
    assert {(p.samples, p.format.name, p.layout.name, p.sample_rate) for p in pieces} == {
        (PIECE, "s16", "stereo", SOUND_RATE)
    }
    assert [piece.pts for piece in pieces] == [PIECE * n for n in range(len(pieces))]
    assert {piece.time_base for piece in pieces} == {Fraction(1, SOUND_RATE)}
    return np.concatenate([piece.to_ndarray().reshape(-1, 2)[:, 0] for piece in pieces])


def onsets(samples: np.ndarray) -> list[int]:
    """Numbers of the samples at which sound begins after silence of 10 ms."""
    loud = np.flatnonzero(np.abs(samples) > 2000)
    return [int(n) for n in loud[np.diff(loud, prepend=-SOUND_RATE) > SOUND_RATE // 100]]


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


# Sound with the frames


def passes(loop: Loop, count: int, frames_a_pass: int) -> tuple[list[Fraction], list[Fraction]]:
    """When the first frame is shown in so many passes, and when the sound begins."""
    frames = played(loop, count * frames_a_pass)
    shown = [time for number, time in frames if number == 0]
    seconds = float(shown[-1] + (shown[-1] - shown[-2]))
    begun = [Fraction(n, SOUND_RATE) for n in onsets(heard(loop, seconds))]
    assert len(shown) == count
    return shown, begun[:count]


@pytest.mark.parametrize(
    ("begins", "seconds"),
    [(0.1, 0.2), (0.1, 0.7), (0.2, 1.1), (0.25, 0.4001), (0.02, 0.3)],
    ids=["shorter", "as long", "longer", "odd", "soon"],
)
def test_picture_and_sound_stay_together_over_a_hundred_passes(tmp_path, begins, seconds):
    path = write_timed(
        tmp_path / "clip.mkv", [Fraction(33 * i, 1000) for i in range(24)], tone(seconds), begins
    )
    shown, begun = passes(Loop(path), 100, 24)
    offsets = [sound - picture for picture, sound in zip(shown, begun, strict=True)]
    assert abs(offsets[0] - Fraction(begins)) <= Fraction(1, 1000)  # the file's own unit
    # Each is rounded to its own clock's unit, of 1/90000 s and 1/48000 s, and not to more.
    assert max(offsets) - min(offsets) <= Fraction(1, 45000) + Fraction(1, 48000)
    lasts = max(float(24 * 0.033), begins + seconds)
    assert float(shown[-1]) == pytest.approx(99 * lasts, abs=99 * 0.0011)


@pytest.mark.parametrize("first", ["frames", "sound", "frames alone"])
def test_passes_begin_at_the_same_times_whichever_is_read_first(tmp_path, first):
    path = write_timed(tmp_path / "clip.mkv", [i / 25 for i in range(13)], tone(0.5), 0.1)
    loop = Loop(path)
    if first == "sound":
        heard(loop, 3.0)
    frames = played(loop, 39)
    assert (
        np.diff([time for number, time in frames if number == 0]).tolist() == [Fraction(3, 5)] * 2
    )


def test_sound_of_a_lossy_codec_begins_where_the_file_says(tmp_path):
    path = write_timed(
        *(tmp_path / "clip.mp4", [i / 25 for i in range(25)], tone(0.5), 0.25),
        video_codec="libx264",
        sound_codec="aac",
    )
    shown, begun = passes(Loop(path), 5, 25)
    offsets = [float(sound - picture) for picture, sound in zip(shown, begun, strict=True)]
    assert offsets == pytest.approx([0.25] * 5, abs=0.005)
    assert max(offsets) - min(offsets) < 0.0001


def test_sound_that_begins_before_the_picture_keeps_its_lead(tmp_path):
    path = write_timed(tmp_path / "clip.mkv", [0.5 + i / 25 for i in range(10)], tone(0.2))
    frames = played(Loop(path), 12)
    assert frames[0] == (0, 0)  # whoever watches has something to see
    assert [float(time) for _, time in frames[1:4]] == [0.5, 0.54, 0.58]
    lasts = float(frames[11][1]) - 0.5
    assert onsets(heard(Loop(path), 1.5))[:2] == [0, pytest.approx(lasts * SOUND_RATE, abs=1)]


def test_sound_has_no_gap_where_a_pass_begins_anew(tmp_path):
    path = write_timed(tmp_path / "clip.mkv", [i / 25 for i in range(25)], tone(1.0))
    assert onsets(heard(Loop(path), 10.0)) == [0]


def test_the_last_frame_stays_while_the_sound_goes_on(tmp_path):
    """One picture and a talk: the talk is heard to its end."""
    path = write_timed(tmp_path / "clip.mkv", [0], tone(3.0))
    assert [time for _, time in played(Loop(path), 3)] == [0, 3, 6]


def test_a_hole_in_the_sound_is_silent_and_what_follows_comes_at_its_time(tmp_path):
    path = tmp_path / "clip.mkv"
    whole = tone(1.0)
    write_timed(tmp_path / "whole.mkv", [i / 25 for i in range(25)], whole)
    with av.open(str(tmp_path / "whole.mkv")) as source, av.open(str(path), "w") as target:
        streams = {one.index: target.add_stream_from_template(one) for one in source.streams}
        for packet in source.demux():
            if packet.size and not (
                packet.stream.type == "audio" and 0.3 < packet.pts / 1000 < 0.6
            ):
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    begun = onsets(heard(Loop(path), 1.0))
    assert len(begun) == 2
    assert begun[1] / SOUND_RATE == pytest.approx(0.6, abs=0.025)


def test_sound_that_overlaps_is_cut_rather_than_put_off(tmp_path):
    whole, path = tmp_path / "whole.mkv", tmp_path / "clip.mkv"
    write_timed(whole, [i / 25 for i in range(50)], tone(1.0), chunk=4800)
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        streams = {one.index: target.add_stream_from_template(one) for one in source.streams}
        for packet in source.demux():
            if packet.size:
                if packet.stream.type == "audio" and packet.pts > 450:
                    packet.pts, packet.dts = packet.pts - 70, packet.pts - 70
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    loud = np.flatnonzero(heard(Loop(path), 1.9))
    assert loud[-1] / SOUND_RATE == pytest.approx(0.93, abs=0.002)


def test_a_file_whose_times_begin_later_begins_at_once(tmp_path):
    path = write_timed(tmp_path / "clip.mkv", [5 + i / 25 for i in range(10)], tone(0.2), 5.1)
    loop = Loop(path)
    begins = [float(time) for number, time in played(loop, 21) if number == 0]
    assert begins == pytest.approx([0, 0.393, 0.786], abs=0.001)
    assert onsets(heard(loop, 1.0))[0] == pytest.approx(0.1 * SOUND_RATE, abs=50)


@pytest.mark.parametrize("first", ["frames", "sound"])
def test_a_format_without_durations_has_its_last_frame(tmp_path, first):
    path = write_timed(
        *(tmp_path / "clip.flv", [i / 25 for i in range(25)], tone(0.5)),
        video_codec="flv1",
        sound_codec="aac",
        rate=Fraction(25),
    )
    loop = Loop(path)
    if first == "sound":
        heard(loop, 2.0)
    times = [float(time) for _, time in played(loop, 60)]
    assert np.diff(times).min() > 0.038
    # The encoder's first 1024 samples come before the picture.
    begins = [float(time) for number, time in played(loop, 60) if number == 0]
    assert np.diff(begins[1:]) == pytest.approx([1 + 1024 / SOUND_RATE], abs=0.001)


def test_a_format_without_times_goes_on_at_its_rate(raw, tmp_path):
    run_ffmpeg("-i", raw, "-c:v", "libx264", "-r", 25, tmp_path / "raw.h264")
    times = [frame.time for frame in islice(Loop(tmp_path / "raw.h264").frames(MAX_RATE), 60)]
    assert np.diff(times) == pytest.approx([0.04] * 59, abs=0.0001)


def test_times_that_are_rounded_make_no_holes(tmp_path):
    """1024 samples are 21.33 ms: 21 or 22 in a file that counts milliseconds."""
    path = write_timed(tmp_path / "clip.mkv", [0, 1, 2], tone(2.0), sound_codec="aac")
    samples = heard(Loop(path), 1.5)
    assert SLIP / SOUND_RATE > 0.022
    quiet = np.convolve(np.abs(samples[4800:]) < 500, np.ones(20), "valid")
    assert quiet.max() < 20


def test_late_or_missing_sound_does_not_read_the_whole_file(tmp_path, monkeypatch):
    """Sound ends after 0.2 s of a minute: silence comes without the minute's packets."""
    path = write_timed(tmp_path / "clip.mkv", list(range(60)), tone(0.2))
    loop, read = Loop(path), []
    packets = Loop.__init__.__globals__["VideoReader"].packets

    def counted(reader, streams=None):
        for packet in packets(reader, streams):
            read.append(packet.stream.type)
            yield packet

    monkeypatch.setattr("receiver.media.files.reading.VideoReader.packets", counted)
    heard_so_far = list(islice(loop.sound(), 50))
    assert len(heard_so_far) == 50
    assert read.count("video") <= INTERLEAVED + 3


def test_sound_of_another_rate_and_layout_is_sent_as_calls_do(raw, tmp_path):
    path = tmp_path / "clip.mkv"
    sine = "sine=440:r=22050:d=0.8,aformat=channel_layouts=5.1"
    run_ffmpeg("-i", raw, "-f", "lavfi", "-i", sine, "-c:v", "copy", "-c:a", "flac", path)
    samples = heard(Loop(path), 0.75)
    crossings = np.flatnonzero(np.diff(np.signbit(samples[4800:28800].astype(int))))
    assert len(crossings) == pytest.approx(440, abs=4)  # in half a second
    loud = np.flatnonzero(np.abs(heard(Loop(path), 0.82)[:45000]) > 0)
    assert loud[-1] >= 0.8 * SOUND_RATE - 4  # the resampler's last samples, too


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
