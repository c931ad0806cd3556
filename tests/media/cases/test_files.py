"""Broken files, names and endings, and parts of files."""

import os
from pathlib import Path

import numpy as np
import pytest

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.files import enhance_file
from receiver.errors import InputError
from tests.media.cases.workshop import FRAMES, X264, gaps_of, times_of, tone
from tests.media.checking import enhanced
from tests.media.probing import (
    of_type,
    probe,
    sound_bytes,
    video_of,
)

pytestmark = pytest.mark.slow

# Broken files


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
    """It begins in mid-group: frames before the first key frame cannot be decoded, sound can."""
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


# Names and endings


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


# A part of a file


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
