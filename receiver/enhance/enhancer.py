"""The enhancer of one stream: a pipeline with the face stage."""

import av

from keyframes import Admission, Keyframe, People, Policy
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.recognition import FaceRecogniser, shared_recogniser
from receiver.enhance.faces.stage import FaceStage
from receiver.enhance.pipeline import Pipeline
from receiver.media.planes import WHOLE, Region
from receiver.stats import Stats


class Enhancer(Pipeline):
    """Restores the faces of successive frames of one stream, and runs any further stages.

        enhancer = Enhancer(Generator())
        enhancer.stages.insert(0, MyStage())  # before the faces

    Attributes:
        face_stage: restores the faces; one of `stages`.
        generator: the network that the face stage runs.
        people: those on screen, now and before, with their references.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        strength: float = 1.0,
        capacity: int = 10,
        policy: Policy = "lfu",
        admission: Admission = "quality",
        recogniser: FaceRecogniser | None = None,
    ) -> None:
        """
        Args:
            generator: the network.
            strength: 0 (no change) to 1 (the network's whole change).
            capacity: keyframes of each person, see `KeyframeSet`.
            policy: which keyframe is evicted, see `KeyframeSet`.
            admission: which faces become keyframes, see `keyframes.admit`.
            recogniser: distinguishes people; by default the one that the process shares.

        Raises:
            ValueError: for a strength outside 0 to 1, or as `KeyframeSet`.
            MissingError: if the landmark file is missing.
        """
        self.people, self.generator = People(capacity, policy), generator
        stats = Stats(generator.device)
        self.face_stage = FaceStage(
            generator,
            self.people,
            stats,
            recogniser or shared_recogniser(),
            strength=strength,
            admission=admission,
        )
        super().__init__([self.face_stage], stats)

    def warm_up(self) -> None:
        """Runs the network once: the first run takes several times as long as the others."""
        self.generator.warm_up()

    def add_reference(self, track_id: int, keyframe: Keyframe) -> None:
        """See `FaceStage.add_reference`."""
        self.face_stage.add_reference(track_id, keyframe)

    def add_still(self, still: av.VideoFrame, region: Region = WHOLE) -> bool:
        """See `FaceStage.add_still`."""
        return self.face_stage.add_still(still, region)
