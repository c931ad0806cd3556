"""References stay with their person."""

import numpy as np
import pytest

from keyframes import Keyframe, People, likeness, signature
from keyframes.people import KNOWN, Person
from tests.test_keyframe_set import face_at

RNG = np.random.default_rng(0)
FACES = [RNG.integers(0, 256, (8, 8, 3)).repeat(32, 0).repeat(32, 1) for _ in range(KNOWN + 4)]
"""Pictures that look like nobody else's."""


def look(number: int, noise: float = 0.0):
    picture = FACES[number] + RNG.normal(0, noise, FACES[number].shape)
    return signature(np.moveaxis(picture, 2, 0).astype(np.float32))


def keyframe(number: int) -> Keyframe:
    return Keyframe(FACES[number].astype(np.uint8), face_at(0), 30.0)


def test_a_picture_is_like_itself_whatever_its_light():
    planes = np.moveaxis(FACES[0], 2, 0).astype(np.float32)
    assert likeness(signature(planes), signature(planes)) == pytest.approx(1.0)
    assert likeness(signature(planes), signature(0.5 * planes + 40)) == pytest.approx(1.0, abs=1e-4)
    assert abs(likeness(look(0), look(1))) < 0.4
    assert likeness(look(0), signature(np.full((3, 256, 256), 7.0))) == 0.0


def test_a_followed_face_stays_one_person():
    people = People()
    first = people.see(0, look(0), face_at(0))
    assert all(people.see(0, look(0, 20.0), face_at(i)) is first for i in range(20))
    assert people[0] is first


def test_another_face_in_the_same_place_is_another_person():
    people = People()
    first = people.see(0, look(0), face_at(0))
    second = people.see(0, look(1), face_at(0))
    assert second is not first
    assert people.see(0, look(0), face_at(0)) is first  # the cut back


def test_landmarks_that_jump_ask_for_more_likeness():
    people = People()
    first = people.see(0, look(0), face_at(0))
    mixed = look(0) + 0.6 * look(1)
    mixed /= np.linalg.norm(mixed)
    assert 0.75 < likeness(look(0), mixed) < 0.89
    assert people.see(0, mixed, face_at(0.5)) is first
    people.see(0, look(0), face_at(0))
    assert people.see(0, look(1) * 0.5 + look(0) * 0.6, face_at(30)) is not first


def test_who_comes_back_has_their_references_again():
    people = People()
    first = people.see(0, look(0), face_at(0))
    first.keyframes.add(keyframe(0))
    people.only([])
    with pytest.raises(KeyError):
        people[0]
    assert people.see(5, look(1), face_at(0)) is not first
    people.only([])
    assert people.see(7, look(0, 10.0), face_at(0)) is first
    assert len(people[7].keyframes) == 1


def test_who_is_on_screen_is_not_taken_for_somebody_else():
    people = People()
    first = people.see(0, look(0), face_at(0))
    assert people.see(1, look(0), face_at(0)) is not first


def test_a_person_is_known_by_their_keyframes_too():
    person = Person(People()._stranger(look(0), face_at(0)).keyframes, look(0), face_at(0))
    person.keyframes.add(keyframe(2))
    assert person.looks_like(look(2)) == pytest.approx(1.0, abs=1e-3)
    assert person.looks_like(look(3)) < 0.5


def test_no_more_people_are_remembered_than_said():
    people = People()
    persons = []
    for number in range(KNOWN + 3):
        persons.append(people.see(number, look(number), face_at(0)))
        people.only([number])
    assert list(people) == persons[3:]
    assert people.see(99, look(0), face_at(0)) not in persons
