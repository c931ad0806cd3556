"""Files that people have: each is a kind of which other tools lose something."""

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.files import enhance_file
from receiver.errors import InputError
from receiver.media.files.reading import VideoReader
from receiver.media.frame import DecodedFrame, export_side_data
from tests.media.checking import check, compare_pictures, enhanced
from tests.media.probing import (
    described,
    differences,
    of_type,
    planes_of,
    probe,
    run_ffmpeg,
    shown,
    sound_bytes,
    video_of,
)

X264 = ("-c:v", "libx264", "-crf", 36, "-preset", "veryfast", "-pix_fmt", "yuv420p")
FRAMES = 24


class Workshop:
    """Makes sources in a folder, and enhances them."""

    def __init__(self, raw: Path, folder: Path, generator: Any) -> None:
        self.raw, self.folder, self.generator = raw, folder, generator

    def make(self, name: str, *arguments: object) -> Path:
        """A file that ffmpeg makes of the raw portrait, its first input."""
        target = self.folder / name
        run_ffmpeg("-i", self.raw, *arguments, target)
        return target

    def run(self, *arguments: object) -> Path:
        """A file that ffmpeg makes of others: its last argument."""
        run_ffmpeg(*arguments)
        return Path(str(arguments[-1]))

    def enhance(self, source: Path, name: str = "out.mp4") -> dict[str, Any]:
        """The probed output, which has all frames, all of them restored."""
        self.result, self.said = enhanced(source, self.folder / name, self.generator)
        return probe(self.folder / name)

    def check(self, source: Path, name: str = "out.mp4", **more: Any) -> dict[str, Any]:
        """Enhances and compares all, see `tests.media.checking.check`."""
        more.setdefault("frames", FRAMES)
        return check(source, self.folder / name, self.generator, **more)


@pytest.fixture
def shop(raw, tmp_path, generator) -> Workshop:
    return Workshop(raw, tmp_path, generator)


def tone(seconds: float = 0.96, *, hertz: int = 440, rate: int = 48000, layout: str = "") -> list:
    """ffmpeg's options for an input of sound."""
    source = f"sine={hertz}:r={rate}:d={seconds}"
    if layout:
        source += f",aformat=channel_layouts={layout}"
    return ["-f", "lavfi", "-i", source]


def times_of(probed: dict[str, Any]) -> list[float]:
    return [float(frame["time"]) for frame in video_of(probed)["frames"]]


def gaps_of(probed: dict[str, Any]) -> list[float]:
    return np.diff(times_of(probed)).tolist()


def pictures_of(probed: dict[str, Any]) -> list[av.VideoFrame]:
    return [frame["picture"] for frame in video_of(probed)["frames"]]


# --- runs that differ, frames that are lost ---------------------------------------------------


def test_one_frame_comes_out_the_same_each_time(shop):
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
def test_times_that_jump_go_on(shop, starts):
    after = shop.enhance(transport_streams(shop, *starts))
    assert shop.result.frames["enhanced"] == FRAMES * len(starts)
    assert len(times_of(after)) == FRAMES * len(starts)
    gaps = gaps_of(after)
    assert min(gaps) > 0.02
    assert max(gaps) < 0.1


def test_a_clock_that_wraps_around_goes_on(shop):
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


def test_the_last_frame_stays_as_long_as_it_did(shop):
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


# --- sizes, aspect, colours, orientation ------------------------------------------------------


@pytest.mark.parametrize("size", [(319, 239), (320, 239), (319, 240)])
def test_odd_sides_stay(shop, size):
    scale = f"scale={size[0]}:{size[1]}"
    vp9 = ("-c:v", "libvpx-vp9", "-crf", 40, "-b:v", 0, "-cpu-used", 8, "-pix_fmt", "yuv420p")
    after = shop.check(shop.make("odd.webm", "-vf", scale, *vp9))
    frames = video_of(after)["frames"]
    assert {(frame["size"], frame["format"]) for frame in frames} == {(size, "yuv444p")}


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_pixels_that_are_not_square_stay(shop, container):
    source = shop.make(f"wide.{container}", "-vf", "scale=240:240,setsar=4/3", *X264)
    for ending in ("mp4", "mkv"):
        after = shop.check(source, f"out.{ending}")
        assert video_of(after)["sar"] == Fraction(4, 3)
        assert any("SAR 4:3 DAR 4:3" in line for line in described(shop.folder / f"out.{ending}"))


def test_a_pal_dvd(shop):
    """MPEG-2 in a program stream: wide pixels, two fields a frame, AC-3 in 5.1, begins late."""
    source = shop.make(
        "dvd.mpg", *tone(layout="5.1"), "-target", "pal-dvd", "-aspect", "16:9", "-q:v", 20,
        "-vf", "scale=540:576,pad=720:576:90:0,setparams=field_mode=tff", "-flags", "+ildct+ilme",
    )  # fmt: skip
    after = shop.check(source)
    assert video_of(after)["sar"] == Fraction(64, 45)
    assert {frame["i"] for frame in shown(shop.folder / "out.mp4")} == {"T"}
    (audio,) = of_type(after, "audio")
    assert audio["codec"] == "ac3"
    assert audio["sound"] == (48000, 6)


def test_a_dv_camera_tape(shop):
    """DV in AVI: lower field first, 4:1:1, 29.97 frames a second, 10:11 pixels, PCM."""
    source = shop.make(
        "tape.avi", *tone(0.8), "-vf", "scale=720:480,fps=30000/1001,setparams=field_mode=bff",
        "-frames:v", 24, "-c:v", "dvvideo", "-pix_fmt", "yuv411p", "-aspect", "4:3",
        "-c:a", "pcm_s16le", "-ac", 2,
    )  # fmt: skip
    after = shop.check(source, "out.mkv")
    assert video_of(after)["sar"] == Fraction(8, 9)
    assert {frame["i"] for frame in shown(shop.folder / "out.mkv")} == {"B"}
    assert gaps_of(after)[0] == pytest.approx(1001 / 30000, abs=0.001)


@pytest.mark.parametrize("fields", ["tff", "bff"])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_interlaced_h264_stays_interlaced(shop, fields, ending):
    source = shop.make(
        "i.ts", "-vf", f"setparams=field_mode={fields}", *X264, "-flags", "+ildct+ilme"
    )
    shop.check(source, f"out.{ending}")
    first = fields[0].upper()
    assert {frame["i"] for frame in shown(shop.folder / f"out.{ending}")} == {first}
    lines = [described(path) for path in (source, shop.folder / f"out.{ending}")]
    told = [re.findall(r"(?:top|bottom)[a-z ]* first", " ".join(one)) for one in lines]
    assert told[0] == told[1] != []


