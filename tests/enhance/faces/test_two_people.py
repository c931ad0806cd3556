"""Two real people one after the other in the same place: each has their own references."""

from fractions import Fraction
from itertools import combinations

import av
import numpy as np
import pytest

from bench.common.framing import camera_view
from keyframes import Embedding, Keyframe, Landmarks, Person, Picture
from keyframes.identity import SAME_PERSON, Identity
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import Crop, extract_crop, picture_of, transform
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.enhance.faces.tracking import FaceTracker
from receiver.media.encoding import Encoding, through_codec
from receiver.media.planes import planes
from tests.conftest import CLIPS, needs_clips

pytestmark = [pytest.mark.slow, needs_clips]

PEOPLE = ("mead_m003", "sr_striped_shirt", "mp_vlogger", "std_akiyo")
TURN = 16
"""Frames of one person until the other takes the place: more than an identity takes."""


class Referring:
    """In the place of a generator: keeps the newest crop and its reference, changes nothing."""

    device = "cpu"
    newest: tuple[Crop, Crop] | None = None

    def restore(self, degraded, reference, landmarks):
        self.newest = degraded[0].copy(), reference[0].copy()
        return degraded.copy()


@pytest.fixture(scope="module")
def clips() -> dict[str, list[av.VideoFrame]]:
    """Two turns of frames of each person."""
    return {name: camera_view(CLIPS / "val" / f"{name}.mp4", 1.4)[0][: 2 * TURN] for name in PEOPLE}


@pytest.fixture(scope="module")
def identities(clips) -> dict[str, Identity]:
    """What the recogniser knows of each person after three frames of the camera."""
    found = {name: Identity() for name in PEOPLE}
    for name, frames in clips.items():
        for frame in frames[:25:12]:
            (face, *_) = FaceTracker().find(planes(frame)[0])
            crop = picture_of(extract_crop(frame, face.crop_from_frame))
            landmarks = transform(face.landmarks, face.crop_from_frame)
            found[name].observe(embedding(crop, landmarks), 20.0)
    return found


def embedding(crop: Picture, landmarks: Landmarks) -> Embedding:
    return shared_recogniser().submit(crop, landmarks).result(60)


def test_the_recogniser_keeps_real_people_apart(identities):
    assert [identity.contradictions for identity in identities.values()] == [0.0] * len(PEOPLE)
    for one, other in combinations(identities.values(), 2):
        assert one.distance(other.mean) > SAME_PERSON


@pytest.mark.parametrize(
    ("name", "next_name"),
    [("mead_m003", "sr_striped_shirt"), ("sr_striped_shirt", "mp_vlogger")],
)
def test_nobody_is_restored_with_references_of_another(clips, identities, name, next_name):
    """One person, then another in the same place, then the first again, in one stream."""
    turns = [(name, 0), (next_name, 0), (name, 1)]
    shown = [frame for who, part in turns for frame in clips[who][part * TURN :][:TURN]]
    enhancer = Enhancer(network := Referring())
    people: list[Person] = []
    guided = [0, 0, 0]
    encoding = Encoding(kbps=150, keyframe_every=10_000)
    for number, (_, frame, _) in enumerate(through_codec(shown, encoding, Fraction(25))):
        network.newest = None
        (face, *_) = enhancer.process(frame).faces
        people.append(enhancer.people[face.track_id])
        if number == TURN - 1:  # a reference that no later one can replace
            crop, landmarks = network.newest[0], people[-1].recent[-1].landmarks
            still = Keyframe(picture_of(crop), landmarks, 5.0, "still")
            enhancer.add_reference(face.track_id, still)
        if network.newest is None or np.array_equal(*network.newest):
            continue  # a high-quality input, or no reference
        turn = number // TURN
        guided[turn] += 1
        # A warped reference has the landmarks of the face that it guides.
        landmarks = people[-1].recent[-1].landmarks
        reference = embedding(picture_of(network.newest[1]), landmarks)
        (own, _), (another, _) = turns[turn], turns[1 - turn % 2]
        assert identities[own].distance(reference) < identities[another].distance(reference)
    assert min(guided) > 0
    first, second, third = (people[(turn + 1) * TURN - 1] for turn in range(3))
    assert first is not second
    assert third is first
    assert still in list(third.keyframes)
