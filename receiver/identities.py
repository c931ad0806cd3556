"""Who is on screen: a few embeddings a person, computed beside the frames."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from keyframes import Embedding, People, Person, Shot
from keyframes.admission import MAX_ROLL
from keyframes.people import BEST, ENOUGH
from receiver.alignment import Crop, picture_of
from receiver.recognition import ANSWERS_WITHIN, FaceRecogniser

MAX_ENLARGED = 4.0
"""Crop pixels for one pixel of the frame beyond which a face is too small to be recognised."""
UNKNOWN_QP = 51.0
"""Quality of an observation whose QP is not known: any other one is preferred."""
SOON, LATER, SELDOM, AGAIN = 5, 30, 300, 10
"""Frames from one observation of a person to the next: until their identity is known, until it is
the mean of `BEST` observations, after that, and after one that contradicts it."""


@dataclass(frozen=True)
class _Observation:
    person: Person
    qp: float
    embedding: "Future[Embedding]"


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

    def observe(self, person: Person, crop: Crop, shot: Shot) -> None:
        """Starts to compute a received face's embedding, if it is time for one."""
        frames = self._people.frames
        if frames < person.observe_at or not _is_usable(shot):
            return
        if any(one.person is person for one in self._pending):
            return
        person.observe_at = frames + _pause(person)
        embedding = self._recogniser.submit(picture_of(crop), shot.landmarks)
        qp = UNKNOWN_QP if shot.qp is None else shot.qp
        self._pending.append(_Observation(person, qp, embedding))

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
                self._people.identify(one.person, embedding, one.qp)


def _is_usable(shot: Shot) -> bool:
    return not shot.damaged and abs(shot.roll) <= MAX_ROLL and shot.enlarged <= MAX_ENLARGED


def _pause(person: Person) -> int:
    """Returns the frames from an observation of a person, which is not counted yet, to the next."""
    identity = person.identity
    if identity.contradictions:
        return AGAIN
    if len(identity) + 1 < ENOUGH:
        return SOON
    return LATER if len(identity) + 1 < BEST else SELDOM
