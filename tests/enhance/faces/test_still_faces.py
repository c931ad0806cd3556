"""Tests the faces of stills: their region, quality and verdict."""

import dataclasses

import cv2
import numpy as np
import pytest

from keyframes import FaceObservation, Identity, People, landmark_distance
from keyframes.identity import SAME_PERSON
from receiver.enhance.faces.alignment import extract_crop, transform
from receiver.enhance.faces.observations import detail
from receiver.enhance.faces.recognition import FaceRecogniser, shared_recogniser
from receiver.enhance.faces.still_faces import (
    STILL_QP,
    StillFace,
    blockiness,
    faces_of_still,
    region_of,
    still_qp,
)
from receiver.enhance.faces.tracking import FaceTracker
from receiver.media.planes import cut_frame, planes
from receiver.stills.picture import decode_still, encode_still, part_of
from tests.conftest import plain_frame
from tests.keyframes.test_people import embedding, identify


@pytest.fixture
def face(portrait):
    return FaceTracker().track(planes(portrait[0])[0])[0]


def test_the_region_holds_the_whole_crop(portrait, face):
    region = region_of(face, 640, 480)
    assert 0.05 < (region[2] - region[0]) * (region[3] - region[1]) < 0.65
    part = part_of(portrait[0], region)
    (found,) = faces_of_still(part, shared_recogniser(), region)
    size = np.array([640, 480, 640, 480])
    assert found.among([face], size) is face
    assert np.abs(found.box * size - face.box).max() < 0.15 * (face.box[2] - face.box[0])
    own = transform(face.landmarks, face.crop_from_frame)
    assert landmark_distance(found.keyframe.landmarks, own) < 30


def test_of_two_faces_each_still_finds_its_own(portrait):
    wide = portrait[0].reformat(width=640, height=480)
    left = FaceTracker().track(planes(wide)[0])[0]
    shifted = cut_frame(portrait[0], 100, 0, 540, 480)
    (found,) = faces_of_still(shifted, shared_recogniser(), (0.5, 0.0, 1.0, 1.0))
    size = np.array([640, 480, 640, 480])
    assert found.among([left, left], size) is None  # neither of them is in that half
    assert found.among([], size) is None


def test_a_still_without_a_face_has_none():
    assert faces_of_still(plain_frame(), shared_recogniser()) == []
    assert faces_of_still(plain_frame().reformat(format="rgb24"), shared_recogniser()) == []


def test_a_still_without_a_working_recogniser_has_no_embedding(portrait):
    recogniser = FaceRecogniser()
    recogniser.close()
    (found,) = faces_of_still(portrait[0], recogniser)
    assert found.keyframe.embedding is None


def test_a_picture_without_blocks_has_a_blockiness_of_one():
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    assert blockiness(ramp) == pytest.approx(1.0)
    assert blockiness(ramp[:5, :5]) == 1.0
    noise = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.uint8)
    assert blockiness(noise) < 1.2


@pytest.mark.parametrize("offset", [0, 3])
def test_blocks_are_found_at_any_offset(offset):
    blocks = np.random.default_rng(0).integers(0, 256, (17, 17)).astype(np.uint8)
    picture = blocks.repeat(8, 0).repeat(8, 1)[offset : offset + 128, offset : offset + 128]
    assert blockiness(picture) > 100


@pytest.fixture
def still(portrait):
    """The face of the portrait as a still."""
    (found,) = faces_of_still(portrait[0], shared_recogniser())
    return found


def at(still: StillFace, sharper: float = 1.0, blocks: float = 1.0) -> StillFace:
    """Returns the still with a detail of 8 doubled `sharper` times, and another blockiness."""
    return dataclasses.replace(still, detail=8.0 * 2.0**sharper, enlarged=1.0, blockiness=blocks)


@pytest.mark.parametrize(
    ("sharper", "blocks", "received", "qp"),
    [
        (1.0, 1.0, 40.0, STILL_QP),
        (0.2, 1.3, 40.0, 20.0),  # blocks of a good WebP still
        (0.1, 1.0, 40.0, 29.0),  # half as many doublings as a good still
        (0.01, 1.0, 40.0, 38.9),
        (0.0, 1.0, 40.0, None),
        (-0.5, 1.0, 40.0, None),
        (1.0, 2.6, 40.0, 32.0),
        (1.0, 5.2, 40.0, None),
        (1.0, 1.0, 17.0, None),
        (0.1, 1.0, None, STILL_QP),
        (0.0, 1.0, None, None),
        (1.0, 2.6, None, None),
    ],
)
def test_the_qp_of_a_still_follows_its_detail_and_blockiness(still, sharper, blocks, received, qp):
    assert still_qp(at(still, sharper, blocks), 8.0, received) == (
        None if qp is None else pytest.approx(qp, abs=1e-3)
    )


