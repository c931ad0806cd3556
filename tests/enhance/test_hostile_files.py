"""Tests which files of strangers are opened, and what an output never overwrites."""

import os
import signal
import stat
import subprocess
import sys
import threading
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from receiver.enhance.files import enhance_file
from receiver.errors import InputError
from receiver.media.files.reading import READING, VideoReader
from receiver.media.files.recording import FileOutput
from receiver.media.files.writing import VideoWriter
from receiver.media.views import write_picture
from receiver.sending.sources import clip_source
from tests.commands.test_cli import assert_one_sentence, run
from tests.conftest import plain_frame, write_clip

pytestmark = pytest.mark.slow

HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.ts\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile secret.mp4\n"
SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT4S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">'
    "<BaseURL>secret.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>"
)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with videos that hostile files refer to."""
    for name in ("secret.mp4", "secret.ts"):
        write_clip(tmp_path / name, [plain_frame(64, 48)] * 10, with_audio=False)
    return tmp_path


def box(kind: bytes, content: bytes) -> bytes:
    """Returns an ISO base media file box (ISO/IEC 14496-12, 4.2)."""
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def with_external_data(mp4: bytes, name: str) -> bytes:
    """Turns the data reference into a QuickTime alias, so that samples are read from `name`."""
    volume, path = b"\4disk".ljust(28, b"\0"), f"x:{name}".encode()
    alias = bytes(10) + volume + bytes(12) + bytes(64) + bytes(16)
    alias += (1).to_bytes(2, "big") * 2 + bytes(16)  # one folder up and down: beside this file
    alias += (2).to_bytes(2, "big") + len(path).to_bytes(2, "big") + path + bytes(len(path) % 2)
    entry = box(b"alis", bytes(4) + (alias + b"\xff\xff\0\0").ljust(160, b"\0"))

    def rewritten(boxes: bytes) -> bytes:
        result, at = b"", 0
        while at < len(boxes):
            size, kind = int.from_bytes(boxes[at : at + 4], "big"), boxes[at + 4 : at + 8]
            content = boxes[at + 8 : at + size]
            if kind == b"dref":
                content = content[:8] + entry
            elif kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
                content = rewritten(content)
            result += box(kind, content)
            at += size
        return result

    return rewritten(mp4)  # the index is after the samples, so that their offsets stay


def stock_frames(path: Path, **options: str) -> int:
    """Returns how many frames libav decodes without this package's options."""
    with av.open(str(path), options=options) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(
    ("name", "text", "opened_by_itself"),
    [
        ("list.m3u8", HLS, True),
        ("list.mp4", HLS, False),
        ("script.ffconcat", CONCAT, True),
        ("script.mkv", CONCAT, True),
        ("call.sdp", SDP, False),  # would open port 5004
        ("call.mp4", SDP, False),
        ("manifest.mpd", DASH, False),
        ("manifest.mp4", DASH, False),
    ],
)
def test_a_file_that_refers_to_other_files_is_not_opened(
    folder, enhancer, name, text, opened_by_itself
):
    (folder / name).write_text(text)
    if opened_by_itself:  # so the refusal comes from this package
        assert stock_frames(folder / name) == 10
    for use in (VideoReader, clip_source):
        with pytest.raises(InputError, match=rf"{name} cannot be read as a video: .+"):
            use(folder / name)
    with pytest.raises(InputError, match="cannot be read as a video"):
        enhance_file(folder / name, folder / "out.mp4", enhancer)
    assert not (folder / "out.mp4").exists()


def test_the_error_for_a_refused_format_names_the_way_out(folder):
    (folder / "script.mp4").write_text(CONCAT)
    with pytest.raises(InputError, match=r"playlists, .* are not supported, convert it to \.mp4"):
        VideoReader(folder / "script.mp4")


def test_numbered_pictures_are_not_a_video(folder):
    write_picture(folder / "p1.png", np.zeros((48, 64, 3), np.uint8))
    (folder / "p%d.png").write_bytes(b"")
    assert stock_frames(folder / "p%d.png") == 1
    with pytest.raises(InputError, match="cannot be read as a video"):
        VideoReader(folder / "p%d.png")


def test_samples_in_another_file_are_not_read(folder):
    hostile = folder / "hostile.mov"
    hostile.write_bytes(with_external_data((folder / "secret.mp4").read_bytes(), "secret.mp4"))
    assert stock_frames(hostile, enable_drefs="1") == 10
    with pytest.raises(InputError, match=r"hostile\.mov has no frame that can be decoded"):
        clip_source(hostile)


