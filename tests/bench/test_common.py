"""What the benches share: framing of clips, sequences, people and table cells."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from bench.common import call as calls
from bench.common.call import RAW_AFTER, RAW_EVERY, Call
from bench.common.framing import camera_view, cut, nearest_faces, scale_of
from bench.common.senders import sender_of
from bench.common.sequences import (
    ORIGINAL,
    RECEIVED,
    Sequence,
    enlarged,
    kbps_of_bytes,
    keep_faces,
    watch,
)
from bench.common.tables import markdown, with_interval
from receiver.media.planes import cut_frame, planes
from tests.bench.clips import write_clip_at
from tests.conftest import plain_frame, same_pixels, write_clip

RATE = Fraction(30)


def test_a_short_clip_is_played_once(portrait, tmp_path):
    write_clip(tmp_path / "clip.mp4", portrait[:10], with_audio=False, crf=6)
    view, rate = camera_view(tmp_path / "clip.mp4", 1.0)
    assert (rate, len(view)) == (30, 10)
    distances = [
        [np.abs(planes(one)[0].astype(int) - planes(frame)[0]).mean() for one in portrait[:10]]
        for frame in view
    ]
    assert np.argmin(distances, axis=1).tolist() == list(range(10))


def test_a_fast_clip_loses_every_second_frame(portrait, tmp_path):
    write_clip(tmp_path / "slow.mp4", portrait[:8], with_audio=False, crf=6)
    write_clip_at(tmp_path / "fast.mp4", portrait[:8], 60)
    view, rate = camera_view(tmp_path / "fast.mp4", 1.0)
    slow, _ = camera_view(tmp_path / "slow.mp4", 1.0)
    assert (rate, len(view), len(slow)) == (30, 4, 8)
    nearest = [
        int(
            np.argmin(
                [np.abs(planes(one)[0].astype(int) - planes(frame)[0]).mean() for one in slow]
            )
        )
        for frame in view
    ]
    assert nearest == [0, 2, 4, 6]


def test_a_clip_of_slow_motion_has_the_rate_of_a_call(portrait, tmp_path):
    write_clip_at(tmp_path / "fast.mp4", portrait[:8], 120)
    view, rate = camera_view(tmp_path / "fast.mp4", 1.0)
    assert (rate, len(view)) == (30, 2)


def test_a_clip_without_a_face_has_no_view(tmp_path):
    write_clip(tmp_path / "wall.mp4", [plain_frame() for _ in range(5)], with_audio=False)
    assert camera_view(tmp_path / "wall.mp4", 1.0)[0] == []


@pytest.mark.parametrize(
    ("size", "view", "face", "scale"),
    [
        ((1280, 720), (640, 480), 200, 1.0),  # a face of an ordinary size stays as it is
        ((1280, 720), (640, 480), 275, 0.8),  # a larger one is reduced
        ((1280, 720), (640, 480), 440, 2 / 3),  # but the clip still fills the view
        ((512, 512), (640, 480), 200, 1.25),  # a small clip is enlarged to fill it
        ((480, 360), (640, 480), 100, 4 / 3),
        ((352, 288), (640, 480), 100, 1.0),  # one that is far smaller is a smaller camera
        ((352, 288), (640, 480), 275, 0.8),
    ],
)
def test_a_clip_fills_the_camera_s_view(size, view, face, scale):
    assert scale_of(size, view, face) == pytest.approx(scale)


@pytest.mark.parametrize(
    ("size", "scale", "centre", "corner"),
    [
        ((1280, 720), 1.0, (640, 360), (320, 120)),
        ((1280, 720), 1.0, (1270, 10), (640, 0)),  # the view stays within the clip
        ((512, 512), 1.25, (256, 256), (0, 80)),
    ],
)
def test_the_view_is_cut_around_the_face(size, scale, centre, corner):
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    frame = plain_frame(*size)
    planes(frame)[0][:] = (x + y) // 8
    shown = cut(frame, scale, np.array(centre, float), (640, 480))
    assert (shown.width, shown.height) == (640, 480)
    assert int(planes(shown)[0][0, 0]) == pytest.approx(sum(corner) / scale / 8, abs=1)


def test_a_phone_held_upright_has_an_upright_view(portrait, tmp_path):
    upright = [frame.reformat(640, 480) for frame in portrait[:3]]
    frames = [cut_frame(frame, 140, 0, 360, 480) for frame in upright]
    write_clip_at(tmp_path / "phone.mp4", frames, 30)
    view, _ = camera_view(tmp_path / "phone.mp4", 1.0)
    assert [(frame.width, frame.height) for frame in view] == [(480, 640)] * 3


class Lanczos:
    def show(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        return frame.reformat(width, height, interpolation="LANCZOS")


@pytest.fixture(scope="module")
def sequence(portrait, generator, tmp_path_factory) -> Sequence:
    """The portrait at 320x240, of whose frames 20 to 39 are judged."""
    sent = sender_of("openh264-100").send(portrait[:40], RATE)
    faces = nearest_faces(portrait[:40])
    faces[30] = None
    restored, rivals = {"restored": Call("none", generator)}, {"lanczos": Lanczos()}
    folder = tmp_path_factory.mktemp("videos")
    return watch(
        sent, RATE, faces, restored, folder, rivals=rivals, is_judged=lambda index: index >= 20
    )


def test_all_ways_show_the_judged_frames_in_the_camera_s_size(sequence, portrait):
    assert list(sequence.videos) == [ORIGINAL, RECEIVED, "restored", "lanczos"]
    assert (sequence.frames, sequence.width, sequence.height) == (20, 640, 480)
    assert {path.stat().st_size for path in sequence.videos.values()} == {20 * 640 * 480 * 3 // 2}
    assert sequence.sent_size == (320, 240)
    assert 20 < sequence.qp < 51
    assert 60 < sequence.stream_kbps < 200
    assert sequence.reference_kbps == {"restored": 0.0}
    first, tenth = sequence.pictures(ORIGINAL, 10)
    assert np.array_equal(first, portrait[20].to_ndarray(format="rgb24"))
    assert np.array_equal(tenth, portrait[30].to_ndarray(format="rgb24"))


def test_received_frames_are_enlarged_by_bicubic_interpolation(sequence, portrait):
    sent = [d.video for _, d, _ in sender_of("openh264-100").send(portrait[:21], RATE)]
    bicubic = sent[20].reformat(640, 480, interpolation="BICUBIC")
    shown = sequence.pictures(RECEIVED, 20)[0]
    assert np.array_equal(shown, bicubic.to_ndarray(format="rgb24"))
    assert not np.array_equal(shown, sequence.pictures("lanczos", 20)[0])
    assert same_pixels(enlarged(portrait[0], 640, 480), portrait[0])


def test_the_faces_are_those_of_the_captured_frames(sequence):
    assert {name: len(crops) for name, crops in sequence.faces.items()} == dict.fromkeys(
        sequence.videos, 19
    )
    assert len(sequence.landmarks) == len(sequence.boxes) == 19
    assert sequence.cuts == {0, 10}  # the first, and the one after the frame without a face
    eyes = np.mean([points[36:48].mean(axis=0) for points in sequence.landmarks], axis=0)
    assert eyes == pytest.approx([128, 115], abs=3)  # in the middle, at y = 0.45
    before, after = (
        np.mean([(a.astype(float) - b) ** 2 for a, b in zip(original, shown, strict=True)])
        for original, shown in (
            (sequence.faces[ORIGINAL], sequence.faces[RECEIVED]),
            (sequence.faces[ORIGINAL], sequence.faces["restored"]),
        )
    )
    assert after < before


def test_another_track_is_a_cut(portrait, tmp_path):
    """Two faces that are the nearest in turn do not follow each other."""
    faces = nearest_faces(portrait[:6])
    assert {face.track_id for face in faces} == {faces[0].track_id}
    faces[3:] = [replace(face, track_id=faces[0].track_id + 1) for face in faces[3:]]
    sent = sender_of("crf42").send(portrait[:6], RATE)
    assert watch(sent, RATE, faces, {}, tmp_path).cuts == {0, 3}


def test_dropped_faces_leave_all_lists_of_a_sequence():
    crops = [np.full((4, 4, 3), level, np.uint8) for level in range(5)]
    points = [np.full((68, 2), level, np.float32) for level in range(5)]
    boxes = [np.full(4, float(level)) for level in range(5)]
    faces = {ORIGINAL: crops, RECEIVED: crops[::-1]}
    one = Sequence({}, 4, 4, RATE, faces, landmarks=points, boxes=boxes, cuts={0, 2})
    keep_faces(one, [4, 0, 1, 3])
    levels = {name: [int(crop[0, 0, 0]) for crop in ones] for name, ones in one.faces.items()}
    assert levels == {ORIGINAL: [0, 1, 3, 4], RECEIVED: [4, 3, 1, 0]}
    assert [points[0, 0] for points in one.landmarks] == [0, 1, 3, 4]
    assert [box[0] for box in one.boxes] == [0, 1, 3, 4]
    assert one.cuts == {0, 2}  # 1 follows 0 and 4 follows 3, but 3 does not follow 1


def test_no_frames_are_no_sequence(generator, portrait, tmp_path):
    sent = sender_of("crf42").send(portrait[:3], RATE)
    with pytest.raises(ValueError, match="no frame is judged"):
        watch(sent, RATE, [None] * 3, {}, tmp_path, is_judged=lambda index: False)


@pytest.mark.parametrize("origin", ["raw", "stills"])
def test_no_frame_is_restored_with_one_of_its_own_time(portrait, generator, monkeypatch, origin):
    """A raw reference is at least half a second old; a still has been received before its use."""
    captured: dict[int, float] = {}  # seconds by id of the picture that becomes a reference
    used: list[tuple[float, float]] = []  # seconds of use and of capture
    now = 0.0
    real_faces, real_encode = calls.faces_of_still, calls.encode_still

    def faces(raw, *more):
        found = real_faces(raw, *more)
        captured.update({id(one.keyframe): now for one in found})
        return found

    def encode(picture, most):
        data, mime = real_encode(picture, most)
        captured[id(data)] = now
        return data, mime

    call = Call(origin, generator)
    real_add, real_decode = call.enhancer.add_reference, calls.decode_still

    def add(track_id, keyframe):
        used.append((now, captured[id(keyframe)]))
        real_add(track_id, keyframe)

    def decode(data, mime):
        used.append((now, captured[id(data)]))
        return real_decode(data, mime)

    monkeypatch.setattr(calls, "faces_of_still", faces)
    monkeypatch.setattr(calls, "encode_still", encode)
    monkeypatch.setattr(calls, "decode_still", decode)
    monkeypatch.setattr(call.enhancer, "add_reference", add)
    frames = [portrait[i % 60] for i in range(120)]  # repeated pictures do no harm here
    for index, (raw, decoded, _) in enumerate(sender_of("openh264-100").send(frames, RATE)):
        now = index / 30
        call.see(now, raw, decoded)
    assert used
    if origin == "raw":
        assert [taken for _, taken in used] == pytest.approx([0, RAW_EVERY, 2 * RAW_EVERY, 3])
        assert all(at - taken > RAW_AFTER == 0.5 for at, taken in used)
    else:
        assert all(at - taken >= calls.STILL_DELAY for at, taken in used)


@pytest.mark.parametrize("capacity", [1, 3, 5, 10])
def test_a_call_has_sets_of_the_given_policy_and_size(generator, capacity):
    call = Call("raw", generator, policy="max-distance", capacity=capacity)
    keyframes = call.enhancer.people.empty_set()
    assert (keyframes.policy, keyframes.capacity) == ("max-distance", capacity)
    default = Call("raw", generator).enhancer.people.empty_set()
    assert (default.policy, default.capacity) == ("lfu", 10)


def test_bytes_and_seconds_are_a_bitrate():
    assert kbps_of_bytes(2500, 2.0) == pytest.approx(10.0)


def test_cells_and_tables_of_markdown():
    assert with_interval(3.0, (2.5, 3.5), "+.1f") == "+3.0 [+2.5, +3.5]"
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert markdown([["a|b", "[/c]\n"]]) == "| a\\|b | [/c]\\n |\n| --- | --- |\n"
