"""Whose face is it: a keyframe set for each person of a call, found again after a cut."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from keyframes.keyframe_set import KeyframeSet, Landmarks, Policy, landmark_distance

Signature: TypeAlias = NDArray[np.float32]
"""192 numbers of length 1: the colours of a crop in 8x8 fields, each channel less its mean."""

FIELDS, STEP = 8, 8
"""Fields a side, and pixels from one that is looked at to the next."""
CUT = 0.7
"""Likeness of successive frames below which another face has taken the first one's place; 98 % of
faces of one person 0.1 s apart are above 0.87, 98 % of different people's below 0.75."""
JUMP, CUT_IN_JUMP = 60.0, 0.9
"""Landmark distance of successive frames, and the likeness that is asked for beyond it."""
SAME = 0.85
"""Likeness from which a face is taken for one that was seen before; 99.5 % of different people's
are below."""
KNOWN = 8
"""People remembered; of more, the one goes who has been away longest."""


def signature(crop: NDArray[Any]) -> Signature:
    """What a 3x256x256 crop, of any type and range, looks like from afar."""
    some = crop[:, STEP // 2 :: STEP, STEP // 2 :: STEP].astype(np.float32)
    fields = some.reshape(3, FIELDS, some.shape[1] // FIELDS, FIELDS, -1).mean(axis=(2, 4))
    fields -= fields.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(np.square(fields).sum())
    found: Signature = (fields / np.maximum(length, 1e-6)).ravel()
    return found


def likeness(a: Signature, b: Signature) -> float:
    """Cosine of two signatures: 1 for the same picture, about 0 for strangers."""
    return float((a * b).sum())


@dataclass(eq=False)
class Person:
    """One person and the references of their face.

    Attributes:
        keyframes: the references.
        signature: of the face when it was last seen.
        landmarks: of the face when it was last seen, 68x2 in crop pixels.
    """

    keyframes: KeyframeSet
    signature: Signature
    landmarks: Landmarks
    seen: int = field(default=0, repr=False)

    def looks_like(self, other: Signature) -> float:
        """Likeness to how this person last looked, or looks on any of the keyframes."""
        own = [signature(np.moveaxis(keyframe.crop, 2, 0)) for keyframe in self.keyframes]
        return max(likeness(other, one) for one in [self.signature, *own])


class People:
    """The people of a call: who is on screen, and who was.

    A followed face stays the same person until its appearance changes at once: a scene cut, or
    another speaker in the same place. A face that comes up anew is compared with those who are not
    on screen, so references outlive a cut, a short outage and a change of resolution, and never
    serve another person.
    """

    def __init__(self, capacity: int = 10, policy: Policy = "lfu") -> None:
        """See `KeyframeSet`, also for what is raised."""
        KeyframeSet(capacity, policy)
        self._capacity, self._policy = capacity, policy
        self._on_screen: dict[int, Person] = {}
        self._known: list[Person] = []
        self._frames = 0

    def __iter__(self) -> Iterator[Person]:
        return iter(self._known)

    def __getitem__(self, track_id: int) -> Person:
        """Who is followed under this id. Raises KeyError."""
        return self._on_screen[track_id]

    def add(self, person: Person) -> None:
        """Remembers somebody who is not on screen."""
        self._known.append(person)
        while len(self._known) > KNOWN:
            away = [one for one in self._known if one not in self._on_screen.values()]
            self._known.remove(min(away or self._known, key=lambda one: one.seen))

    def empty_set(self) -> KeyframeSet:
        """A keyframe set as a new person has it."""
        return KeyframeSet(self._capacity, self._policy)

    def only(self, track_ids: Iterable[int]) -> None:
        """Whoever is followed under none of these ids is not on screen any more."""
        self._frames += 1
        kept = set(track_ids)
        self._on_screen = {key: one for key, one in self._on_screen.items() if key in kept}

    def see(self, track_id: int, look: Signature, landmarks: Landmarks) -> Person:
        """Whose face is followed under this id, in the frame at hand."""
        person = self._on_screen.get(track_id)
        if person is None or _is_cut(person, look, landmarks):
            self._on_screen.pop(track_id, None)
            person = self._recognise(look) or self._stranger(look, landmarks)
            self._on_screen[track_id] = person
        person.signature, person.landmarks, person.seen = look, landmarks, self._frames
        return person

    def _recognise(self, look: Signature) -> Person | None:
        away = [one for one in self._known if one not in self._on_screen.values()]
        best = max(away, key=lambda one: one.looks_like(look), default=None)
        return best if best is not None and best.looks_like(look) >= SAME else None

    def _stranger(self, look: Signature, landmarks: Landmarks) -> Person:
        person = Person(self.empty_set(), look, landmarks, self._frames)
        self.add(person)
        return person


def _is_cut(person: Person, look: Signature, landmarks: Landmarks) -> bool:
    alike = likeness(person.signature, look)
    if alike < CUT:
        return True
    return alike < CUT_IN_JUMP and landmark_distance(person.landmarks, landmarks) > JUMP
