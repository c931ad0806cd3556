"""Tests that references stay with their person."""

import cv2
import numpy as np
import pytest

from keyframes import (
    Identity,
    Keyframe,
    People,
    Person,
    appearance_descriptor,
    likeness,
    resemblance,
    thumbnail,
)
from keyframes.identity import BEST, ENOUGH, OTHER_PERSON, SAME_PERSON
from keyframes.people import CONTRADICTIONS, KNOWN, POSE_JUMP
from tests.keyframes.test_keyframe_set import face_at

RNG = np.random.default_rng(0)
FACES = [RNG.integers(0, 256, (8, 8, 3)).repeat(32, 0).repeat(32, 1) for _ in range(KNOWN + 4)]
"""Pictures of very different appearance."""


def descriptor(number: int, noise: float = 0.0):
    return appearance_descriptor(crop(number, noise))


def crop(number: int, noise: float = 0.0):
    picture = FACES[number] + RNG.normal(0, noise, FACES[number].shape)
    return np.moveaxis(picture, 2, 0).astype(np.float32)


def keyframe(number: int, **more) -> Keyframe:
    return Keyframe(FACES[number % len(FACES)].astype(np.uint8), face_at(number), 30.0, **more)


def embedding(number: int, away: float = 0.0):
    """Returns an embedding at the distance `away` from that of person `number`."""
    own = np.zeros(128, np.float32)
    own[number] = 1.0
    aside = np.zeros(128, np.float32)
    aside[-1] = 1.0
    angle = 2 * np.arcsin(away / 2)
    return (np.cos(angle) * own + np.sin(angle) * aside).astype(np.float32)


def identify(people: People, person: Person, number: int, times: int = ENOUGH) -> None:
    for _ in range(times):
        people.identify(person, embedding(number), 30.0)


def test_likeness_does_not_depend_on_light():
    planes = np.moveaxis(FACES[0], 2, 0).astype(np.float32)
    assert likeness(appearance_descriptor(planes), appearance_descriptor(planes)) == pytest.approx(
        1.0
    )
    assert likeness(
        appearance_descriptor(planes), appearance_descriptor(0.5 * planes + 40)
    ) == pytest.approx(1.0, abs=1e-4)
    assert abs(likeness(descriptor(0), descriptor(1))) < 0.4
    assert likeness(descriptor(0), appearance_descriptor(np.full((3, 256, 256), 7.0))) == 0.0


def test_a_tracked_face_stays_one_person():
    people = People()
    first = people.see(0, crop(0), face_at(0))
    assert all(people.see(0, crop(0, 20.0), face_at(i)) is first for i in range(20))
    assert people[0] is first


def test_another_face_in_the_same_place_is_another_person():
    people = People()
    first = people.see(0, crop(0), face_at(0))
    identify(people, first, 0)
    second = people.see(0, crop(1), face_at(0))
    assert second is not first
    back = people.see(0, crop(0), face_at(0))
    assert back is not first  # it resembles the first one, but is not identified yet
    identify(people, back, 0)
    assert people[0] is first  # the cut back


def test_a_pose_jump_requires_more_likeness():
    people = People()
    first = people.see(0, crop(0), face_at(0))
    mixed = crop(0) + 0.6 * crop(1)
    assert 0.75 < likeness(descriptor(0), appearance_descriptor(mixed)) < 0.89
    assert people.see(0, mixed, face_at(0.5)) is first
    people.see(0, crop(0), face_at(0))
    assert people.see(0, mixed, face_at(30)) is not first


