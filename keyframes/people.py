"""Keeps a keyframe set for each person of a call and recognises people after a cut."""

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
"""Likeness of successive faces of a track below which the track shows another person. 98 % of the
faces of one person 0.1 s apart are above 0.87, 98 % of different people's below 0.75."""
POSE_JUMP, CUT_IN_JUMP = 60.0, 0.9
"""Landmark distance of successive faces above which the pose jumps, and the likeness below which
such a jump is a cut to another person."""
CONTRADICTIONS = 2.0
"""Contradictions in a row (see `Identity`) after which a track shows another person: a single one
may be a hand in front of the face."""
RECENT = 240
"""Received faces remembered for each person, to find the moment that a still shows: 8 s at 30 fps,
longer than a request waits for its still."""
KNOWN = 8
"""Maximum number of people remembered; above it, the person away longest is forgotten."""


@dataclass(eq=False)
class Person:
    """One person and the references of their face.

    Attributes:
        keyframes: the references.
        identity: distinguishes this person from others.
        recent: the latest received faces, oldest first.
        observe_at: number of the first frame in which the next embedding should be computed.
        confirmed_at: number of the latest frame in which an observation fitted this person.
        seen: number of the latest frame in which this person was on screen.
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
        """Discards references from the stream that are newer than the last fitting observation."""
        for keyframe in list(self.keyframes):
            if keyframe.source == "stream" and keyframe.frame > self.confirmed_at:
                self.keyframes.discard(keyframe)

    def nearest_received(self, landmarks: Landmarks) -> Received | None:
        """Returns the recent face nearest in pose to 68x2 landmarks in crop pixels.

        For a still's landmarks that is the face at the still's moment. Returns None if no recent
        face is within `POSE_JUMP`.
        """
        if not self.recent:
            return None
        offsets = np.stack([one.landmarks for one in self.recent]) - landmarks
        distances = np.sqrt(np.einsum("ijk,ijk->i", offsets, offsets))
        nearest = int(distances.argmin())
        return self.recent[nearest] if distances[nearest] <= POSE_JUMP else None

    def known_by(self) -> list[Embedding]:
        """Returns the embeddings that identify this person.

        They are the identity's mean, or, before there is one, the references' embeddings; a
        stranger has none.
        """
        if self.identity.mean is not None:
            return [self.identity.mean]
        return [one.embedding for one in self.keyframes if one.embedding is not None]

    def absorb(self, other: "Person") -> list[Keyframe]:
        """Merges `other`, who is the same person and on screen, into this person.

        Adds the keyframes of `other`, unless this set has the same pose in better quality. Removes
        and returns the keyframes of this set whose embedding shows that they are somebody else's.
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
        self.identity = other.identity  # from this call, not from a file
        self.recent, self.seen, self.observe_at = other.recent, other.seen, other.observe_at
        self.confirmed_at = other.confirmed_at
        return foreign


class People:
    """The people of a call: those on screen and those seen before.

    A tracked face stays the same person until its appearance changes abruptly, after a scene cut or
    when another speaker takes the same place. A new face is a stranger with an empty set until its
    identity is known and matches somebody who is not on screen. So references survive a cut, a
    short outage and a change of resolution, and are never used for another person.

    Attributes:
        frames: number of the current frame.
        left_out: people from a file who were forgotten to make room; they remain in the file.
    """

    def __init__(self, capacity: int = 10, policy: Policy = "lfu") -> None:
        """Takes the arguments of each person's `KeyframeSet`. Raises the same errors."""
        KeyframeSet(capacity, policy)
        self._capacity, self._policy = capacity, policy
        self._on_screen: dict[int, Person] = {}
        self._known: list[Person] = []
        self.frames = 0
        self.left_out: list[Person] = []

    def __iter__(self) -> Iterator[Person]:
        return iter(self._known)

    def __getitem__(self, track_id: int) -> Person:
        """Returns the person of a tracked face. Raises KeyError for an unknown track id."""
        return self._on_screen[track_id]

    def add(self, person: Person) -> None:
        """Adds a person who is not on screen; above `KNOWN`, forgets the one away longest."""
        self._known.append(person)
        while len(self._known) > KNOWN:
            forgotten = min(self._away() or self._known, key=lambda one: one.seen)
            self._known.remove(forgotten)
            if any(keyframe.peer for keyframe in forgotten.keyframes):
                self.left_out.append(forgotten)

    def empty_set(self) -> KeyframeSet:
        """Returns an empty keyframe set for a new person."""
        return KeyframeSet(self._capacity, self._policy)

    def retain(self, track_ids: Iterable[int]) -> None:
        """Starts a frame in which only these tracks are on screen; call it once per frame.

        Strangers who are no longer on screen are forgotten, because they cannot be recognised.
        """
        self.frames += 1
        kept = set(track_ids)
        if all(key in kept for key in self._on_screen):
            return
        self._on_screen = {key: one for key, one in self._on_screen.items() if key in kept}
        self._forget_strangers()

    def see(self, track_id: int, crop: NDArray[Any], landmarks: Landmarks) -> Person:
        """Returns the person whom a tracked face shows in the current frame.

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
        """Adds an observation of a person's face.

        After `CONTRADICTIONS` contradictions the track shows a stranger. A stranger whose identity
        matches somebody who is not on screen becomes that person again.

        Args:
            embedding: embedding of a received face.
            qp: QP of that face, see `crop_qp`.
            frame: number of the frame in which it was received; the current frame by default.
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
    """Returns whether a track changed so much that its person should be observed again."""
    if not person.recent:
        return False
    before = person.recent[-1]
    moved = landmark_distance(before.landmarks, received.landmarks)
    return moved > POSE_JUMP or likeness(before.appearance, received.appearance) < CUT_IN_JUMP


def _is_cut(person: Person, received: Received) -> bool:
    """Returns whether a track changed so much that it shows another person."""
    if not person.recent:
        return False
    before = person.recent[-1]
    alike = likeness(before.appearance, received.appearance)
    if alike < CUT:
        return True
    moved = landmark_distance(before.landmarks, received.landmarks)
    return alike < CUT_IN_JUMP and moved > POSE_JUMP
