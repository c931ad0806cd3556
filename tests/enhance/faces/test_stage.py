"""Tests what the face stage passes to the network, and what it does with the network's result."""

from dataclasses import replace

import numpy as np
import pytest

from keyframes import Keyframe, Landmarks
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import Crop, picture_of
from receiver.enhance.faces.stage import TIMED
from receiver.media.frame import DecodedFrame
from receiver.media.planes import planes


class Recording:
    """In the place of a generator: keeps the crops, and adds -0.1 and 0.1 to them by turns."""

    device = "cpu"

    def __init__(self) -> None:
        self.degraded: list[Crop] = []
        self.references: list[Crop] = []

    def restore(self, degraded, reference, landmarks):
        self.degraded.append(degraded[0].copy())
        self.references.append(reference[0].copy())
        return degraded + np.float32(0.1 if len(self.degraded) % 2 else -0.1)


def seen_in(frames: list[DecodedFrame]) -> tuple[Crop, Landmarks]:
    """Returns the crop and the landmarks of the face in the last frame."""
    enhancer = Enhancer(recording := Recording())
    for frame in frames:
        enhancer.enhance(frame)
    return recording.degraded[-1], enhancer.people[0].recent[-1].landmarks


@pytest.mark.parametrize("shift", [(10, 0), (-7, 5), (0, -9)])
def test_a_reference_is_warped_onto_the_face(decoded, shift):
    """The reference shows the very same face at another place of its crop."""
    crop, landmarks = seen_in(decoded[1:3])
    moved = np.roll(crop, shift[::-1], (1, 2))
    enhancer = Enhancer(recording := Recording(), admission="i-frames")  # admits none of these
    enhancer.enhance(decoded[1])
    place = landmarks + np.float32(shift)
    enhancer.add_reference(0, Keyframe(picture_of(moved), place, 20.0, "still"))
    enhancer.enhance(decoded[2])
    inner = np.s_[:, 40:-40, 40:-40]
    apart = np.abs(recording.references[-1] - recording.degraded[-1])[inner].mean()
    assert np.abs(moved - crop)[inner].mean() > 0.02
    assert apart < 0.005  # a third of it is the rounding to 8 bits


def test_a_face_without_a_reference_is_its_own(decoded):
    enhancer = Enhancer(recording := Recording(), admission="i-frames")
    enhancer.enhance(decoded[1])
    np.testing.assert_array_equal(recording.references[0], recording.degraded[0])


def test_the_shimmer_of_the_network_is_filtered(decoded):
    """The network's results differ by 0.2, 44 levels of luma, though the frame stays the same."""
    frame = replace(decoded[1], is_keyframe=False)
    enhancer = Enhancer(Recording(), admission="i-frames")
    before = planes(frame.video)[0].astype(int)
    gained = [planes(enhancer.enhance(frame))[0] - before for _ in range(8)]
    face = np.s_[200:280, 260:340]
    assert gained[0][face].mean() > 15
    steps = np.abs(np.diff([one[face] for one in gained], axis=0)).mean(axis=(1, 2))
    assert steps[2:].max() < 10


def test_every_part_of_a_restored_frame_is_timed(enhancer, decoded):
    for frame in decoded[:3]:
        enhancer.enhance(frame)
    assert set(enhancer.stats.snapshot()["stages_ms"]) == set(TIMED)
