"""Identifies the people on screen from a few embeddings each, computed in the background."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from keyframes import Embedding, FaceObservation, People, Person
from keyframes.admission import MAX_ROLL
from keyframes.identity import BEST, ENOUGH
from receiver.enhance.faces.alignment import Crop, picture_of
from receiver.enhance.faces.recognition import ANSWERS_WITHIN, FaceRecogniser

MAX_ENLARGED_TO_RECOGNISE = 4.0
"""Maximum number of crop pixels per frame pixel: a face enlarged more is too small to recognise."""
UNKNOWN_QP = 51.0
"""QP of an observation of unknown QP: any other one is preferred."""
SOON, LATER, SELDOM, AGAIN = 5, 30, 90, 2
"""Frames from one observation of a person to the next: `SOON` until the identity is known, `LATER`
until it is the mean of `BEST` observations and after an unclear observation, `SELDOM` from then on,
because the tracker may have changed to another face, and `AGAIN` after a contradiction."""
MOST_AT_ONCE, WITHIN = 4, 15
"""Maximum number of observations per call, and the frames within which they are counted. All calls
share one process, which a call with new faces all the time would keep busy."""


@dataclass(frozen=True)
class _Observation:
    person: Person
    qp: float
    embedding: "Future[Embedding]"
    frame: int


class IdentityWatch:
    """Observes the people on screen and passes their embeddings to `People.identify`."""

    def __init__(
        self,
        people: People,
        recogniser: FaceRecogniser,
        on_failure: Callable[[str, Exception], None],
    ) -> None:
        """
        Args:
            people: the people of the call.
            recogniser: computes the embeddings.
            on_failure: called with the name of what failed and the error.
        """
        self._people, self._recogniser, self._on_failure = people, recogniser, on_failure
        self._pending: list[_Observation] = []
        self._latest: deque[int] = deque([-WITHIN] * MOST_AT_ONCE, MOST_AT_ONCE)  # frame numbers

    def observe(self, person: Person, crop: Crop, observation: FaceObservation) -> None:
        """Starts to compute the embedding of a received face if one of `person` is due."""
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
        """Passes on the embeddings that are ready; with `wait`, waits for all of them."""
        pending, self._pending = self._pending, []
        for one in pending:
            if not wait and not one.embedding.done():
                self._pending.append(one)
                continue
            try:
                embedding = one.embedding.result(2 * ANSWERS_WITHIN)
            except Exception as error:  # costs stills and recognition, never the frame
                self._on_failure("recognition", error)
            else:
                self._people.identify(one.person, embedding, one.qp, one.frame)
                if one.person.identity.contradictions:
                    one.person.observe_at = self._people.frames + _pause(one.person)


def _is_usable(observation: FaceObservation) -> bool:
    return (
        not observation.damaged
        and abs(observation.roll) <= MAX_ROLL
        and observation.enlarged <= MAX_ENLARGED_TO_RECOGNISE
    )


def _pause(person: Person) -> int:
    """Returns the frames from an observation, which is not in the identity yet, to the next."""
    identity = person.identity
    if identity.contradictions:
        return AGAIN if person.is_doubtful else LATER
    if len(identity) + 1 < ENOUGH:
        return SOON
    return LATER if len(identity) + 1 < BEST else SELDOM
