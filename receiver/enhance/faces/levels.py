"""The quality levels of the face stage."""

from dataclasses import dataclass

from receiver.enhance.faces.tracking import MAX_FACES, DetectionRate


@dataclass(frozen=True)
class Level:
    """How much is done for the faces of a frame.

    Attributes:
        name: of the level.
        floats: whether the generator runs in floating point rather than in 8-bit integers.
        detection: how often faces are searched for and checked.
        faces: maximum number restored per frame, the nearest ones: these in every frame are better
            than all of them occasionally.
    """

    name: str
    floats: bool
    detection: DetectionRate
    faces: int = MAX_FACES


BALANCED = Level("balanced", False, DetectionRate())
LEVELS = (
    Level("fast", False, DetectionRate(search_every=90, check_every=25), faces=2),
    BALANCED,
    Level("best", True, DetectionRate(search_every=15, check_every=5)),
)
"""From the cheapest to the best. A GPU runs them all in floating point, and a model given as a file
runs as it is: then they differ in the detection alone."""