def test_4_2_2_interlaced_at_ten_bits(shop):
    """A broadcast camera's: ProRes, upper field first."""
    source = shop.make(
        "camera.mov", *tone(), "-vf", "setparams=field_mode=tff", "-c:v", "prores_ks", "-q:v", 20,
        "-pix_fmt", "yuv422p10le", "-flags", "+ildct", "-c:a", "pcm_s24le", "-timecode",
        "01:00:00:00",
    )  # fmt: skip
    after = shop.check(source, "out.mov")
    assert video_of(after)["frames"][0]["format"] == "yuv422p10le"
    assert {frame["i"] for frame in shown(shop.folder / "out.mov")} == {"T"}


@pytest.mark.parametrize("container", ["mov", "mkv"])
@pytest.mark.parametrize("degrees", [90, -90, 180])
def test_a_phone_held_upright_stays_so(shop, container, degrees):
    lie = {90: "transpose=clock", -90: "transpose=cclock", 180: "hflip,vflip"}[degrees]
    lying = shop.make(f"lying.{container}", *tone(), "-vf", lie, *X264, "-c:a", "aac")
    source = shop.run(
        "-display_rotation:v:0", degrees, "-i", lying, "-c", "copy",
        shop.folder / f"phone.{container}",
    )  # fmt: skip
    for ending in ("mp4", "mkv"):
        shop.check(source, f"out.{ending}", orientation={90: 1, 180: 2, -90: 3}[degrees])
        lines = described(shop.folder / f"out.{ending}")
        turns = {f"rotation of {degrees:.2f} degrees", f"rotation of {degrees % 360 - 360:.2f}"}
        assert any(turn in line for line in lines for turn in turns)


HDR = (
    "-c:v", "libx265", "-preset", "ultrafast", "-crf", 38, "-pix_fmt", "yuv420p10le",
    "-x265-params",
    "log-level=none:hdr10=1:repeat-headers=1:max-cll=1000,400:"
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)",
)  # fmt: skip


@pytest.mark.parametrize("container", ["mkv", "mp4"])
def test_hdr10_keeps_its_colours_and_its_light(shop, container):
    colours = "setparams=range=tv:colorspace=bt2020nc:color_primaries=bt2020:color_trc=smpte2084"
    source = shop.make(f"hdr.{container}", "-vf", colours, *HDR)
    for ending in ("mkv", "mp4"):
        after = shop.check(source, f"out.{ending}")
        frame = video_of(after)["frames"][0]
        assert frame["format"] == "yuv420p10le"
        assert frame["colours"] == (1, 9, 9, 16)
        assert frame["side_data"].keys() >= {"mastering display", "content light level"}
        side = shown(shop.folder / f"out.{ending}")[0]["side"]
        assert "max_luminance=1000" in side
        assert "MaxCLL=1000, MaxFALL=400" in side


@pytest.mark.parametrize("pixel_format", ["yuv420p10le", "yuv444p12le"])
def test_ten_bits_are_restored_as_ten_bits(shop, pixel_format):
    """What is added to a face is not a multiple of a level of eight bits."""
    source = shop.make("ten.mkv", "-frames:v", 4, "-c:v", "ffv1", "-pix_fmt", pixel_format)
    after = shop.check(source, "out.mkv", frames=4)
    for one, other in zip(pictures_of(probe(source)), pictures_of(after), strict=True):
        before, restored = planes_of(one.reformat(format=other.format.name))[0], planes_of(other)[0]
        added = restored.astype(int) - before
        assert len(np.unique(added[added != 0] & 3)) == 4


def test_hlg_of_a_phone(shop):
    colours = "setparams=range=tv:colorspace=bt2020nc:color_primaries=bt2020:color_trc=arib-std-b67"
    source = shop.make(
        "hlg.mov", *tone(), "-vf", colours, *HDR[:-1], "log-level=none", "-tag:v", "hvc1",
        "-c:a", "aac",
    )  # fmt: skip
    shop.check(source, "out.mov")
    frame = shown(shop.folder / "out.mov")[0]
    assert (frame["fmt"], frame["color_trc"]) == ("yuv420p10le", "arib-std-b67")


@pytest.mark.parametrize(
    ("pixel_format", "container"), [("yuvj420p", "avi"), ("yuvj422p", "mov"), ("yuvj444p", "mkv")]
)
def test_full_range_of_a_webcam_stays_full(shop, pixel_format, container):
    source = shop.make(f"cam.{container}", "-c:v", "mjpeg", "-q:v", 20, "-pix_fmt", pixel_format)
    shop.check(source)
    frame = shown(shop.folder / "out.mp4")[0]
    assert frame["color_range"] == "pc"


def test_colours_that_are_not_told_stay_untold(shop):
    source = shop.make("plain.mp4", *X264)
    frame = video_of(shop.check(source))["frames"][0]
    assert frame["colours"][1:] == (2, 2, 2)


def test_colours_that_only_the_container_tells(shop):
    """An .mkv's Colour element, or an .mp4's colr box, of a stream that says nothing itself."""
    plain = shop.make("plain.h264", *X264)
    tags = [
        "-color_range",
        "tv",
        "-colorspace",
        "bt470bg",
        "-color_primaries",
        "bt470bg",
        "-color_trc",
        "gamma22",
    ]
    source = shop.run(
        "-r", 25, "-i", plain, "-c", "copy", *tags, "-bsf:v", "setts=ts=N/25/TB",
        shop.folder / "told.mkv",
    )  # fmt: skip
    assert video_of(probe(source))["stream_colours"] == (1, 5, 5, 4)
    after = shop.enhance(source)
    assert video_of(after)["frames"][0]["colours"] == (1, 5, 5, 4)


def test_a_size_that_changes_in_mid_file(shop):
    one = shop.make("one.ts", *X264, "-output_ts_offset", 0)
    two = shop.make("two.ts", "-vf", "scale=640:480", *X264, "-output_ts_offset", 0.96)
    source = shop.folder / "both.ts"
    source.write_bytes(one.read_bytes() + two.read_bytes())
    after = shop.enhance(source)
    assert shop.result.frames == {"received": 48, "enhanced": 48, "passed": 0}
    assert {frame["size"] for frame in video_of(after)["frames"]} == {(320, 240)}
    assert any("320x240" in note or "640x480" in note for note in shop.result.notes)
    assert max(gaps_of(after)) < 0.1


