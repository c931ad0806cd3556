"""Frames, their QPs and their times stay, in formats that tell times in other ways."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.files import enhance_file
from receiver.media.files.reading import VideoReader
from receiver.media.frame import DecodedFrame, export_side_data
from tests.media.cases.workshop import (
    FRAMES,
    X264,
    Workshop,
    differences_but_pixels,
    gaps_of,
    pictures_of,
    times_of,
    tone,
)
from tests.media.checking import compare_pictures, enhanced
from tests.media.probing import described, of_type, probe, sound_bytes, video_of

pytestmark = pytest.mark.slow

# Runs that differ, frames that are lost


def test_one_frame_gives_the_same_output_each_time(shop):
    """Decoding by several threads lost the QP of some frames, and so their strength."""
    source = shop.make("one.mp4", "-frames:v", 1, *X264)
    outputs = set()
    for number in range(10):
        target = shop.folder / f"{number}.mp4"
        result = enhance_file(source, target, Enhancer(shop.generator))
        assert result.frames == {"received": 1, "enhanced": 1, "passed": 0}
        outputs.add(target.read_bytes())
    assert len(outputs) == 1


@pytest.mark.parametrize("frames", [1, FRAMES])
def test_every_frame_has_the_qp_that_one_thread_reads(shop, frames):
    source = shop.make("source.mp4", "-frames:v", frames, *X264)
    with av.open(str(source)) as container:
        video = container.streams.video[0]
        video.thread_type, video.codec_context.thread_count = "NONE", 1
        export_side_data(video.codec_context)
        alone = [DecodedFrame.from_video(frame).qp for frame in container.decode(video)]
    assert len(alone) == frames
    assert None not in alone
    for _ in range(5):
        with VideoReader(source) as reader:
            assert [DecodedFrame.from_video(frame).qp for frame in reader.frames()] == alone


def test_raw_h264_has_no_times(shop):
    source = shop.make("raw.h264", *X264)
    after = shop.enhance(source)
    assert shop.result.frames["enhanced"] == FRAMES
    np.testing.assert_allclose(times_of(after), np.arange(FRAMES) / 25, atol=0.001)
    assert 0.96 <= video_of(after)["end"] <= 1.0


@pytest.mark.parametrize("name", ["raw.hevc", "raw.m2v", "raw.ivf", "raw.y4m"])
def test_other_raw_streams(shop, name):
    codec = {
        "raw.hevc": ("-c:v", "libx265", "-x265-params", "log-level=none", "-crf", 36),
        "raw.m2v": ("-c:v", "mpeg2video", "-q:v", 20),
        "raw.ivf": ("-c:v", "libvpx", "-b:v", "200k"),
        "raw.y4m": (),
    }[name]
    source = shop.make(name, *codec, "-pix_fmt", "yuv420p")
    after = shop.enhance(source)
    assert shop.result.frames["enhanced"] == FRAMES
    np.testing.assert_allclose(gaps_of(after), 0.04, atol=0.001)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize(
    "codec", [("libx264", "-bf", 2), ("mpeg4", "-bf", 2, "-q:v", 20), ("libx264", "-bf", 8)]
)
def test_b_frames_in_avi_have_no_presentation_times(shop, codec, ending):
    source = shop.make("b.avi", "-c:v", *codec, "-pix_fmt", "yuv420p")
    after = shop.enhance(source, f"out.{ending}")
    assert shop.result.frames["enhanced"] == FRAMES
    np.testing.assert_allclose(gaps_of(after), 0.04, atol=0.0011)
    for one, other in zip(pictures_of(probe(source)), pictures_of(after), strict=True):
        compare_pictures(one, other)


def transport_streams(shop: Workshop, *starts: float) -> Path:
    """Streams that begin at some times, one after the other in one file."""
    whole = shop.folder / "whole.ts"
    parts = []
    for start in starts:
        part = shop.make(f"{start}.ts", "-an", *X264, "-output_ts_offset", start)
        parts.append(part.read_bytes())
    whole.write_bytes(b"".join(parts))
    return whole


@pytest.mark.parametrize("starts", [(500, 3), (3, 3), (3, 500), (3, 3, 3)])
def test_times_continue_after_a_jump(shop, starts):
    after = shop.enhance(transport_streams(shop, *starts))
    assert shop.result.frames["enhanced"] == FRAMES * len(starts)
    assert len(times_of(after)) == FRAMES * len(starts)
    gaps = gaps_of(after)
    assert min(gaps) > 0.02
    assert max(gaps) < 0.1


def test_times_continue_after_a_clock_wraps_around(shop):
    """MPEG's clock has 33 bits: it begins anew after 26.5 hours."""
    source = shop.make("wrap.ts", "-an", *X264, "-output_ts_offset", 2**33 / 90000 - 0.5 - 1.4)
    after = shop.enhance(source)
    assert shop.result.frames["enhanced"] == FRAMES
    np.testing.assert_allclose(gaps_of(after), 0.04, atol=0.001)


