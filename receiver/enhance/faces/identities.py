"""Who is on screen: a few embeddings a person, computed beside the frames."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from keyframes import Embedding, FaceObservation, People, Person
from keyframes.admission import MAX_ROLL
from keyframes.identity import BEST, ENOUGH
from receiver.enhance.faces.alignment import Crop, picture_of
from receiver.enhance.faces.recognition import ANSWERS_WITHIN, FaceRecogniser

MAX_ENLARGED = 4.0
"""Crop pixels for one pixel of the frame beyond which a face is too small to be recognised."""
UNKNOWN_QP = 51.0
"""Quality of an observation whose QP is not known: any other one is preferred."""
SOON, LATER, SELDOM, AGAIN = 5, 30, 90, 2
"""Frames from one observation of a person to the next: until their identity is known, until it is
the mean of `BEST` observations (and after one that is unclear), after that, and after one that
contradicts it. Whose references a
face may have is looked at every three seconds: the tracker may have gone over to another face."""
MOST_AT_ONCE, WITHIN = 4, 15
"""Observations of a call at most within so many frames: people who change all the time would keep
the process busy that all calls share."""


@dataclass(frozen=True)
class _Observation:
    person: Person
    qp: float
    embedding: "Future[Embedding]"
    frame: int


class IdentityWatch:
    """Observes the people on screen, and hands their embeddings to `People.identify`."""

    def __init__(
        self,
        people: People,
        recogniser: FaceRecogniser,
        on_failure: Callable[[str, Exception], None],
    ) -> None:
        """`on_failure` is given a word for what failed, and the error."""
        self._people, self._recogniser, self._on_failure = people, recogniser, on_failure
        self._pending: list[_Observation] = []
        self._latest: deque[int] = deque([-WITHIN] * MOST_AT_ONCE, MOST_AT_ONCE)  # frames

    def observe(self, person: Person, crop: Crop, observation: FaceObservation) -> None:
        """Starts to compute a received face's embedding, if it is time for one."""
        frames = self._people.frames
        if frames < person.observe_at or not _is_usable(observation):
            return
        if any(one.person is person for one in self._pending):
            return
        if len(self._pending) >= MOST_AT_ONCE or frames < self._latest[0] + WITHIN:
            return
        self._latest.append(frames)
        person.observe_at = frames + _pause(person)
        embedding = self._recogniser.submit(picture_of(crop), observation.landmarks)
        qp = UNKNOWN_QP if observation.qp is None else observation.qp
        self._pending.append(_Observation(person, qp, embedding, frames))

    def collect(self, *, wait: bool) -> None:
        """Takes the embeddings that are there into account; with `wait`, all of them."""
        pending, self._pending = self._pending, []
        for one in pending:
            if not wait and not one.embedding.done():
                self._pending.append(one)
                continue
            try:
                embedding = one.embedding.result(2 * ANSWERS_WITHIN)
            except Exception as error:  # it costs stills and recognition, never the frame
                self._on_failure("recognition", error)
            else:
                self._people.identify(one.person, embedding, one.qp, one.frame)
                if one.person.identity.contradictions:
                    one.person.observe_at = self._people.frames + _pause(one.person)


def _is_usable(observation: FaceObservation) -> bool:
    return (
        not observation.damaged
        and abs(observation.roll) <= MAX_ROLL
        and observation.enlarged <= MAX_ENLARGED
    )


def _pause(person: Person) -> int:
    """Returns the frames from an observation of a person, which is not counted yet, to the next."""
    identity = person.identity
    if identity.contradictions:
        return AGAIN if person.is_doubtful else LATER
    if len(identity) + 1 < ENOUGH:
        return SOON
    return LATER if len(identity) + 1 < BEST else SELDOM