@pytest.mark.parametrize("size", [(16, 16), (34, 2), (2000, 16)])
def test_pictures_too_small_for_a_face(shop, size):
    source = shop.make("small.mkv", "-vf", f"scale={size[0]}:{size[1]}", "-c:v", "ffv1",
                       "-pix_fmt", "yuv420p")  # fmt: skip
    after = shop.enhance(source)
    assert shop.result.frames["received"] == FRAMES
    assert {frame["size"] for frame in video_of(after)["frames"]} == {size}


def test_a_face_that_appears_late(shop):
    """The first frames have none: they stay to the bit, and all are there."""
    source = shop.make(
        "late.mp4", "-vf", "drawbox=enable='lt(n,12)':c=gray:t=fill", *X264, "-x264-params",
        "keyint=12",
    )  # fmt: skip
    after = shop.enhance(source)
    assert shop.result.frames["received"] == FRAMES
    assert 6 <= shop.result.frames["enhanced"] <= 12
    for one, other in zip(pictures_of(probe(source))[:12], pictures_of(after)[:12], strict=True):
        assert all(map(np.array_equal, planes_of(one), planes_of(other)))


# --- transparency -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "coding"),
    [
        ("a.mkv", ("-c:v", "libvpx", "-b:v", "200k", "-auto-alt-ref", 0, "-pix_fmt", "yuva420p")),
        ("a.webm", ("-c:v", "libvpx-vp9", "-b:v", "200k", "-pix_fmt", "yuva420p")),
        ("a.mov", ("-c:v", "prores_ks", "-profile:v", 4, "-pix_fmt", "yuva444p10le")),
        ("a.mov", ("-c:v", "qtrle", "-pix_fmt", "argb")),
        ("a.gif", ("-pix_fmt", "bgr8")),
    ],
)
def test_transparency_that_is_lost_is_said(shop, name, coding):
    clear = "format=yuva444p,geq=lum='p(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='if(lt(X,40),0,255)'"
    if name.endswith("gif"):
        clear = "split[a][b];[a]palettegen=reserve_transparent=1[p];[b][p]paletteuse"
        coding = ()
    source = shop.make(name, "-frames:v", 6, "-vf", clear, *coding)
    after = shop.enhance(source, "out.mkv")
    assert shop.result.frames["received"] == 6
    assert video_of(after)["frames"][0]["size"] == (320, 240)
    assert "alpha_mode" not in video_of(after)["metadata"]
    if name != "a.gif":  # nothing in it is transparent
        assert "transparen" in " ".join(shop.result.notes).lower()


def test_a_gif_keeps_the_times_of_its_pictures(shop):
    source = shop.make(
        "a.gif", "-frames:v", 6, "-vf", "setpts='(N+4*gte(N,3))/(10*TB)'", "-fps_mode",
        "passthrough",
    )  # fmt: skip
    after = shop.enhance(source)
    before = gaps_of(probe(source))
    assert max(before) > 0.45
    np.testing.assert_allclose(gaps_of(after), before, atol=0.001)


# --- sound ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_pcm_of_a_camera(shop, ending):
    source = shop.make(
        "cam.avi", *tone(), "-c:v", "mjpeg", "-q:v", 12, "-pix_fmt", "yuvj422p",
        "-c:a", "pcm_s16le", "-ac", 2,
    )  # fmt: skip
    after = shop.check(source, f"out.{ending}")
    (audio,) = of_type(after, "audio")
    assert len(sound_bytes(audio)[0]) == round(0.96 * 48000) * 4


SOUNDS = [
    *[("aac", ".mp4"), ("ac3", ".mp4"), ("eac3", ".mp4"), ("flac", ".mp4"), ("alac", ".mp4")],
    *[("libopus", ".mp4"), ("libmp3lame", ".mp4"), ("mp2", ".mp4"), ("dca", ".mp4")],
    *[("pcm_s24le", ".mov"), ("pcm_f32le", ".mov"), ("pcm_alaw", ".mov")],
    *[("libvorbis", ".mkv"), ("wmav2", ".mkv"), ("pcm_s24le", ".mkv"), ("pcm_u8", ".mkv")],
    *[("dca", ".mkv"), ("truehd", ".mkv"), ("eac3", ".mkv"), ("tta", ".mkv"), ("wavpack", ".mkv")],
    *[("libopus", ".mkv"), ("flac", ".mkv"), ("alac", ".mkv"), ("ac3", ".mkv"), ("aac", ".mkv")],
]


@pytest.mark.parametrize(("codec", "ending"), SOUNDS)
def test_sound_is_copied_to_the_byte(shop, codec, ending):
    """In 5.1 where the codec has it."""
    narrow = ("libmp3lame", "mp2", "wmav2", "pcm_u8", "pcm_alaw")
    layout = "stereo" if codec in narrow else "5.1(side)" if codec == "dca" else "5.1"
    source = shop.make(
        "source.mkv" if ending == ".mp4" else f"source{ending}", *tone(0.3, layout=layout),
        "-frames:v", 4, *X264, "-c:a", codec, "-strict", -2,
    )  # fmt: skip
    after = shop.check(source, f"out{ending}", frames=4)
    assert len(of_type(after, "audio")) == 1


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize(
    "delay",
    [("video", 0.5), ("audio", 0.3), ("audio", 2.0)],
    ids=lambda delay: f"{delay[0]}-later-{delay[1]}",
)
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_sound_and_picture_keep_their_distance(shop, container, delay, ending):
    what, seconds = delay
    shift = ("-itsoffset", seconds)
    first = shop.make("video.mkv", *X264)
    source = shop.run(
        *(shift if what == "video" else ()), "-i", first, *(shift if what == "audio" else ()),
        *tone(), "-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "aac",
        shop.folder / f"source.{container}",
    )  # fmt: skip
    before = probe(source)
    after = shop.check(source, f"out.{ending}")
    distance = [
        float(of_type(side, "audio")[0]["packets"][0][0]) - times_of(side)[0]
        for side in (before, after)
    ]
    assert distance[1] == pytest.approx(distance[0], abs=0.0015)
    expected = seconds if what == "audio" else -seconds
    assert distance[0] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("seconds", [0.2, 4.0])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_sound_that_is_shorter_or_longer_than_the_picture(shop, seconds, ending):
    source = shop.make("source.mp4", *tone(seconds), *X264, "-c:a", "aac")
    after = shop.check(source, f"out.{ending}")
    (audio,) = of_type(after, "audio")
    last, lasts, _ = audio["packets"][-1]
    assert last + lasts == pytest.approx(seconds, abs=0.05)


