"""What the benches share: framing of clips, face sequences and table cells."""

import numpy as np
import pytest

from bench.common.call import Call
from bench.common.framing import call_view, camera_view
from bench.common.sequences import FaceSequence, kbps_of_bytes
from bench.common.tables import markdown, with_interval
from receiver.enhance.faces.generator import Generator
from receiver.media.planes import planes
from tests.bench.clips import write_clip_at
from tests.conftest import plain_frame, same_pixels, write_clip


def test_a_short_clip_is_played_forward_and_backward(portrait, tmp_path):
    write_clip(tmp_path / "clip.mp4", portrait[:10], with_audio=False, crf=6)
    view, rate = call_view(tmp_path / "clip.mp4", 1.0)
    once, same_rate = camera_view(tmp_path / "clip.mp4", 1.0)
    assert (rate, same_rate, len(view), len(once)) == (30, 30, 30, 10)
    order = [*range(10), *range(8, 0, -1), *range(10), 8, 7]
    assert all(same_pixels(frame, once[at]) for frame, at in zip(view, order, strict=True))


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


def test_a_clip_without_a_face_has_no_view(tmp_path):
    write_clip(tmp_path / "wall.mp4", [plain_frame() for _ in range(5)], with_audio=False)
    assert call_view(tmp_path / "wall.mp4", 1.0)[0] == []


def test_dropped_faces_leave_all_lists_of_a_sequence():
    crops = [np.full((4, 4, 3), level, np.uint8) for level in range(3)]
    points = [np.full((68, 2), level, np.float32) for level in range(3)]
    boxes = [np.full(4, float(level)) for level in range(3)]
    sequence = FaceSequence({"original": crops, "input": crops[::-1]}, points, boxes)
    sequence.keep(np.array([True, False, True]))
    levels = {name: [int(one[0, 0, 0]) for one in ones] for name, ones in sequence.pictures.items()}
    assert levels == {"original": [0, 2], "input": [2, 0]}
    assert [one[0, 0] for one in sequence.landmarks] == [0, 2]
    assert [one[0] for one in sequence.boxes] == [0, 2]


def test_bytes_and_seconds_are_a_bitrate():
    assert kbps_of_bytes(2500, 2.0) == pytest.approx(10.0)


def test_cells_and_tables_of_markdown():
    assert with_interval(3.0, (2.5, 3.5), "+.1f") == "+3.0 [+2.5, +3.5]"
    assert markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


@pytest.mark.parametrize("capacity", [1, 3, 5, 10])
def test_a_call_has_sets_of_the_given_policy_and_size(capacity):
    keyframes = Call(
        "raw", Generator(), policy="max-distance", capacity=capacity
    ).enhancer.people.empty_set()
    assert (keyframes.policy, keyframes.capacity) == ("max-distance", capacity)
    default = Call("raw", Generator()).enhancer.people.empty_set()
    assert (default.policy, default.capacity) == ("lfu", 10)
