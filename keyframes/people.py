"""Whose face is it: a keyframe set for each person of a call, found again after a cut."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keyframes.admission import SAME_POSE
from keyframes.appearance import Received, appearance_descriptor, likeness, thumbnail
from keyframes.identity import SAME_PERSON, Identity
from keyframes.keyframe_set import (
    Embedding,
    Keyframe,
    KeyframeSet,
    Landmarks,
    Policy,
    landmark_distance,
)

CUT = 0.7
"""Likeness of successive frames below which another face has taken the first one's place; 98 % of
faces of one person 0.1 s apart are above 0.87, 98 % of different people's below 0.75."""
JUMP, CUT_IN_JUMP = 60.0, 0.9
"""Landmark distance of successive frames, and the likeness that is asked for beyond it."""
CONTRADICTIONS = 2.0
"""Observations in a row that contradict the ones before, after which a track shows another person:
a single one may be a hand before the face."""
RECENT = 240
"""Received faces that are remembered a person, to compare a still of the same moment with: 8 s at
30 frames a second, longer than a still is waited for."""
KNOWN = 8
"""People remembered; of more, the one goes who has been away longest."""


@dataclass(eq=False)
class Person:
    """One person and the references of their face.

    Attributes:
        keyframes: the references.
        identity: which tells this person from others.
        recent: the latest received faces, oldest first.
        observe_at: number of the frame from which the next embedding is worth computing.
        confirmed_at: number of the latest frame in which an observation fitted this person.
    """

    keyframes: KeyframeSet
    identity: Identity = field(default_factory=Identity)
    recent: deque[Received] = field(default_factory=lambda: deque(maxlen=RECENT), repr=False)
    observe_at: int = field(default=0, repr=False)
    confirmed_at: int = field(default=0, repr=False)
    seen: int = field(default=0, repr=False)

    @property
    def is_doubtful(self) -> bool:
        """Whether an observation contradicts this person: somebody else may be on screen."""
        return self.identity.contradictions >= 1.0

    def drop_unconfirmed(self) -> None:
        """Discards references of the stream that are newer than the last fitting observation."""
        for keyframe in list(self.keyframes):
            if keyframe.source == "stream" and keyframe.frame > self.confirmed_at:
                self.keyframes.discard(keyframe)

    def nearest_received(self, landmarks: Landmarks) -> Received | None:
        """Returns the recent face nearest in pose: of the moment of a still with these landmarks.

        None if no such pose was received, within `JUMP`.
        """
        if not self.recent:
            return None
        offsets = np.stack([one.landmarks for one in self.recent]) - landmarks
        distances = np.sqrt(np.einsum("ijk,ijk->i", offsets, offsets))
        nearest = int(distances.argmin())
        return self.recent[nearest] if distances[nearest] <= JUMP else None

    def known_by(self) -> list[Embedding]:
        """Returns what this person is recognised by: the identity, or else each reference's own.

        Nothing for a stranger.
        """
        if self.identity.mean is not None:
            return [self.identity.mean]
        return [one.embedding for one in self.keyframes if one.embedding is not None]

    def absorb(self, other: "Person") -> list[Keyframe]:
        """Takes over what is known of the same person, who is on screen as `other`.

        Keyframes of `other` are added, except where this set has the pose in better quality.
        Returns own keyframes that turned out to be of somebody else by their embedding; they are
        not in the set any more.
        """
        foreign = [
            one
            for one in self.keyframes
            if one.embedding is not None and not other.identity.accepts(one.embedding)
        ]
        for keyframe in foreign:
            self.keyframes.discard(keyframe)
        for keyframe in other.keyframes:
            known = self.keyframes.nearest(keyframe.landmarks)
            if known is None or known[1] > SAME_POSE:
                self.keyframes.add(keyframe)
            elif keyframe.qp is not None and known[0].qp is not None and keyframe.qp < known[0].qp:
                self.keyframes.replace(known[0], keyframe)
        self.identity = other.identity  # of what was received in this call, not of a file
        self.recent, self.seen, self.observe_at = other.recent, other.seen, other.observe_at
        self.confirmed_at = other.confirmed_at
        return foreign