def test_sound_stays_with_the_picture_over_a_jump(shop):
    part = shop.make("part.ts", *tone(), *X264, "-c:a", "aac")
    source = shop.folder / "twice.ts"
    source.write_bytes(part.read_bytes() * 2)
    after = shop.enhance(source)
    (audio,) = of_type(after, "audio")
    starts = [float(time) for time, _, _ in audio["packets"]]
    half = starts[len(starts) // 2] - starts[0]
    assert abs(half - (times_of(after)[FRAMES] - times_of(after)[0])) < 0.06
    assert min(np.diff(starts)) > 0.01


def test_the_last_frame_keeps_its_duration(shop):
    source = shop.folder / "last.mp4"
    with av.open(str(source), "w") as container, av.open(str(shop.raw)) as raw:
        video = container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        video.options = {"crf": "36", "tune": "zerolatency"}
        video.codec_context.time_base = Fraction(1, 1000)
        packets = []
        stamps = [0, 33, 66, 100, 133]
        for frame, stamp in zip(raw.decode(video=0), stamps, strict=False):
            picture = frame.reformat(format="yuv420p")
            picture.pts, picture.time_base, picture.pict_type = stamp, Fraction(1, 1000), 0
            packets += video.encode(picture)
        packets += video.encode(None)
        packets[-1].duration = 3000
        container.mux(packets)
    for name in ("out.mp4", "out.mkv", "out.mov"):
        after = shop.check(source, name, frames=5)
        assert name == "out.mkv" or video_of(after)["end"] == pytest.approx(3.133, abs=0.002)
        assert any("Duration: 00:00:03.13" in line for line in described(shop.folder / name))


# Times


@pytest.mark.parametrize(
    ("rate", "base"),
    [("1", 1000), ("1/10", 1000), ("120", 90000), ("240000/1001", 240000), ("24000/1001", 24000),
     ("30000/1001", 90000), ("59.94", 1000000), ("25", 1200)],
)  # fmt: skip
def test_rates_and_clocks(shop, rate, base):
    source = shop.make(
        "rate.mp4", "-vf", f"setpts=N/({rate})/TB,fps={rate}", "-frames:v", 6, *X264,
        "-video_track_timescale", base,
    )  # fmt: skip
    times = [
        [frame["time"] for frame in video_of(probed)["frames"]]
        for probed in (probe(source), shop.check(source, "out.mp4", frames=6))
    ]
    assert times[0] == times[1]  # exactly, as fractions
    shop.check(source, "out.mkv", frames=6)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_screen_recording_with_long_pauses(shop, ending):
    """A frame is only written where something changes: one stays for two minutes."""
    source = shop.make(
        "screen.mkv", *tone(130), "-vf", "setpts='(N/25+gte(N,4)*124.8)/TB'", "-fps_mode",
        "passthrough", "-frames:v", 8, *X264, "-c:a", "libopus", "-b:a", "16k",
    )  # fmt: skip
    after = shop.check(source, f"out.{ending}", frames=8)
    assert times_of(after)[4] - times_of(after)[3] == pytest.approx(124.84, abs=0.01)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("name", ["late.mkv", "late.mp4", "late.ts"])
def test_a_file_that_begins_late(shop, name, ending):
    source = shop.make(name, *tone(), *X264, "-c:a", "aac", "-output_ts_offset", 7200)
    shop.check(source, f"out.{ending}")


def test_a_cut_that_begins_between_key_frames(shop):
    """Cut without encoding: an edit list hides the frames before, which only serve prediction."""
    whole = shop.make("whole.mp4", *tone(), *X264, "-g", 24, "-bf", 0, "-c:a", "aac")
    source = shop.run("-ss", 0.4, "-i", whole, "-c", "copy", shop.folder / "cut.mp4")
    before = probe(source)
    seen = len(video_of(before)["frames"])
    for ending in ("mp4", "mkv"):
        result, _ = enhanced(source, shop.folder / f"out.{ending}", shop.generator)
        assert result.frames["received"] == seen
    found = differences_but_pixels(source, shop.folder / "out.mp4")
    assert not found, found
    after = probe(shop.folder / "out.mkv")
    (sound,), (written) = of_type(before, "audio"), of_type(after, "audio")[0]
    played = [time for time, lasts, _ in sound["packets"] if time + lasts > 0]
    # Matroska hides nothing: of what was cut away it gets the packet that the first one needs.
    assert sound_bytes(written) == sound_bytes(sound)[-len(played) - 1 :]
    assert 0 <= times_of(after)[0] < 2 * 1024 / 48000
    np.testing.assert_allclose(gaps_of(after), gaps_of(before), atol=0.0011)


def jpegs(shop: Workshop, name: str, stamps: list[int]) -> Path:
    """Motion JPEG, frames at these milliseconds, whatever their order."""
    source = shop.folder / name
    with av.open(str(source), "w") as container, av.open(str(shop.raw)) as raw:
        video = container.add_stream("mjpeg", rate=25)
        video.width, video.height, video.pix_fmt = 320, 240, "yuvj420p"
        packets = []
        for index, frame in enumerate(raw.decode(video=0)):
            picture = frame.reformat(format="yuvj420p")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            packets += video.encode(picture)
        for packet, stamp in zip(packets, stamps, strict=False):
            packet.pts = packet.dts = stamp
            packet.time_base = Fraction(1, 1000)
            container.mux(packet)
    return source


def test_frames_at_one_and_the_same_time(shop):
    """None is lost, and times go up."""
    stamps = [0, 40, 80, 80, 80, 200, 240]
    source = jpegs(shop, "twice.mkv", stamps)
    assert len(times_of(probe(source))) == len(stamps)
    after = shop.enhance(source)
    assert shop.result.frames["enhanced"] == len(stamps)
    assert min(gaps_of(after)) > 0
    assert times_of(after)[-1] == pytest.approx(0.24, abs=0.002)


def test_a_frame_without_a_duration(shop):
    source = shop.folder / "none.mp4"
    with av.open(str(source), "w") as container, av.open(str(shop.raw)) as raw:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        video.options = {"crf": "36", "tune": "zerolatency"}
        for index, frame in enumerate(raw.decode(video=0)):
            picture = frame.reformat(format="yuv420p")
            picture.pts, picture.time_base, picture.pict_type = index, Fraction(1, 25), 0
            for packet in video.encode(picture):
                packet.duration = 0
                container.mux(packet)
        container.mux(video.encode(None))
    shop.check(source)


def test_a_single_frame(shop):
    for container in ("mp4", "mkv", "avi"):
        source = shop.make(f"one.{container}", *tone(1.0), "-frames:v", 1, *X264, "-c:a",
                           "libmp3lame")  # fmt: skip
        shop.check(source, "out.mp4", frames=1)