def test_a_silence_in_mid_file_stays_a_gap(shop):
    """A recorder that was muted wrote no sound for a while."""
    source = shop.make(
        "gap.mkv", *tone(), *X264, "-c:a", "aac", "-af", "aselect='lt(t,0.3)+gt(t,0.7)'"
    )
    after = shop.check(source, "out.mkv")
    starts = [float(time) for time, _, _ in of_type(after, "audio")[0]["packets"]]
    assert max(np.diff(starts)) > 0.35
    shop.check(source, "out.mp4")


def test_a_phone_of_2005(shop):
    """H.263 and AMR in .3gp, 15 frames a second."""
    source = shop.make(
        "old.3gp", *tone(rate=8000), "-vf", "scale=176:144,fps=15", "-frames:v", 12, "-c:v", "h263",
        "-q:v", 12, "-pix_fmt", "yuv420p", "-c:a", "libopencore_amrnb", "-b:a", "12.2k", "-ac", 1,
    )  # fmt: skip
    result, _ = enhanced(source, shop.folder / "out.mov", shop.generator)
    assert result.frames["received"] == 12
    assert not differences_but_pixels(source, shop.folder / "out.mov")
    kept_or_said(shop, source, "out.mp4", "amr")
    kept_or_said(shop, source, "out.mkv", "amr")


def differences_but_pixels(source: Path, target: Path) -> dict[str, Any]:
    """What differs, but for dispositions."""
    found = differences(probe(source), probe(target))
    return {name: values for name, values in found.items() if "disposition" not in name}


def kept_or_said(shop: Workshop, source: Path, name: str, codec: str) -> None:
    """Sound is copied, or it is said that it is not, before the first frame."""
    done: list[int] = []
    said: list[str] = []
    try:
        result = enhance_file(
            source, shop.folder / name, Enhancer(shop.generator), progress=done.append,
            say=lambda line: said.append(line) if not done else pytest.fail("said too late"),
        )  # fmt: skip
    except InputError as error:
        refusal = str(error)
        assert codec in refusal
        assert ".mkv" in refusal or ".mov" in refusal
        assert not done
        assert not (shop.folder / name).exists()
        return
    before, after = (of_type(probe(path), "audio") for path in (source, shop.folder / name))
    if [sound_bytes(stream) for stream in before] != [sound_bytes(stream) for stream in after]:
        assert any(codec in note for note in result.notes)
        assert said


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("codec", ["wmav2", "libvorbis", "pcm_u8", "adpcm_ima_wav", "tta"])
def test_sound_is_never_lost_in_silence(shop, codec, ending):
    container = "avi" if codec in ("pcm_u8", "adpcm_ima_wav") else "mkv"
    source = shop.make(f"source.{container}", *tone(0.3), "-frames:v", 4, *X264, "-c:a", codec)
    kept_or_said(shop, source, f"out.{ending}", codec.removeprefix("lib"))


def test_windows_media(shop):
    source = shop.make(
        "old.wmv", *tone(), "-c:v", "wmv2", "-q:v", 15, "-pix_fmt", "yuv420p", "-c:a", "wmav2",
        "-metadata", "title=Holidays",
    )  # fmt: skip
    after = shop.check(source, "out.mkv")
    assert after["metadata"]["title"] == "Holidays"


def test_flash_video(shop):
    source = shop.make("old.flv", *tone(rate=44100), "-c:v", "flv", "-q:v", 15, "-pix_fmt",
                       "yuv420p", "-c:a", "libmp3lame")  # fmt: skip
    shop.check(source)


def test_an_ogg_file(shop):
    source = shop.make("old.mkv", *tone(0.3), *X264, "-frames:v", 6, "-c:a", "libvorbis")
    shop.check(source, frames=6)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_packed_frames_of_xvid(shop, ending):
    """Two frames in one packet of the .avi and an empty one after it."""
    source = shop.make("x.avi", *tone(), "-c:v", "libxvid", "-bf", 2, "-q:v", 12, "-pix_fmt",
                       "yuv420p", "-c:a", "libmp3lame")  # fmt: skip
    seen = len(video_of(probe(source))["frames"])
    assert seen >= FRAMES - 2
    after = shop.enhance(source, f"out.{ending}")
    assert shop.result.frames["enhanced"] == seen
    np.testing.assert_allclose(gaps_of(after)[1:], 0.04, atol=0.0011)
    assert gaps_of(after)[0] < 0.2  # the encoder's delay, which the file fills with nothing
    before, (audio,) = of_type(probe(source), "audio")[0], of_type(after, "audio")
    assert sound_bytes(audio) == sound_bytes(before)


@pytest.mark.parametrize(
    ("name", "coding"),
    [
        ("cam.m2ts", (*X264, "-c:a", "ac3")),
        ("cam.mxf", ("-c:v", "mpeg2video", "-q:v", 20, "-pix_fmt", "yuv422p", "-c:a", "pcm_s16le")),
        ("old.ogv", (*X264, "-c:a", "libvorbis", "-f", "matroska")),
        ("old.vob", ("-c:v", "mpeg2video", "-q:v", 20, "-c:a", "ac3")),
        ("old.mpg", ("-c:v", "mpeg1video", "-q:v", 20, "-c:a", "mp2")),
        ("old.asf", ("-c:v", "msmpeg4", "-q:v", 20, "-c:a", "libmp3lame")),
    ],
)
def test_other_cameras_and_archives(shop, name, coding):
    source = shop.make(name, *tone(), "-pix_fmt", "yuv420p", *coding)
    before = probe(source)
    after = shop.enhance(source, "out.mkv")
    assert shop.result.frames["enhanced"] == len(video_of(before)["frames"]) >= FRAMES - 1
    np.testing.assert_allclose(gaps_of(after), gaps_of(before), atol=0.0011)
    (heard,) = of_type(after, "audio")
    assert sound_bytes(heard) == sound_bytes(of_type(before, "audio")[0])


# --- streams ----------------------------------------------------------------------------------


@pytest.fixture
def many(shop) -> Path:
    """Two languages, the second one the default; text, chapters and a title."""
    text, chapters = shop.folder / "s.srt", shop.folder / "chapters.txt"
    text.write_text("1\n00:00:00,100 --> 00:00:00,600\nHi\n")
    chapters.write_text(
        ";FFMETADATA1\ntitle=My talk\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=One\n"
    )
    source = shop.make(
        "many.mkv", *tone(), *tone(hertz=880), "-i", text, "-i", chapters, "-map", "0:v", "-map",
        "1:a", "-map", "2:a", "-map", "3:s", "-map_metadata", 4, "-map_chapters", 4, *X264,
        "-c:a", "aac", "-c:s", "srt", "-metadata:s:a:0", "language=eng", "-metadata:s:a:1",
        "language=deu", "-disposition:a:0", "0", "-disposition:a:1", "default",
    )  # fmt: skip
    text.unlink()
    chapters.unlink()
    return source


