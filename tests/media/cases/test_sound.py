"""Sound of enhanced files: copied as it is, in step with the picture, never lost in silence."""

from pathlib import Path

import numpy as np
import pytest

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.files import enhance_file
from receiver.errors import InputError
from tests.media.cases.workshop import (
    FRAMES,
    X264,
    Workshop,
    differences_but_pixels,
    gaps_of,
    times_of,
    tone,
)
from tests.media.checking import enhanced
from tests.media.probing import of_type, probe, sound_bytes, video_of

pytestmark = pytest.mark.slow


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


def test_a_gap_in_the_sound_stays_a_gap(shop):
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
