"""A clip that is played in a loop: its sound stays with its frames."""

from fractions import Fraction
from itertools import islice

import av
import numpy as np
import pytest

from receiver.media.files.playing import INTERLEAVED, SLIP, SOUND_RATE, Loop
from receiver.sending.sources import MAX_RATE
from tests.media.clips import heard, onsets, played, tone, write_timed
from tests.media.probing import run_ffmpeg


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