def test_languages_chapters_title_and_subtitles_stay(shop, many):
    after = shop.check(many, "out.mkv")
    assert [s["type"] for s in after["streams"]] == ["video", "audio", "audio", "subtitle"]
    sounds = of_type(after, "audio")
    assert [s["metadata"]["language"] for s in sounds] == ["eng", "deu"]
    assert ["default" in s["disposition"] for s in sounds] == [False, True]
    assert after["metadata"]["title"] == "My talk"
    assert [(start, end, tags["title"]) for start, end, tags in after["chapters"]] == [
        (0, Fraction(2, 5), "One")
    ]
    assert of_type(after, "subtitle")[0]["packets"][0] == (
        Fraction(1, 10),
        Fraction(1, 2),
        b"Hi",
    )


@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_what_an_mp4_cannot_hold_is_said(shop, many, ending):
    after = shop.check(many, f"out.{ending}")
    sounds = of_type(after, "audio")
    spoken = [s["metadata"].get("language") for s in sounds]
    assert spoken[0] == "eng"
    assert spoken[1] in (("deu",) if ending == "mp4" else ("deu", "ger", "und", None))
    assert ["default" in s["disposition"] for s in sounds] == [False, True]
    assert after["metadata"]["title"] == "My talk"
    assert [tags["title"] for _, _, tags in after["chapters"]] == ["One"]


def test_only_one_line_is_said(shop, many):
    _, said = enhanced(many, shop.folder / "out.mp4", shop.generator)
    assert len(said) == 1
    assert "\n" not in said[0]
    assert len(said[0]) < 400


def test_the_default_video_is_the_one_that_is_restored(shop):
    """Two cameras in one file, the second one marked."""
    source = shop.make(
        "two.mkv", "-map", "0:v", "-map", "0:v", "-filter:v:0", "scale=480:360,hue=s=0", *X264,
        "-disposition:v:0", "0", "-disposition:v:1", "default",
    )  # fmt: skip
    before = of_type(probe(source), "video")
    result, _ = enhanced(source, shop.folder / "out.mkv", shop.generator)
    assert result.frames["enhanced"] == FRAMES
    after = of_type(probe(shop.folder / "out.mkv"), "video")
    chosen = next(s for s in after if s["frames"][0]["size"] == (320, 240))
    assert "default" in chosen["disposition"]
    for one, other in zip(before[1]["frames"], chosen["frames"], strict=True):
        compare_pictures(one["picture"], other["picture"])
    if len(after) == 2:  # copied to the byte
        assert [p[2] for p in after[0]["packets"]] == [p[2] for p in before[0]["packets"]]
    else:
        assert any("video" in note for note in result.notes)


def test_of_videos_that_are_not_marked_the_largest_is_restored(shop):
    source = shop.make(
        "two.ts", "-map", "0:v", "-map", "0:v", "-filter:v:0", "scale=160:120", *X264
    )
    result, _ = enhanced(source, shop.folder / "out.mp4", shop.generator)
    assert result.frames["enhanced"] == FRAMES
    sizes = {s["frames"][0]["size"] for s in of_type(probe(shop.folder / "out.mp4"), "video")}
    assert (320, 240) in sizes


@pytest.mark.parametrize("container", ["mp4", "mkv", "m4v", "mov"])
def test_cover_art_is_not_the_video(shop, container):
    """Whichever comes first in the file."""
    cover = shop.make("cover.jpg", "-frames:v", 1, "-vf", "scale=640:480")
    video = shop.make("video.mp4", *tone(), *X264, "-c:a", "aac")
    source = shop.folder / f"source.{container}"
    if container == "mkv":
        shop.run("-i", video, "-c", "copy", "-attach", cover, "-metadata:s:t",
                 "mimetype=image/jpeg", "-metadata:s:t", "filename=cover.jpg",
                 source)  # fmt: skip
    else:
        shop.run("-i", cover, "-i", video, "-map", "0:v", "-map", "1:v", "-map", "1:a", "-c",
                 "copy", "-disposition:v:0", "attached_pic", "-disposition:v:1", "default",
                 source)  # fmt: skip
    before = of_type(probe(source), "cover")
    assert container == "mov" or len(before) == 1
    for ending in ("mp4", "mkv"):
        after = shop.check(source, f"out.{ending}")
        if before:
            assert of_type(after, "cover")[0]["packets"][0][2] == cover.read_bytes()


def test_a_video_for_two_eyes(shop):
    """What players need to show it: kept, or said."""
    source = shop.make("3d.mkv", *X264, "-metadata:s:v:0", "stereo_mode=left_right")
    assert "stereo 3D" in video_of(probe(source))["frames"][0]["side_data"]
    result, _ = enhanced(source, shop.folder / "out.mkv", shop.generator)
    after = video_of(probe(shop.folder / "out.mkv"))["frames"][0]["side_data"]
    assert "stereo 3D" in after or any("stereo" in note.lower() for note in result.notes)


def test_several_tracks_may_be_the_default(shop):
    source = shop.make(
        "two.mkv", *tone(), *tone(hertz=500), "-map", "0:v", "-map", "1:a", "-map", "2:a", *X264,
        "-c:a", "aac", "-disposition:a:0", "default", "-disposition:a:1", "default",
    )  # fmt: skip
    for ending in ("mkv", "mp4"):
        after = shop.check(source, f"out.{ending}")
        assert ["default" in s["disposition"] for s in of_type(after, "audio")] == [True, True]


def test_styled_subtitles_and_their_fonts(shop):
    ass, font = shop.folder / "s.ass", shop.folder / "Comic.ttf"
    srt = shop.folder / "s.srt"
    srt.write_text("1\n00:00:00,100 --> 00:00:00,600\n<i>Hi</i>\n")
    run_ffmpeg("-i", srt, ass)
    font.write_bytes(b"\0\1\0\0" + os.urandom(2000))
    source = shop.make(
        "anime.mkv", "-i", ass, "-i", srt, "-map", "0:v", "-map", "1:s", "-map", "2:s", *X264,
        "-c:s:0", "ass", "-c:s:1", "srt", "-metadata:s:s:0", "title=Signs & songs",
        "-metadata:s:s:0", "language=jpn", "-disposition:s:0", "default+forced",
        "-disposition:s:1", "hearing_impaired", "-attach", font, "-metadata:s:t",
        "mimetype=font/ttf",
    )  # fmt: skip
    after = shop.check(source, "out.mkv")
    styled, plain = of_type(after, "subtitle")
    assert styled["codec"] == "ass"
    assert styled["metadata"]["title"] == "Signs & songs"
    assert styled["disposition"] == {"default", "forced"}
    assert plain["disposition"] == {"hearing_impaired"}
    (attached,) = of_type(after, "attachment")
    assert attached["data"] == font.read_bytes()
    assert attached["metadata"]["filename"] == "Comic.ttf"
    shop.check(source, "out.mp4")


