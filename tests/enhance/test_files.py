"""Tests the enhancement of whole files."""

from pathlib import Path

import av
import numpy as np
import pytest

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.files import enhance_file, frame_total
from receiver.errors import InputError
from receiver.media.planes import planes
from tests.conftest import RATE, plain_frame, same_pixels, write_clip

pytestmark = pytest.mark.slow


def pictures(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def times(path: Path) -> list[float]:
    return [round(frame.time, 4) for frame in pictures(path)]


def sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_frames_times_size_and_sound_are_kept(clip, enhancer, tmp_path, ending):
    target = tmp_path / f"out{ending}"
    done = []
    result = enhance_file(clip, target, enhancer, progress=done.append)
    assert result.frames == {"received": 40, "enhanced": 40, "passed": 0}
    assert result.keyframes == 1  # one pose, in the best quality received
    assert done == list(range(1, 41))
    # Matroska has no negative times: it shifts video and sound alike, by AAC's first packet.
    moved = 1024 / 48000 if ending == ".mkv" else 0.0
    np.testing.assert_allclose(np.array(times(target)) - moved, times(clip), atol=0.001)
    assert {(f.width, f.height) for f in pictures(target)} == {(640, 480)}
    assert sound(target) == sound(clip)
    changed = [not same_pixels(a, b) for a, b in zip(pictures(clip), pictures(target), strict=True)]
    assert all(changed)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_irregular_times_are_kept(portrait, enhancer, tmp_path):
    source, target = tmp_path / "uneven.mkv", tmp_path / "out.mkv"
    stamps = [0, 1, 2, 5, 6, 11, 12, 20]
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 640, 480, "yuv420p"
        for frame, stamp in zip(portrait, stamps, strict=False):
            frame.pts, frame.time_base = stamp, 1 / RATE
            frame.pict_type = av.video.frame.PictureType.NONE
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    enhance_file(source, target, enhancer)
    np.testing.assert_allclose(times(target), times(source), atol=0.0011)


def test_a_lossless_file_without_faces_is_kept_bit_by_bit(enhancer, tmp_path):
    source, target = tmp_path / "plain.mp4", tmp_path / "out.mp4"
    write_clip(source, [plain_frame(level=80 + i) for i in range(10)], with_audio=False)
    result = enhance_file(source, target, enhancer, crf=0)
    assert result.frames == {"received": 10, "enhanced": 0, "passed": 10}
    pairs = zip(pictures(source), pictures(target), strict=True)
    assert all(same_pixels(a, b) for a, b in pairs)


def test_split_keeps_the_left_half(clip, enhancer, tmp_path):
    target = tmp_path / "split.mp4"
    enhance_file(clip, target, enhancer, split=True, crf=0)
    for before, after in zip(pictures(clip), pictures(target), strict=True):
        left, right = planes(after)[0][:, :318], planes(after)[0][:, 322:]
        np.testing.assert_array_equal(left, planes(before)[0][:, :318])
        assert (right != planes(before)[0][:, 322:]).any()


def test_strength_zero_keeps_the_pixels(clip, generator, tmp_path):
    target = tmp_path / "same.mp4"
    enhance_file(clip, target, Enhancer(generator, strength=0.0), crf=0)
    pairs = zip(pictures(clip), pictures(target), strict=True)
    assert all(same_pixels(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("codec", "pixel_format", "ending"),
    [("mpeg4", "yuv420p", ".avi"), ("libx265", "yuv420p10le", ".mkv"), ("ffv1", "yuv444p", ".mkv")],
)
def test_other_codecs_and_pixel_formats(portrait, enhancer, tmp_path, codec, pixel_format, ending):
    source = tmp_path / f"in{ending}"
    with av.open(str(source), "w") as container:
        video = container.add_stream(codec, rate=30)
        video.width, video.height, video.pix_fmt = 640, 480, pixel_format
        for index, frame in enumerate(portrait[:8]):
            picture = frame.reformat(format=pixel_format)
            picture.pts, picture.time_base = index, 1 / RATE
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
    result = enhance_file(source, tmp_path / "out.mp4", enhancer)
    assert result.frames["enhanced"] == 8
    assert len(pictures(tmp_path / "out.mp4")) == 8


def test_a_phone_held_upright(portrait, enhancer, tmp_path):
    """The file holds frames lying on their side and the rotation to show them upright."""
    sideways, source = tmp_path / "sideways.mp4", tmp_path / "phone.mp4"
    lying = [
        av.VideoFrame.from_ndarray(np.rot90(f.to_ndarray(format="rgb24")).copy(), format="rgb24")
        for f in portrait[:6]
    ]
    write_clip(sideways, [f.reformat(format="yuv420p") for f in lying], with_audio=False)
    turn_in_header(sideways, source)
    assert pictures(source)[0].rotation in (-90, 270)
    result = enhance_file(source, tmp_path / "out.mp4", enhancer, crf=0)
    assert result.frames["enhanced"] == 6
    for before, after in zip(pictures(source), pictures(tmp_path / "out.mp4"), strict=True):
        assert (after.width, after.height, after.rotation) == (480, 640, before.rotation)
        change = np.abs(planes(after)[0].astype(int) - planes(before)[0])
        assert change[:, :40].max() == change[:, -40:].max() == 0  # above and below the face
        assert (change > 0).sum() > 5000


def turn_in_header(source: Path, target: Path) -> None:
    """Rewrites the mp4 track header's matrix to a turn by 90 degrees (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(source.read_bytes())
    one = (0x10000).to_bytes(4, "big")
    minus = (-0x10000).to_bytes(4, "big", signed=True)
    zero, w = bytes(4), (0x40000000).to_bytes(4, "big")
    straight = one + zero + zero + zero + one + zero + zero + zero + w
    turned = zero + one + zero + minus + zero + zero + zero + zero + w
    header = data.index(b"tkhd")
    at = data.index(straight, header)
    data[at : at + 36] = turned
    target.write_bytes(data)


def test_the_number_of_frames_is_known_beforehand(clip):
    assert frame_total(clip) == 40


def test_of_a_damaged_file_only_the_damaged_end_is_lost(clip, enhancer, tmp_path):
    source = tmp_path / "broken.mkv"
    enhance_file(clip, source, enhancer)
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 2 // 3])
    result = enhance_file(source, tmp_path / "out.mp4", Enhancer(enhancer.generator))
    assert 5 < result.frames["received"] < 40
    assert len(pictures(tmp_path / "out.mp4")) == result.frames["received"]


def bad_inputs(folder: Path) -> dict[str, str]:
    """Files that cannot be used, with the expected message."""
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").write_bytes(b"")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        piece.sample_rate = 48000
        container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return {
        "missing.mp4": r"there is no file .*missing\.mp4",
        "text.mp4": r"text\.mp4 cannot be read as a video",
        "empty.mp4": r"empty\.mp4 cannot be read as a video",
        "sound.mp4": r"sound\.mp4 has no video stream",
        ".": r"is not a regular file",
    }


@pytest.mark.parametrize("name", ["missing.mp4", "text.mp4", "empty.mp4", "sound.mp4", "."])
def test_an_unusable_input_is_reported_and_writes_nothing(enhancer, tmp_path, name):
    said = bad_inputs(tmp_path)[name]
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match=said):
        enhance_file(tmp_path / name, tmp_path / "out.mp4", enhancer)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("out.txt", r"out\.txt has no ending of a video format"),
        ("out", r"out has no ending of a video format"),
        ("file/out.mp4", r"cannot be written"),
    ],
)
def test_an_unusable_output_is_reported(clip, enhancer, tmp_path, target, said):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=said):
        enhance_file(clip, tmp_path / target, enhancer)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_input_is_never_overwritten(clip, enhancer):
    before = clip.read_bytes()
    with pytest.raises(InputError, match="is the input itself"):
        enhance_file(clip, clip.parent / "." / clip.name, enhancer)
    assert clip.read_bytes() == before


def test_sound_that_the_container_cannot_hold(portrait, enhancer, tmp_path):
    source = tmp_path / "sound.avi"
    with av.open(str(source), "w") as container:
        video = container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 640, 480, "yuv420p"
        sound = container.add_stream("pcm_u8", rate=8000, layout="mono")
        frame = portrait[0]
        frame.pts, frame.time_base = 0, 1 / RATE
        container.mux(video.encode(frame))
        piece = av.AudioFrame.from_ndarray(np.full((1, 800), 128, np.uint8), "u8", "mono")
        piece.sample_rate, piece.pts = 8000, 0
        container.mux(sound.encode(piece))
        container.mux(video.encode(None))
    with pytest.raises(InputError, match=r"cannot hold pcm_u8 audio: end it in \.mkv"):
        enhance_file(source, tmp_path / "out.mp4", enhancer)
    assert not (tmp_path / "out.mp4").exists()


class Interrupted(Enhancer):
    """Acts as if the user pressed Ctrl-C at the fifth frame."""

    def process(self, frame, *more):
        if self.stats.frames.received == 5:
            raise KeyboardInterrupt
        return super().process(frame, *more)


def test_an_interruption_leaves_no_partial_file(clip, generator, tmp_path):
    (tmp_path / "out.mp4").write_text("an older result")
    with pytest.raises(KeyboardInterrupt):
        enhance_file(clip, tmp_path / "out.mp4", Interrupted(generator))
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "an older result"


def test_metadata_in_an_old_encoding_does_not_matter(clip, enhancer, tmp_path):
    """Fuzzing found that UnicodeDecodeError was raised."""
    source = tmp_path / "latin1.mp4"
    source.write_bytes(clip.read_bytes().replace(b"isomiso2", b"isom\xe9so2", 1))
    assert enhance_file(source, tmp_path / "out.mp4", enhancer).frames["received"] == 40