class TestIdentity:
    def test_is_known_from_enough_observations(self):
        identity = Identity()
        for count in range(ENOUGH):
            assert identity.mean is None
            assert identity.distance(embedding(0)) == np.inf
            assert not identity.accepts(embedding(0))
            assert len(identity) == count
            identity.observe(embedding(0), 30.0)
        assert np.allclose(identity.mean, embedding(0))

    @pytest.mark.parametrize(("away", "is_same"), [(0.01, True), (-0.001, True), (0.001, False)])
    def test_accepts_what_is_nearer_than_the_threshold(self, away, is_same):
        identity = Identity()
        for _ in range(ENOUGH):
            identity.observe(embedding(0), 30.0)
        distance = SAME_PERSON + away if away < 0.01 else away
        assert identity.distance(embedding(0, distance)) == pytest.approx(distance, abs=1e-4)
        assert identity.accepts(embedding(0, distance)) is is_same

    def test_is_the_mean_of_the_best_observations(self):
        identity = Identity()
        for _ in range(BEST):
            identity.observe(embedding(0, 0.3), 40.0)
        for qp in (20.0, 45.0, 21.0, 22.0):
            identity.observe(embedding(0) if qp < 40 else embedding(0, 0.4), qp)
        assert len(identity) == BEST
        three, two, anchor = embedding(0), embedding(0, 0.3), embedding(0, 0.3)
        best = (3 * three + 2 * two) / np.linalg.norm(3 * three + 2 * two)
        mean = (best + anchor) / np.linalg.norm(best + anchor)
        assert np.allclose(identity.mean, mean, atol=1e-6)

    def test_leaves_out_what_contradicts_it(self):
        identity = Identity()
        for number in (0, 1, 0, 1, 0):
            identity.observe(embedding(number), 30.0)
        assert len(identity) == 3
        assert np.allclose(identity.mean, embedding(0))
        assert identity.contradictions == 0
        identity.observe(embedding(0, OTHER_PERSON + 0.01), 1.0)
        assert identity.contradictions == 1
        identity.observe(embedding(0, OTHER_PERSON - 0.01), 1.0)  # neither fits nor contradicts
        assert (identity.contradictions, len(identity)) == (1.5, 3)
        identity.observe(embedding(0, SAME_PERSON - 0.01), 50.0)
        assert (identity.contradictions, len(identity)) == (0, 4)

    def test_does_not_drift_to_another_person_step_by_step(self):
        identity = Identity()
        for step in range(40):
            identity.observe(embedding(0, min(1.2, 0.03 * step)), 30.0 - step)
        assert identity.accepts(embedding(0))
        assert not identity.accepts(embedding(0, 0.6))
        assert identity.contradictions >= CONTRADICTIONS


def test_a_person_who_comes_back_has_their_references_again():
    people = People()
    first = people.see(0, crop(0), face_at(0))
    identify(people, first, 0)
    first.keyframes.add(keyframe(0))
    people.retain([])
    with pytest.raises(KeyError):
        people[0]
    other = people.see(5, crop(0), face_at(0))  # looks alike, but is somebody else
    identify(people, other, 1)
    assert people[5] is other
    assert len(other.keyframes) == 0
    people.retain([])
    again = people.see(7, crop(3), face_at(0))
    assert again is not first
    identify(people, again, 0, ENOUGH - 1)
    assert people[7] is again
    identify(people, again, 0, 1)
    assert people[7] is first
    assert len(people[7].keyframes) == 1
    assert list(people) == [first, other]
    assert np.array_equal(first.nearest_received(face_at(0)).appearance, descriptor(3))


def test_a_person_who_comes_back_keeps_the_better_of_old_and_new_references():
    people = People()
    first = people.see(0, crop(0), face_at(0))
    identify(people, first, 0)
    known = [keyframe(place) for place in (0, 4, 8)]
    for one in known:
        first.keyframes.add(one)
    people.retain([])
    again = people.see(1, crop(0), face_at(0))
    better, worse, new = keyframe(0), keyframe(4), keyframe(12)
    better.qp, worse.qp = 25.0, 35.0
    for one in (better, worse, new):
        again.keyframes.add(one)
    identify(people, again, 0)
    assert list(people[1].keyframes) == [better, *known[1:], new]


def test_references_of_somebody_else_are_discarded_when_a_person_is_recognised():
    people = People()
    stored = Person(people.empty_set())
    own, foreign = keyframe(0, embedding=embedding(0, 0.2)), keyframe(3, embedding=embedding(1))
    stored.keyframes.add(own)
    stored.keyframes.add(foreign)
    people.add(stored)
    seen = people.see(0, crop(0), face_at(0))
    identify(people, seen, 0)
    assert people[0] is stored
    assert list(stored.keyframes) == [own]
    (rest,) = [person for person in people if person is not stored]
    assert list(rest.keyframes) == [foreign]  # kept for their person, who may return
    identify(people, people.see(1, crop(1), face_at(0)), 1)
    assert people[1] is rest


