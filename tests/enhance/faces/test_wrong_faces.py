"""Tests that invalid faces of a tracker are ignored and their neighbours restored."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import can_be_cropped, crop_from_frame
from receiver.enhance.faces.tracking import Face
from receiver.enhance.stage import EnhancedFrame
from receiver.media.frame import DecodedFrame
from tests.conftest import same_pixels

SIZE = 640, 480


@pytest.fixture(scope="module")
def face(generator, decoded) -> Face:
    """The face of the portrait."""
    enhancer = Enhancer(generator)
    (found,) = enhancer.process(decoded[0]).faces
    return found


def with_number(array: np.ndarray, at: int, number: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[at] = number
    return changed


def moved(face: Face, x: float, y: float, scale: float = 1.0) -> Face:
    points = (face.landmarks * scale + (x, y)).astype(np.float32)
    box = face.box * scale + (x, y, x, y)
    return replace(face, landmarks=points, box=box, crop_from_frame=crop_from_frame(points))


def wrong_faces(face: Face) -> dict[str, Face]:
    found: dict[str, Face] = {
        "off the frame": moved(face, 700.0, 0.0),
        "above it": moved(face, 0.0, -900.0),
        "of no size": moved(face, 100.0, 100.0, 1e-4),
        "larger than any frame": moved(face, -4e5, -4e5, 1e3),
        "in one point": moved(face, 100.0, 100.0, 0.0),
        "a crop that is sheared": replace(
            face, crop_from_frame=face.crop_from_frame * [[1, 1, 1], [1, 2, 1]]
        ),
        "a crop of somewhere else": replace(
            face, crop_from_frame=face.crop_from_frame + np.array([[0, 0, 900], [0, 0, 0]])
        ),
    }
    for number in (math.nan, math.inf, -math.inf, 1e30):
        for name, at in (("landmarks", 5), ("landmarks", 80), ("box", 1), ("crop_from_frame", 2)):
            changed: Any = with_number(getattr(face, name), at, number)
            found[f"{number} in {name} {at}"] = replace(face, **{name: changed})
    return found


def tracked(enhancer: Enhancer, frame: DecodedFrame, faces: list[Face]) -> EnhancedFrame:
    """Returns the result for a frame in which a tracker saw these faces."""
    enhancer._tracker.track = lambda luma: faces
    return enhancer.process(frame)


def usable(face: Face) -> bool:
    return can_be_cropped(face.landmarks, face.box, face.crop_from_frame, *SIZE)


def test_a_face_may_be_upright_or_turned_or_half_outside(face):
    assert usable(face)
    assert usable(moved(face, -250.0, 0.0))
    assert usable(moved(face, 0.0, 0.0, 0.1))
    turned = (face.landmarks @ np.array([[0.0, 1.0], [-1.0, 0.0]]) + (480, 0)).astype(np.float32)
    assert usable(replace(face, landmarks=turned, crop_from_frame=crop_from_frame(turned)))


@pytest.mark.filterwarnings("error")
def test_an_invalid_face_passes_through_and_becomes_no_reference(enhancer, decoded, face):
    for name, wrong in wrong_faces(face).items():
        assert not usable(wrong), name
        enhanced = tracked(enhancer, decoded[0], [wrong])
        assert enhanced.video is decoded[0].video, name
        assert enhanced.faces == ()
    assert enhancer.stats.admitted["stream"] == 0
    assert list(enhancer.people) == []


def test_a_valid_face_beside_invalid_ones_is_restored_as_if_alone(generator, decoded, face):
    alone = tracked(Enhancer(generator), decoded[0], [face]).video
    assert alone is not decoded[0].video
    neighbours = [replace(one, track_id=9 + i) for i, one in enumerate(wrong_faces(face).values())]
    together = tracked(Enhancer(generator), decoded[0], [*neighbours, face]).video
    assert same_pixels(together, alone)


def test_twenty_faces_are_restored(generator, decoded, face):
    faces = [replace(moved(face, 4.0 * i - 40, 0.0), track_id=i) for i in range(20)]
    enhanced = tracked(Enhancer(generator), decoded[0], faces)
    assert enhanced.is_restored
    assert [one.track_id for one in enhanced.faces] == list(range(20))