@pytest.mark.parametrize("ending", ["mkv", "mp4"])
@pytest.mark.parametrize("codec", ["dvbsub", "dvdsub"])
def test_subtitles_that_are_pictures(shop, codec, ending):
    srt = shop.folder / "s.srt"
    srt.write_text("1\n00:00:00,100 --> 00:00:00,600\nHi\n")
    drawn = shop.folder / "bitmap.mkv"
    bitmap_subtitles(drawn, codec)
    source = shop.make("bitmap_source.mkv", "-i", drawn, "-map", "0:v", "-map", "1:s", *X264,
                       "-c:s", "copy", "-metadata:s:s:0", "language=fra")  # fmt: skip
    result, _ = enhanced(source, shop.folder / f"out.{ending}", shop.generator)
    before, after = (
        of_type(probe(path), "subtitle") for path in (source, shop.folder / f"out.{ending}")
    )
    if ending == "mkv":
        assert not result.notes
        assert [p[2] for p in before[0]["packets"]] == [p[2] for p in after[0]["packets"]]
        assert after[0]["metadata"]["language"] == "fra"
    elif not after:
        assert any(before[0]["codec"] in note or "subtitle" in note for note in result.notes)


def bitmap_subtitles(path: Path, codec: str) -> None:
    """A file of one packet of subtitles as a picture: nobody needs to decode it here."""
    with av.open(str(path), "w") as container:
        stream = container.add_mux_stream(
            {"dvbsub": "dvb_subtitle", "dvdsub": "dvd_subtitle"}[codec]
        )
        packet = av.Packet(bytes(range(64)))
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = 100
        packet.duration = 500
        container.mux(packet)


def test_commentaries_and_audio_descriptions(shop):
    source = shop.make(
        "film.mkv", *tone(), *tone(hertz=500), *tone(hertz=600), "-map", "0:v", "-map", "1:a",
        "-map", "2:a", "-map", "3:a", *X264, "-c:a", "aac", "-metadata:s:a:0", "language=eng",
        "-metadata:s:a:1", "language=eng", "-metadata:s:a:1", "title=Director's commentary",
        "-metadata:s:a:2", "language=eng", "-disposition:a:0", "default+original",
        "-disposition:a:1", "comment", "-disposition:a:2", "visual_impaired",
    )  # fmt: skip
    after = shop.check(source, "out.mkv")
    flags = [stream["disposition"] for stream in of_type(after, "audio")]
    assert flags == [{"default", "original"}, {"comment"}, {"visual_impaired"}]
    assert of_type(after, "audio")[1]["metadata"]["title"] == "Director's commentary"


def test_tags_of_an_mp4(shop):
    tags = {
        "title": "Über uns", "artist": "Ann", "album": "Talks", "date": "2024-05-01",
        "comment": "a = b; c", "genre": "Talk", "copyright": "CC0", "description": "Long text",
        "creation_time": "2024-05-01T10:11:12.000000Z", "location": "+48.8577+002.2950/",
    }  # fmt: skip
    options = [word for key, value in tags.items() for word in ("-metadata", f"{key}={value}")]
    source = shop.make("tagged.mp4", *X264, *options)
    kept = {key: probe(source)["metadata"][key] for key in tags if key in probe(source)["metadata"]}
    assert len(kept) >= 8
    for ending in ("mp4", "m4v", "mkv"):
        after = shop.check(source, f"out.{ending}")["metadata"]
        assert {key: after.get(key) for key in kept} == kept


def test_tags_of_a_phone(shop):
    """Where and when, by which albums are sorted."""
    tags = {
        "com.apple.quicktime.location.ISO6709": "+48.8577+002.2950+035/",
        "com.apple.quicktime.make": "Example",
        "com.apple.quicktime.creationdate": "2024-05-01T10:11:12+0200",
    }
    options = [word for key, value in tags.items() for word in ("-metadata", f"{key}={value}")]
    source = shop.make("phone.mov", *X264, *options, "-movflags", "use_metadata_tags", "-metadata",
                       "creation_time=2024-05-01T08:11:12Z")  # fmt: skip
    assert "com.apple.quicktime.make" in probe(source)["metadata"]
    for ending in ("mov", "mp4", "mkv"):
        after = shop.check(source, f"out.{ending}")["metadata"]
        assert {key: after.get(key.lower()) for key in tags} == tags
        assert after["creation_time"].startswith("2024-05-01T08:11:12")


def test_any_tag_of_a_matroska_file(shop):
    source = shop.make("tagged.mkv", *X264, "-metadata", "SHOW=Any key", "-metadata:s:v:0",
                       "title=Camera 1")  # fmt: skip
    after = shop.check(source, "out.mkv")
    assert after["metadata"]["show"] == "Any key"
    assert video_of(after)["metadata"]["title"] == "Camera 1"
    shop.check(source, "out.mp4")


def test_chapters_over_hours(shop):
    chapters = shop.folder / "chapters.txt"
    chapters.write_text(
        ";FFMETADATA1\n"
        + "".join(
            f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={n * 600000}\nEND={(n + 1) * 600000}\ntitle=Kapitel ⅩⅠ {n}\n"  # noqa: E501
            for n in range(12)
        )
    )
    source = shop.make("long.mkv", "-i", chapters, "-map_metadata", 1, "-vf", "setpts=N*300/TB",
                       "-fps_mode", "passthrough", *X264)  # fmt: skip
    chapters.unlink()
    for ending in ("mkv", "mp4"):
        after = shop.check(source, f"out.{ending}")
        assert [(int(start), tags["title"]) for start, _, tags in after["chapters"]] == [
            (n * 600, f"Kapitel ⅩⅠ {n}") for n in range(12)
        ]
    assert gaps_of(after) == [300.0] * (FRAMES - 1)