def test_a_path_that_looks_like_a_url_is_opened_as_a_file_only(folder, monkeypatch):
    """libav takes the text before a colon for a protocol."""
    monkeypatch.chdir(folder)
    named = Path("concat:secret.mp4|secret.mp4")
    named.write_bytes(Path("secret.mp4").read_bytes())
    with VideoReader(named) as reader:
        assert reader.video.frames == 10
    assert READING["protocol_whitelist"] == "file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("linked", [False, True])
def test_pipes_and_devices_are_not_opened(tmp_path, linked):
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)  # opening it would wait forever
    for special in (pipe, Path("/dev/zero")):
        path = special
        if linked:
            path = tmp_path / f"link-{special.name}"
            path.symlink_to(special)
        with pytest.raises(InputError, match="is not a regular file: give a video file"):
            VideoReader(path)


def test_a_link_to_a_video_is_opened(folder):
    (folder / "link.mp4").symlink_to(folder / "secret.mp4")
    VideoReader(folder / "link.mp4").close()


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mov", "libx264"),
        ("a.3gp", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx"),
        ("a.avi", "mpeg4"),
        ("a.ts", "libx264"),
        ("a.mpg", "mpeg2video"),
        ("a.m2v", "mpeg2video"),
        ("a.flv", "libx264"),
        ("a.ogv", "libvpx"),
        ("a.wmv", "mpeg4"),
        ("a.mxf", "mpeg2video"),
        ("a.ivf", "libvpx"),
        ("a.gif", "gif"),
        ("a.y4m", "wrapped_avframe"),
        ("a.h264", "libx264"),
        ("a.hevc", "libx265"),
        ("a.m4v", "mpeg4"),
    ],
)
def test_common_formats_are_opened(tmp_path, name, codec):
    with av.open(str(tmp_path / name), "w") as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height = 128, 96
        video.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for index in range(10):
            frame = plain_frame(128, 96).reformat(format=video.pix_fmt)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    source = clip_source(tmp_path / name)
    assert next(source.frames()).width == 128