def test_a_track_that_changes_to_another_person_loses_its_references():
    people = People()
    first = people.see(0, crop(0), face_at(0))
    identify(people, first, 0)
    first.keyframes.add(keyframe(0))
    for _ in range(int(CONTRADICTIONS)):
        assert people[0] is first
        people.identify(first, embedding(1), 30.0)
        assert first.is_doubtful or people[0] is not first
    second = people[0]
    assert second is not first
    assert not second.is_doubtful
    assert len(second.keyframes) == 0
    people.see(0, crop(0), face_at(0))
    identify(people, second, 1)
    assert people[0] is second
    people.retain([])
    back = people.see(1, crop(0), face_at(0))
    identify(people, back, 0)
    assert people[1] is first


def test_unconfirmed_references_of_the_stream_are_discarded_when_the_person_changes():
    people = People()
    first = people.see(0, crop(0), face_at(0))
    identify(people, first, 0)
    confirmed, unconfirmed, still = keyframe(0), keyframe(4), keyframe(8)
    confirmed.frame, unconfirmed.frame, still.frame = 5, 6, 6
    still.source = "still"
    for one in (confirmed, unconfirmed, still):
        first.keyframes.add(one)
    people.frames = 9
    people.identify(first, embedding(0), 30.0, frame=5)
    for _ in range(2):
        people.identify(first, embedding(1), 30.0, frame=9)
    assert people[0] is not first
    assert list(first.keyframes) == [confirmed, still]


def test_a_face_whose_pose_jumps_is_observed_at_once():
    people = People()
    person = people.see(0, crop(0), face_at(0))
    person.observe_at = 1000
    people.see(0, crop(0, 5.0), face_at(0.5))
    assert person.observe_at == 1000
    people.retain([0])
    people.see(0, crop(0, 5.0), face_at(0.5 + 1.01 * POSE_JUMP / np.sqrt(68)))
    assert people[0] is person
    assert person.observe_at == people.frames


def test_an_observation_of_somebody_away_changes_nobody_on_screen():
    people = People()
    first = people.see(0, crop(0), face_at(0))
    identify(people, first, 0)
    people.retain([])
    other = people.see(0, crop(1), face_at(0))
    for _ in range(3):
        people.identify(first, embedding(2), 30.0)
    assert people[0] is other


def test_a_person_on_screen_is_not_merged_with_another_on_screen():
    people = People()
    first = people.see(0, crop(0), face_at(0))
    identify(people, first, 0)
    twin = people.see(1, crop(0), face_at(0))
    identify(people, twin, 0)
    assert people[1] is twin


def test_nearest_received_returns_the_face_nearest_in_pose():
    people = People()
    assert Person(people.empty_set()).nearest_received(face_at(0)) is None
    for place in range(3):
        person = people.see(0, crop(0, 5.0), face_at(place))
    assert person.nearest_received(face_at(1.1)) is person.recent[1]
    assert person.nearest_received(face_at(POSE_JUMP / np.sqrt(68) + 2.01)) is None  # no such pose


def test_resemblance_compares_structure_and_ignores_light():
    structure = RNG.normal(0, 30, (3, 256, 256)).astype(np.float32)
    structure = cv2.GaussianBlur(structure[1], (0, 0), 6.0)[None].repeat(3, 0) * 10 + 128
    light = np.linspace(0.5, 1.2, 256, dtype=np.float32)
    own = thumbnail(structure)
    assert own.shape == (32, 32)
    assert resemblance(own, own) == pytest.approx(1.0)
    assert resemblance(own, thumbnail(structure * 0.4 + 20)) == pytest.approx(1.0, abs=1e-3)
    assert resemblance(own, thumbnail(structure * light)) > 0.9
    assert resemblance(own, thumbnail(256 - structure)) == pytest.approx(-1.0, abs=1e-3)
    assert abs(resemblance(own, thumbnail(structure[:, ::-1]))) < 0.5
    assert resemblance(own, np.full((32, 32), 9.0, np.float32)) == 0.0


def test_strangers_are_forgotten_when_they_leave():
    people = People()
    people.see(0, crop(0), face_at(0))
    people.retain([])
    assert list(people) == []
    for number in range(100):
        people.see(0, crop(number % 2), face_at(0))  # a cut in every frame
        people.retain([0])
    assert len(list(people)) == 1


def test_at_most_known_people_are_remembered():
    people = People()
    persons = []
    for number in range(KNOWN + 3):
        persons.append(people.see(number, crop(number), face_at(0)))
        identify(people, persons[-1], number)
        people.retain([number])
    assert list(people) == persons[3:]
    people.retain([])
    again = people.see(99, crop(0), face_at(0))
    identify(people, again, 0)
    assert people[99] is again
    assert again not in persons