@pytest.mark.parametrize("ending", ["mov", "mp4", "mkv"])
def test_the_timecode_of_a_camera(shop, ending):
    source = shop.make(
        "camera.mov", "-vf", "fps=30000/1001", *X264, "-frames:v", 24, "-timecode", "01:02:03;04",
        "-metadata:s:v:0", "reel_name=A001",
    )  # fmt: skip
    before = probe(source)
    code = video_of(before)["metadata"]["timecode"]
    assert code == "01:02:03;04"
    result, _ = enhanced(source, shop.folder / f"out.{ending}", shop.generator)
    after = probe(shop.folder / f"out.{ending}")
    held = [s["metadata"].get("timecode") for s in after["streams"]] + [
        after["metadata"].get("timecode")
    ]
    assert code in held or any("timecode" in note for note in result.notes)
    assert ending != "mov" or code in held


@pytest.mark.parametrize("chapters", [False, True])
@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_telemetry_of_an_action_camera(shop, ending, chapters):
    """Where it was and how it shook, as data (`gpmd`), with or without marks of highlights."""
    text, marks = shop.folder / "telemetry.srt", shop.folder / "marks.txt"
    text.write_text("1\n00:00:00,000 --> 00:00:00,900\nGPS 48.85 2.29\n")
    marks.write_text(";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=900\ntitle=Jump\n")
    more = ("-i", marks, "-map_chapters", 3) if chapters else ()
    source = shop.make("ride.mp4", *tone(), "-i", text, *more, "-map", "0:v", "-map", "1:a",
                       "-map", "2:s", *X264, "-c:a", "aac", "-c:s", "mov_text")  # fmt: skip
    text.unlink()
    marks.unlink()
    # Subtitles are stored in the same way.
    source.write_bytes(source.read_bytes().replace(b"tx3g", b"gpmd").replace(b"sbtl", b"meta"))
    before = [s for s in of_type(probe(source), "data") if b"GPS" in s["packets"][0][2]]
    assert len(before) == 1
    result, _ = enhanced(source, shop.folder / f"out.{ending}", shop.generator)
    after = of_type(probe(shop.folder / f"out.{ending}"), "data")
    kept = [s for s in after if b"GPS" in s["packets"][0][2]]
    if kept:
        assert [p[2] for p in kept[0]["packets"]] == [p[2] for p in before[0]["packets"]]
    else:
        assert ending != "mp4"
        assert any("data" in note for note in result.notes)
    assert len(of_type(probe(shop.folder / f"out.{ending}"), "audio")) == 1


def test_a_broadcast_with_streams_that_nobody_knows(shop):
    data = shop.folder / "private.bin"
    data.write_bytes(bytes(range(250)))
    source = shop.make("air.ts", *tone(), "-f", "data", "-i", data, "-map", "0:v", "-map", "1:a",
                       "-map", "2:d", *X264, "-c:a", "mp2", "-c:d", "copy")  # fmt: skip
    for ending in ("mp4", "mkv"):
        result, said = enhanced(source, shop.folder / f"out.{ending}", shop.generator)
        assert result.frames["enhanced"] == FRAMES
        after = probe(shop.folder / f"out.{ending}")
        assert len(of_type(after, "audio")) == 1
        assert len(of_type(after, "data")) == 1 or (said and result.notes)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_closed_captions_within_the_video(shop, ending):
    source = shop.folder / "captions.h264"
    plain = shop.make("plain.h264", *X264, "-bf", 0)
    source.write_bytes(with_captions(plain.read_bytes()))
    wrapped = shop.run("-r", 25, "-i", source, "-c", "copy", "-bsf:v", "setts=ts=N/25/TB",
                       shop.folder / "captions.mp4")  # fmt: skip
    before = [f["side_data"].get("closed captions") for f in video_of(probe(wrapped))["frames"]]
    assert None not in before
    shop.check(wrapped, f"out.{ending}")
    after = probe(shop.folder / f"out.{ending}")
    assert [f["side_data"].get("closed captions") for f in video_of(after)["frames"]] == before


def with_captions(stream: bytes) -> bytes:
    """Puts a user data SEI of CEA-708 before each picture (ATSC A/53, part 4, 6.2.3)."""
    pieces = stream.split(b"\0\0\1")
    out = pieces[0]
    for number, piece in enumerate(pieces[1:]):
        if piece[0] & 31 in (1, 5):
            pairs = bytes([0xFC, 0x94, 0x80 + number % 64])
            body = b"\xb5\x00\x31GA94\x03" + bytes([0xC1, 0xFF]) + pairs + b"\xff"
            out += b"\0\0\1\x06\x04" + bytes([len(body)]) + body + b"\x80"
        out += b"\0\0\1" + piece
    return out


# --- times ------------------------------------------------------------------------------------


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


# --- broken files -----------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["mkv", "ts", "avi", "mp4", "webm"])
def test_a_broken_tail_costs_only_itself(shop, container):
    coding = X264 if container != "webm" else ("-c:v", "libvpx", "-b:v", "400k")
    sound = {"webm": "libopus", "avi": "libmp3lame"}.get(container, "aac")
    whole = shop.make(f"whole.{container}", *tone(), *coding, "-g", 6, "-c:a", sound,
                      *(("-movflags", "+faststart") if container == "mp4" else ()))  # fmt: skip
    source = shop.folder / f"broken.{container}"
    source.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    readable = len(video_of(probe(source))["frames"])
    assert 4 < readable < FRAMES
    result, _ = enhanced(source, shop.folder / "out.mp4", shop.generator)
    assert result.frames["received"] >= readable - 1
    after = probe(shop.folder / "out.mp4")
    assert len(video_of(after)["frames"]) == result.frames["received"]
    assert len(of_type(after, "audio")[0]["packets"]) > 4
    if container in ("mkv", "mp4"):
        assert any("break" in n or "broke" in n or "ends" in n for n in result.notes), result.notes


def test_an_mp4_without_its_index_is_refused(shop):
    whole = shop.make("whole.mp4", *X264)
    source = shop.folder / "broken.mp4"
    source.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match=r"broken\.mp4"):
        enhanced(source, shop.folder / "out.mp4", shop.generator)
    assert not (shop.folder / "out.mp4").exists()


@pytest.mark.parametrize("container", ["mkv", "ts", "mp4", "avi"])
def test_damage_in_the_middle_costs_some_frames(shop, container):
    whole = shop.make(f"whole.{container}", *tone(), *X264, "-g", 6, "-c:a",
                      "libmp3lame")  # fmt: skip
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = os.urandom(300)
    source = shop.folder / f"damaged.{container}"
    source.write_bytes(bytes(data))
    result, _ = enhanced(source, shop.folder / "out.mp4", shop.generator)
    assert result.frames["received"] >= FRAMES // 2
    after = probe(shop.folder / "out.mp4")
    assert len(video_of(after)["frames"]) == result.frames["received"]
    assert len(of_type(after, "audio")) == 1