def test_a_recording_without_a_length_is_sent_with_its_sound(tmp_path, caplog):
    """Browsers record such files."""
    path = tmp_path / "browser.webm"
    with av.open(str(path), "w", container_options={"live": "1"}) as container:
        video = container.add_stream("libvpx", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("libopus", rate=48000)
        for index in range(10):
            frame = plain_frame(64, 48)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
            piece = av.AudioFrame.from_ndarray(
                np.full((1, 1920), (-1) ** index * 9000, np.int16), "s16", "mono"
            )
            piece.sample_rate, piece.pts = 48000, 1920 * index
            container.mux(sound.encode(piece))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    with VideoReader(path) as reader:
        assert reader.audio is not None
        assert reader.lasts is None
    pieces = list(islice(clip_source(path).sound(), 60))  # the file has 20
    assert all(np.abs(piece.to_ndarray()).max() > 5000 for piece in pieces[5:15] + pieces[45:55])
    assert caplog.text == ""


@pytest.fixture
def with_sound(tmp_path) -> bytes:
    """A clip with sound whose codec names can be found in the file."""
    write_clip(tmp_path / "sound.mkv", [plain_frame(64, 48)] * 10, with_audio=True)
    return (tmp_path / "sound.mkv").read_bytes()


def test_a_video_of_an_unknown_codec_is_reported(with_sound, enhancer, tmp_path):
    """Fuzzing found that AttributeError was raised."""
    (tmp_path / "odd.mkv").write_bytes(with_sound.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/AVZ"))
    with pytest.raises(InputError, match=r"the video in .*odd\.mkv cannot be decoded"):
        clip_source(tmp_path / "odd.mkv")
    with pytest.raises(InputError, match=r"the video in .*odd\.mkv cannot be decoded"):
        enhance_file(tmp_path / "odd.mkv", tmp_path / "out.mkv", enhancer)


def test_sound_of_an_unknown_codec_is_reported(with_sound, enhancer, tmp_path, caplog):
    (tmp_path / "odd.mkv").write_bytes(with_sound.replace(b"A_AAC", b"A_AAZ"))
    assert clip_source(tmp_path / "odd.mkv").sound is None
    assert caplog.text.count("without its sound") == 1
    result = enhance_file(tmp_path / "odd.mkv", tmp_path / "out.mkv", enhancer)
    assert result.notes == (f"{tmp_path / 'out.mkv'} cannot keep: sound #1",)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


# Outputs


def recorded(path: Path, pictures: int = 5) -> None:
    file = FileOutput(path, Fraction(30), has_sound=False)
    for index in range(pictures):
        frame = plain_frame(64, 48)
        frame.pts, frame.time_base = 3000 * index, Fraction(1, 90000)
        file.put(frame)
    file.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX file modes")
def test_recordings_are_private_and_enhanced_files_follow_the_umask(clip, enhancer, tmp_path):
    before = os.umask(0o002)
    try:
        recorded(tmp_path / "call.mp4")
        write_picture(tmp_path / "demo.png", np.zeros((4, 4, 3), np.uint8))
        enhance_file(clip, tmp_path / "better.mp4", enhancer)
    finally:
        os.umask(before)
    modes = {path.name: oct(mode(path)) for path in tmp_path.iterdir()}
    assert modes == {"call.mp4": "0o600", "demo.png": "0o600", "better.mp4": "0o664"}


@pytest.mark.parametrize("name", ["call.mp4", "call.mkv"])
def test_a_killed_recording_is_playable_and_reported_by_the_next_one(tmp_path, name, caplog):
    script = """
import os, signal, sys
from fractions import Fraction
from itertools import islice
from pathlib import Path
from receiver.media.files.recording import FileOutput
from tests.media.test_recording_faults import fill
file = FileOutput(Path(sys.argv[1]), Fraction(30), has_sound=False)
fill(file, 300)
while file._queue.qsize():
    file._thread.join(0.001)
os.kill(os.getpid(), signal.SIGKILL)
"""
    target = tmp_path / name
    killed = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (partial,) = tmp_path.iterdir()
    before = partial.read_bytes()
    assert stock_frames(partial) >= 60  # all but the last second of .mp4, 5 MB of .mkv
    recorded(target)
    assert partial.read_bytes() == before
    assert stock_frames(target) == 5
    assert [str(partial) in record.getMessage() for record in caplog.records] == [True]


def test_two_recordings_to_one_file_do_not_disturb_each_other(tmp_path):
    """With a shared temporary name the second one truncated the first one's file."""
    one = FileOutput(tmp_path / "call.mkv", Fraction(30), has_sound=False)
    recorded(tmp_path / "call.mkv", pictures=7)
    assert stock_frames(tmp_path / "call.mkv") == 7
    frame = plain_frame(64, 48)
    frame.pts, frame.time_base = 0, Fraction(1, 90000)
    one.put(frame)
    one.close()
    assert stock_frames(tmp_path / "call.mkv") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["call.mkv"]


def test_a_link_planted_at_the_temporary_name_is_not_followed(tmp_path):
    """libav would open the name again and truncate its target, so it gets the open file."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    with VideoWriter(tmp_path / "call.mp4", live=True) as file:
        unfinished = next(path for path in tmp_path.iterdir() if path.name.startswith("."))
        unfinished.rename(tmp_path / "moved")
        unfinished.symlink_to(victim)
        video = file.container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        file.container.mux(video.encode(plain_frame(64, 48)))
        file.container.mux(video.encode(None))
    assert victim.read_bytes() == b"mine"
    assert stock_frames(tmp_path / "moved") == 1


@pytest.mark.parametrize("name", ["call.m3u8", "call.mpd", "call-%d.png", "call.txt", "call"])
def test_a_muxer_that_writes_its_own_files_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="has no ending of a video format that can be written"):
        VideoWriter(tmp_path / name, live=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_target_that_is_a_pipe_is_neither_written_nor_replaced(tmp_path):
    os.mkfifo(tmp_path / "call.mp4")
    with pytest.raises(InputError, match="is not a regular file"):
        recorded(tmp_path / "call.mp4")
    assert stat.S_ISFIFO((tmp_path / "call.mp4").lstat().st_mode)
    assert threading.active_count() == len(threading.enumerate())


# The command line


@pytest.mark.parametrize("name", ["list.m3u8", "script.mkv", "call.sdp", "pipe.mp4"])
@pytest.mark.parametrize(
    "arguments", [["enhance", "FILE", "out.mp4"], ["demo", "--clip", "FILE"], ["send", "FILE", "x"]]
)
def test_the_command_line_reports_it_in_one_sentence(folder, arguments, name):
    texts = {"list.m3u8": HLS, "script.mkv": CONCAT, "call.sdp": SDP}
    if name in texts:
        (folder / name).write_text(texts[name])
    else:
        os.mkfifo(folder / name)
    places = {"FILE": str(folder / name), "out.mp4": str(folder / "out.mp4")}
    result = run(*(places.get(one, one) for one in arguments))
    words = "cannot be read as a video" if name in texts else "is not a regular file"
    assert_one_sentence(result, name, words)
    assert not (folder / "out.mp4").exists()