class People:
    """The people of a call: who is on screen, and who was.

    A followed face stays the same person until its appearance changes at once: a scene cut, or
    another speaker in the same place. A face that appears is a stranger with an empty set, until
    its identity is known and is that of somebody who is not on screen. So references outlive a cut,
    a short outage and a change of resolution, and never serve another person.

    Attributes:
        frames: number of the frame at hand.
        left_out: those from a file who were forgotten to make room: they still belong into it.
    """

    def __init__(self, capacity: int = 10, policy: Policy = "lfu") -> None:
        """See `KeyframeSet`, also for what is raised."""
        KeyframeSet(capacity, policy)
        self._capacity, self._policy = capacity, policy
        self._on_screen: dict[int, Person] = {}
        self._known: list[Person] = []
        self.frames = 0
        self.left_out: list[Person] = []

    def __iter__(self) -> Iterator[Person]:
        return iter(self._known)

    def __getitem__(self, track_id: int) -> Person:
        """Returns the person followed under this id. Raises KeyError."""
        return self._on_screen[track_id]

    def add(self, person: Person) -> None:
        """Remembers somebody who is not on screen."""
        self._known.append(person)
        while len(self._known) > KNOWN:
            forgotten = min(self._away() or self._known, key=lambda one: one.seen)
            self._known.remove(forgotten)
            if any(keyframe.peer for keyframe in forgotten.keyframes):
                self.left_out.append(forgotten)

    def empty_set(self) -> KeyframeSet:
        """Returns a keyframe set as a new person has it."""
        return KeyframeSet(self._capacity, self._policy)

    def retain(self, track_ids: Iterable[int]) -> None:
        """Notes that all others are not on screen; to be called once a frame.

        Strangers are forgotten: nobody could be recognised as them.
        """
        self.frames += 1
        kept = set(track_ids)
        if all(key in kept for key in self._on_screen):
            return
        self._on_screen = {key: one for key, one in self._on_screen.items() if key in kept}
        self._forget_strangers()

    def see(self, track_id: int, crop: NDArray[Any], landmarks: Landmarks) -> Person:
        """Returns whose face is followed under this id, in the frame at hand.

        Args:
            crop: 3x256x256 of any type and range.
            landmarks: 68x2 in crop pixels.
        """
        received = Received(landmarks, appearance_descriptor(crop), thumbnail(crop))
        person = self._on_screen.get(track_id)
        if person is None or _is_cut(person, received):
            person = self._stranger(track_id)
        elif _is_jump(person, received):
            person.observe_at = min(person.observe_at, self.frames)
        person.recent.append(received)
        person.seen = self.frames
        return person

    def identify(
        self, person: Person, embedding: Embedding, qp: float, frame: int | None = None
    ) -> None:
        """Takes an observation of a person into account.

        One who contradicts their own earlier observations `CONTRADICTIONS` times is a stranger from
        now on. A stranger whose identity is that of somebody away is that person again.

        Args:
            embedding: of a face that was received.
            qp: its quality, see `crop_qp`.
            frame: number of the frame in which it was received; by default the one at hand.
        """
        person.identity.observe(embedding, qp)
        if not person.identity.contradictions:
            person.confirmed_at = max(person.confirmed_at, self.frames if frame is None else frame)
        track_id = next((key for key, one in self._on_screen.items() if one is person), None)
        if track_id is None:
            return
        if person.identity.contradictions >= CONTRADICTIONS:
            person.identity.contradictions = 0.0
            person.drop_unconfirmed()
            self._stranger(track_id)
            return
        known = self._recognise(person.identity)
        if known is not None:
            self._known.remove(person)
            self._on_screen[track_id] = known
            if foreign := known.absorb(person):
                self.add(Person(self.empty_set()))
                for keyframe in foreign:
                    self._known[-1].keyframes.add(keyframe)

    def _recognise(self, identity: Identity) -> Person | None:
        def distance(one: Person) -> float:
            return min(map(identity.distance, one.known_by()), default=np.inf)

        best = min(self._away(), key=distance, default=None)
        return best if best is not None and distance(best) < SAME_PERSON else None

    def _away(self) -> list[Person]:
        on_screen = {id(one) for one in self._on_screen.values()}
        return [one for one in self._known if id(one) not in on_screen]

    def _stranger(self, track_id: int) -> Person:
        person = Person(self.empty_set(), seen=self.frames)
        self._on_screen[track_id] = person
        self._forget_strangers()
        self.add(person)
        return person

    def _forget_strangers(self) -> None:
        for person in self._away():
            if not person.known_by():
                self._known.remove(person)


def _is_jump(person: Person, received: Received) -> bool:
    """Whether a face changes as no face of one person usually does: worth an observation."""
    if not person.recent:
        return False
    before = person.recent[-1]
    moved = landmark_distance(before.landmarks, received.landmarks)
    return moved > JUMP or likeness(before.look, received.look) < CUT_IN_JUMP


def _is_cut(person: Person, received: Received) -> bool:
    if not person.recent:
        return False
    before = person.recent[-1]
    alike = likeness(before.look, received.look)
    if alike < CUT:
        return True
    moved = landmark_distance(before.landmarks, received.landmarks)
    return alike < CUT_IN_JUMP and moved > JUMP