def test_a_broadcast_that_was_tuned_into(shop):
    """It begins in mid-group: what comes before the first key frame is no picture, sound is."""
    whole = shop.make("whole.ts", *tone(), *X264, "-g", 12, "-bf", 0, "-c:a", "mp2")
    data = whole.read_bytes()
    source = shop.folder / "tuned.ts"
    source.write_bytes(data[len(data) // 188 // 4 * 188 :])
    before = probe(source)
    result, _ = enhanced(source, shop.folder / "out.mp4", shop.generator)
    after = probe(shop.folder / "out.mp4")
    assert result.frames["received"] >= 12
    distance = [
        float(of_type(side, "audio")[0]["packets"][-1][0]) - times_of(side)[-1]
        for side in (before, after)
    ]
    assert distance[1] == pytest.approx(distance[0], abs=0.002)


def test_bytes_after_the_end_do_no_harm(shop):
    for container in ("mp4", "mkv", "ts"):
        source = shop.make(f"tail.{container}", *X264)
        with source.open("ab") as file:
            file.write(b"\0" * 3000)
        after = shop.enhance(source)
        assert len(times_of(after)) == FRAMES


def test_a_fragmented_mp4(shop):
    """As browsers, cameras and streaming services write them."""
    source = shop.make("frag.mp4", *tone(), *X264, "-c:a", "aac", "-g", 6, "-movflags",
                       "frag_keyframe+empty_moov+default_base_moof")  # fmt: skip
    for ending in ("mp4", "mkv"):
        shop.check(source, f"out.{ending}")


def test_a_recording_of_a_browser(shop):
    """A live WebM has no duration and no index."""
    source = shop.folder / "live.webm"
    shop.run("-i", shop.raw, *tone(), "-c:v", "libvpx", "-b:v", "300k", "-pix_fmt", "yuv420p",
             "-c:a", "libopus", "-live", 1, "-f", "webm", source)  # fmt: skip
    for ending in ("mp4", "mkv"):
        after = shop.check(source, f"out.{ending}")
        assert after["duration"] == pytest.approx(0.96, abs=0.05)


# --- names and endings ------------------------------------------------------------------------

NAMES = [
    "12:30:05.mp4",
    "-x.mp4",
    "%03d.mp4",
    "file:x.mp4",
    "a b'c\"d.mp4",
    "new\nline.mp4",
    "concat:a|b.mp4",
    "ü.MP4",
    os.fsdecode(b"\xff\xfe.mp4"),
    "http:x.mp4",
    "[0-9]*?.mp4",
    "~.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_name(shop, monkeypatch, name):
    """As an input and as an output, in the current folder."""
    shop.make("one.mp4", "-frames:v", 1, *X264).rename(shop.folder / name)
    monkeypatch.chdir(shop.folder)
    enhanced(Path(name), Path("c.mp4"), shop.generator)
    assert len(times_of(probe(Path("c.mp4")))) == 1
    Path(name).unlink()
    enhanced(Path("c.mp4"), Path(name), shop.generator)
    assert sorted(os.listdir()) == sorted(["c.mp4", name])
    assert Path(name).read_bytes() != b""


@pytest.mark.parametrize(
    "name", ["o.webm", "o.gif", "o.jpg", "o.avi", "o.ts", "o.txt", "o", ".mp4"]
)
def test_other_endings_are_refused_before_the_first_frame(shop, name):
    source = shop.make("one.mp4", "-frames:v", 1, *X264)
    done: list[int] = []
    with pytest.raises(InputError) as refused:
        enhance_file(source, shop.folder / name, Enhancer(shop.generator), progress=done.append)
    sentence = str(refused.value)
    assert name in sentence
    assert ".mp4" in sentence
    assert ".mkv" in sentence
    assert "\n" not in sentence
    assert not done
    assert os.listdir(shop.folder) == ["one.mp4"]


@pytest.mark.parametrize("name", ["o.mp4", "o.m4v", "o.mov", "o.mkv", "O.MP4", "O.Mkv"])
def test_the_endings_that_are_written(shop, name):
    source = shop.make("one.mp4", *tone(0.2), "-frames:v", 2, *X264, "-c:a", "aac")
    shop.check(source, name, frames=2)


def test_a_playlist_that_names_other_files_is_refused(shop):
    shop.make("one.mp4", "-frames:v", 1, *X264)
    for name, text in (
        ("list.m3u8", "#EXTM3U\n#EXTINF:1,\none.mp4\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile one.mp4\n"),
    ):
        source = shop.folder / name
        source.write_text(text)
        with pytest.raises(InputError, match=name):
            enhanced(source, shop.folder / "out.mp4", shop.generator)


# --- a part of a file -------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts"])
def test_a_part_keeps_sound_and_picture_together(shop, container):
    source = shop.make(f"whole.{container}", *tone(), *X264, "-g", 6, "-c:a", "aac")
    result, _ = enhanced(source, shop.folder / "out.mp4", shop.generator, start=0.4, duration=0.2)
    assert result.frames["received"] == 5
    before, after = probe(source), probe(shop.folder / "out.mp4")
    assert 0.0 <= times_of(after)[0] < 0.03  # what is first in the file is sound, in a .ts
    np.testing.assert_allclose(gaps_of(after), 0.04, atol=0.001)
    whole = sound_bytes(of_type(before, "audio")[0])
    (audio,) = of_type(after, "audio")
    part = sound_bytes(audio)
    assert 8 <= len(part) <= 12
    first = whole.index(part[0])
    assert whole[first : first + len(part)] == part
    was = float(of_type(before, "audio")[0]["packets"][first][0]) - times_of(before)[10]
    now = float(audio["packets"][0][0]) - times_of(after)[0]
    assert now == pytest.approx(was, abs=0.003)


def test_a_part_of_a_file_without_times(shop):
    source = shop.make("raw.h264", *X264, "-g", 6)
    result, _ = enhanced(source, shop.folder / "out.mp4", shop.generator, start=0.4, duration=0.2)
    assert result.frames["received"] == 5


def test_chapters_of_a_part_begin_with_it(shop, many):
    enhanced(many, shop.folder / "out.mkv", shop.generator, start=0.2, duration=0.4)
    after = probe(shop.folder / "out.mkv")
    assert [(float(start), tags["title"]) for start, _, tags in after["chapters"]] == [(0.0, "One")]
    assert float(after["chapters"][0][1]) == pytest.approx(0.2, abs=0.002)
    assert float(of_type(after, "subtitle")[0]["packets"][0][0]) <= 0.0 + 0.002
