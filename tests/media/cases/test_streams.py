"""Further streams of enhanced files, and their tags: subtitles, cover art, chapters, data."""

import os
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.media.cases.workshop import FRAMES, X264, gaps_of, tone
from tests.media.checking import compare_pictures, enhanced
from tests.media.probing import (
    of_type,
    probe,
    run_ffmpeg,
    video_of,
)

pytestmark = pytest.mark.slow


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
def test_losses_of_an_mp4_are_reported(shop, many, ending):
    after = shop.check(many, f"out.{ending}")
    sounds = of_type(after, "audio")
    spoken = [s["metadata"].get("language") for s in sounds]
    assert spoken[0] == "eng"
    assert spoken[1] in (("deu",) if ending == "mp4" else ("deu", "ger", "und", None))
    assert ["default" in s["disposition"] for s in sounds] == [False, True]
    assert after["metadata"]["title"] == "My talk"
    assert [tags["title"] for _, _, tags in after["chapters"]] == ["One"]


def test_losses_are_reported_in_one_line(shop, many):
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


def test_a_broadcast_with_unknown_streams(shop):
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
