"""Any video file: enhancing changes only its faces."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.files import enhance_file
from receiver.errors import InputError
from tests.media.checking import EIGHT, TEN, X264, check
from tests.media.probing import planes_of, run_ffmpeg
from tests.media.sources import Properties, build

pytestmark = pytest.mark.slow

SOURCES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "libx264": (EIGHT + TEN[:3], ("mp4", "mov", "mkv", "ts")),
    "libx265": (
        ("yuv420p", "yuv420p10le", "yuv422p10le", "yuv444p12le", "gbrp"),
        ("mp4", "mkv", "ts"),
    ),
    "libvpx": (("yuv420p",), ("webm", "mkv")),
    "libvpx-vp9": (("yuv420p", "yuv444p", "yuv440p", "gbrp", "yuva420p"), ("webm", "mkv", "mp4")),
    "libsvtav1": (("yuv420p", "yuv420p10le"), ("mp4", "mkv")),
    "mpeg4": (("yuv420p",), ("avi", "mp4", "mkv")),
    "mpeg2video": (("yuv420p", "yuv422p"), ("ts", "mpg", "mkv")),
    "mjpeg": (("yuvj420p", "yuvj422p", "yuvj444p"), ("avi", "mov", "mkv")),
    "prores_ks": (("yuv422p10le", "yuv444p10le", "yuva444p10le"), ("mov", "mkv")),
    "ffv1": (
        ("yuv420p", "yuv411p", "gray10le", "yuv444p16le", "gbrp10le", "bgra", "ya8"),
        ("mkv", "avi"),
    ),
    "qtrle": (("rgb24", "argb"), ("mov",)),
}
"""Pixel formats and containers by encoder."""
ODD = ("libvpx", "libvpx-vp9", "ffv1", "mpeg4")
"""Encoders that take odd sides of 4:2:0."""
SOUND = {
    "mp4": ("aac", "ac3", "eac3", "flac", "alac", "libopus", "libmp3lame"),
    "mov": ("aac", "pcm_s16be", "pcm_s24le", "alac"),
    "mkv": ("aac", "flac", "libopus", "pcm_s16le", "libvorbis", "dca", "truehd", "wmav2"),
    "webm": ("libopus", "libvorbis"),
    "ts": ("aac", "ac3", "mp2"),
    "mpg": ("mp2", "ac3"),
    "avi": ("libmp3lame", "pcm_s16le", "ac3"),
}
TEXT = {"mp4": ("mov_text",), "mov": ("mov_text",), "mkv": ("srt", "ass"), "webm": ("webvtt",)}
WITH_MATRIX, WITH_CHAPTERS = ("mp4", "mov", "mkv"), ("mp4", "mov", "mkv")
COLOURS = (
    ("tv", "bt709", "bt709", "bt709"),
    ("tv", "smpte170m", "smpte170m", "smpte170m"),
    ("tv", "bt470bg", "bt470bg", "bt709"),
    ("pc", "bt709", "bt709", "iec61966-2-1"),
    ("tv", "bt2020nc", "bt2020", "smpte2084"),
    ("tv", "bt2020nc", "bt2020", "arib-std-b67"),
    ("tv", "fcc", "film", "bt709"),
)
RATES = (Fraction(25), Fraction(30000, 1001), Fraction(50), Fraction(24000, 1001), Fraction(15))
MPEG_RATES = (Fraction(25), Fraction(30000, 1001), Fraction(50))


@st.composite
def sources(draw: st.DrawFn) -> Properties:
    """Any file that ffmpeg can write of a codec, in a container that holds it."""
    codec = draw(st.sampled_from(sorted(SOURCES)))
    formats, containers = SOURCES[codec]
    container = draw(st.sampled_from(containers))
    pixel_format = draw(st.sampled_from(formats))
    if pixel_format == "yuv440p" and container == "mp4":  # cannot be said there
        container = "webm"
    fine = container in ("mp4", "mov", "mkv", "webm")
    sounds = SOUND[container]
    odd = codec in ODD or pixel_format in ("yuv444p", "yuv444p10le", "gray")
    odd = odd and pixel_format not in ("yuv411p", "yuv440p")
    interlaced = codec in ("libx264", "mpeg2video") and "gray" not in pixel_format
    return Properties(
        codec=codec,
        pixel_format=pixel_format,
        container=container,
        size=draw(st.sampled_from(((320, 240), (352, 264), (319, 239), (321, 240))))
        if odd
        else draw(st.sampled_from(((320, 240), (352, 264)))),
        rate=draw(st.sampled_from(MPEG_RATES if codec == "mpeg2video" else RATES)),
        orientation=draw(st.integers(0, 7)) if container in WITH_MATRIX else 0,
        sar=draw(st.sampled_from((Fraction(1), Fraction(4, 3), Fraction(12, 11))))
        if not odd
        else Fraction(1),
        colours=draw(st.sampled_from(COLOURS))
        if pixel_format in X264 and codec != "mjpeg" and draw(st.booleans())
        else None,
        fields=draw(st.sampled_from(("prog", "tff", "bff"))) if interlaced else "prog",
        jumps=fine and codec not in ("mpeg2video", "mpeg4") and draw(st.booleans()),
        begins=draw(st.sampled_from((0.0, 0.0, 1.48)))
        if container in ("mp4", "mkv", "ts")
        else 0.0,
        audio=tuple(draw(st.lists(st.sampled_from(sounds), max_size=2))),
        subtitles=tuple(draw(st.lists(st.sampled_from(TEXT[container]), max_size=2)))
        if container in TEXT
        else (),
        languages=tuple(draw(st.permutations(("eng", "deu", "fra", "")))),
        default=draw(st.integers(0, 1)),
        title=draw(st.sampled_from(("", "My talk", "Ünïcode – 講演"))) if fine else "",
        chapters=container in WITH_CHAPTERS and draw(st.booleans()),
        cover=container in ("mp4", "mkv") and draw(st.booleans()),
        attachment=container == "mkv" and draw(st.booleans()),
    )


REFUSALS = {
    "mp4": ("truehd audio: end it in .mkv",),
    "m4v": ("truehd audio: end it in .mkv",),
    "mov": (
        "truehd audio: end it in .mkv",
        "opus audio: end it in .mp4",
        "flac audio: end it in .mp4",
        "vorbis audio: end it in .mp4",
    ),
    "mkv": (),
}
"""Error for sound that an output cannot hold, but a file with another ending can."""


@given(properties=sources(), ending=st.sampled_from(("mp4", "mkv", "mov", "m4v")))
@example(Properties(orientation=1, audio=("aac",)), "mp4")
@example(Properties(orientation=3, container="mkv"), "mov")
@example(Properties(orientation=2), "mkv")
@example(Properties(orientation=6, container="mov"), "mp4")
@example(Properties(colours=COLOURS[0], rate=RATES[1]), "mp4")
@example(Properties(colours=COLOURS[4], pixel_format="yuv420p10le", container="mkv"), "mkv")
@example(Properties(jumps=True, rate=RATES[1], audio=("aac",)), "mp4")
@example(Properties(sar=Fraction(4, 3), fields="tff", container="ts", codec="mpeg2video"), "mp4")
@settings(
    max_examples=24,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.timeout(300)
def test_all_but_the_faces_stays(generator, raw, tmp_path, properties, ending):
    source, target = build(properties, raw, tmp_path), tmp_path / f"out.{ending}"
    target.unlink(missing_ok=True)
    try:
        check(source, target, generator, orientation=properties.orientation)
    except InputError as refusal:  # another container has a place for such sound
        assert str(refusal).split(" cannot hold ")[1] in REFUSALS[ending]  # noqa: PT017
        assert not target.exists()


@pytest.mark.parametrize("orientation", range(8))
def test_the_face_is_restored_whichever_way_the_camera_was_held(
    generator, raw, tmp_path, orientation
):
    """As ffmpeg shows them, all eight are alike to the bit."""
    shown = []
    for turned in (0, orientation):
        properties = Properties("ffv1", "yuv444p", "mkv", orientation=turned)
        source = build(properties, raw, tmp_path, f"source{turned}")
        target = tmp_path / f"out{turned}.mkv"
        check(source, target, generator, orientation=turned)
        shown.append(upright(target, tmp_path))
    np.testing.assert_array_equal(*shown)


def upright(path: Path, folder: Path) -> np.ndarray:
    """A file's first frame as ffmpeg shows it: HxW luma."""
    run_ffmpeg("-i", path, "-frames:v", 1, "-pix_fmt", "yuv444p", folder / "upright.y4m")
    with av.open(str(folder / "upright.y4m")) as container:
        return planes_of(next(container.decode(video=0)))[0]


def test_threads_do_not_meet_in_converting_odd_rows(generator, raw, tmp_path):
    """swscale's wrote past the end of a row of 10-bit RGB into the next one's part."""
    source = build(Properties("ffv1", "gbrp10le", "mkv", size=(321, 239)), raw, tmp_path)
    outputs = set()
    for _ in range(6):
        enhance_file(source, tmp_path / "out.mkv", Enhancer(generator), crf=0)
        outputs.add((tmp_path / "out.mkv").read_bytes())
    assert len(outputs) == 1


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_ten_runs_write_the_same_bytes(generator, raw, tmp_path, ending):
    properties = Properties(audio=("aac", "flac"), cover=True, chapters=True, title="Twice")
    source = build(properties, raw, tmp_path)
    outputs = set()
    for _ in range(10):
        target = tmp_path / f"out.{ending}"
        enhance_file(source, target, Enhancer(generator))
        outputs.add(target.read_bytes())
    assert len(outputs) == 1