def test_a_small_face_in_a_still_has_a_higher_qp(still):
    small = dataclasses.replace(at(still), enlarged=2.0)
    assert still_qp(small, 8.0, 40.0) == STILL_QP + 6.0


def test_a_still_of_fewer_bytes_never_has_a_lower_qp(portrait, face):
    """Uses real WebP, in which fewer bytes also mean fewer pixels."""
    received = 0.75 * detail(extract_crop(portrait[0], face.crop_from_frame))
    worths = []
    for size in (30_000, 8_000, 4_000, 3_000):
        picture = decode_still(*encode_still(portrait[0], size))
        (found,) = faces_of_still(picture, shared_recogniser())
        qp = still_qp(found, received, 40.0)
        worths.append(99.0 if qp is None else qp)
    assert worths == sorted(worths)
    assert worths[0] < 25.0
    assert worths[-1] > 35.0


class TestJudge:
    """Tests the verdict on a still; embeddings are set to change one condition at a time."""

    @pytest.fixture
    def received(self, portrait, face) -> FaceObservation:
        crop = extract_crop(portrait[0], face.crop_from_frame)
        landmarks = transform(face.landmarks, face.crop_from_frame)
        return FaceObservation(landmarks, 40.0, False, detail=lambda: 0.5 * detail(crop))

    @pytest.fixture
    def person(self, portrait, face, received):
        people = People()
        crop = extract_crop(portrait[0], face.crop_from_frame)
        person = people.see(0, crop, received.landmarks)
        identify(people, person, 0)
        return person

    @pytest.fixture
    def genuine(self, still) -> StillFace:
        keyframe = dataclasses.replace(still.keyframe, embedding=embedding(0))
        return dataclasses.replace(still, keyframe=keyframe, blockiness=1.0)

    def changed(self, still: StillFace, **changes) -> StillFace:
        return dataclasses.replace(still, keyframe=dataclasses.replace(still.keyframe, **changes))

    def test_a_genuine_still_is_admitted_with_its_measured_qp(self, genuine, person, received):
        verdict, keyframe = genuine.judge(person, received)
        assert verdict == "still"
        assert keyframe.qp == STILL_QP
        assert keyframe.source == "still"

    def test_a_still_waits_until_the_person_is_identified(self, genuine, person, received):
        person.identity = Identity()
        assert genuine.judge(person, received)[0] == "waits"

    def test_the_embedding_must_be_the_persons(self, genuine, person, received):
        for other in (None, embedding(1), embedding(0, SAME_PERSON + 0.01)):
            assert self.changed(genuine, embedding=other).judge(person, received)[0] == "nobody's"
        near = self.changed(genuine, embedding=embedding(0, SAME_PERSON - 0.01))
        assert near.judge(person, received)[0] == "still"

    def test_the_colours_must_match_the_received_face(self, genuine, person, received):
        other = dataclasses.replace(genuine, appearance=-genuine.appearance)
        assert other.judge(person, received)[0] == "nobody's"

    def test_the_structure_must_match_the_received_face(self, genuine, person, received):
        crop = genuine.keyframe.crop.astype(np.float32)
        soft = cv2.GaussianBlur(crop, (0, 0), 16.0)
        inside_out = np.clip(2 * soft - crop, 0, 255).astype(
            np.uint8
        )  # same colours, other structure
        other = self.changed(genuine, crop=inside_out)
        assert other.judge(person, received)[0] == "nobody's"

    def test_the_pose_must_have_been_received(self, genuine, person, received):
        moved = genuine.keyframe.landmarks + np.float32(20.0)
        assert self.changed(genuine, landmarks=moved).judge(person, received)[0] == "nobody's"

    def test_a_still_must_be_better_than_the_received_face(self, genuine, person, received):
        blurred = dataclasses.replace(genuine, detail=0.9 * received.detail())
        assert blurred.judge(person, received)[0] == "worse"
        sharp = dataclasses.replace(received, qp=genuine.judge(person, received)[1].qp)
        assert genuine.judge(person, sharp)[0] == "worse"
