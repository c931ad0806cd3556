"""Sizes, aspect ratios, colours, orientation and transparency of enhanced files."""

import re
from fractions import Fraction

import numpy as np
import pytest

from tests.media.cases.workshop import FRAMES, X264, gaps_of, pictures_of, tone
from tests.media.probing import described, of_type, planes_of, probe, shown, video_of

pytestmark = pytest.mark.slow

# Sizes, aspect, colours, orientation


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
def test_the_orientation_of_a_phone_stays(shop, container, degrees):
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


def test_unspecified_colours_stay_unspecified(shop):
    source = shop.make("plain.mp4", *X264)
    frame = video_of(shop.check(source))["frames"][0]
    assert frame["colours"][1:] == (2, 2, 2)


def test_colours_that_only_the_container_specifies(shop):
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


# Transparency


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
def test_lost_transparency_is_reported(shop, name, coding):
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
