"""Runs the stages on successive frames of one stream."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import av

from receiver.enhance.faces.alignment import can_be_cropped
from receiver.enhance.faces.tracking import DetectionRate, Face, FaceTracker
from receiver.enhance.stage import Canvas, EnhancedFrame, FrameContext, Outcome, Stage
from receiver.media.frame import DecodedFrame
from receiver.media.pixels import RESTORABLE, keep_tags
from receiver.media.planes import luma_of
from receiver.media.priors import CodecPriors
from receiver.media.sound import PcmWindow
from receiver.stats import Stats

MISSED_AT_MOST = 10
"""Missed frames whose bitstream is used. After more of them the
chain of motion vectors counts as broken."""


class Pipeline:
    """A list of stages for one stream.

    Synchronous and without I/O: a call, a file tool and a test use it alike.

    Attributes:
        stages: in the order in which they run; may be changed before the first frame.
        stats: counts and timings; `stats.frames` is counted by the caller.
    """

    def __init__(self, stages: Sequence[Stage], stats: Stats) -> None:
        """
        Args:
            stages: in the order in which they run.
            stats: of the stream.

        Raises:
            MissingError: if the landmark file is missing.
        """
        self.stages = list(stages)
        self.stats = stats
        self._tracker = FaceTracker()
        self._executor: Executor | None = None
        self._rank: int | None = None  # of the level that the next frame is processed at
        self._last: av.VideoFrame | None = None  # the last frame that the stages ran on

    def process(
        self,
        frame: DecodedFrame,
        missed: Sequence[DecodedFrame] = (),
        listen: Callable[[], PcmWindow | None] = lambda: None,
    ) -> EnhancedFrame:
        """Returns the result for a frame; pts and time base of its video never change.

        Args:
            frame: the next one, in any pixel format; one that is not in `RESTORABLE` is passed
                through.
            missed: frames since the last call that were dropped or skipped, oldest first. The
                stages observe them.
            listen: returns the sound that had arrived when the frame did; called if a stage needs
                it.
        """
        began = time.perf_counter()
        before, self._last = self._last, None  # None if a stage raises
        if len(missed) > MISSED_AT_MOST:
            before = None
        self._apply_level()
        self._observe(missed, before)
        video = frame.video
        if video.format.name not in RESTORABLE or min(video.width, video.height) < 2:
            return self.passed(frame, "passed: format")
        context = self._context(frame, missed, before, listen)
        canvas = Canvas(video)
        for stage in self.stages:
            canvas = _checked(stage, canvas, stage.run(context, canvas))
        self._last = video
        is_changed = canvas.video is not video
        if is_changed:
            canvas.video.pts = video.pts
            if video.time_base is not None:
                canvas.video.time_base = video.time_base
        seconds = time.perf_counter() - began
        if is_changed:
            self.stats.enhancement.add(seconds)
            result = self._result(canvas.video, frame, "restored")
        else:
            result = self.passed(frame, context.passed)
        faces = tuple(vars(context).get("faces", ()))
        need = context.reference_need
        return replace(result, faces=faces, reference_need=need, seconds=seconds)

    def passed(self, frame: DecodedFrame, outcome: Outcome) -> EnhancedFrame:
        """Returns the result for a frame that is not changed, in the size that the stages return.

        That is the very same frame unless a stage changes the size.
        """
        return self._result(frame.video, frame, outcome)

    def enhance(self, frame: DecodedFrame) -> av.VideoFrame:
        """Returns `process(frame).video`: the very same object if nothing was changed."""
        return self.process(frame).video

    def set_executor(self, executor: Executor) -> None:
        """Sets the executor, another thread, for work that can run in parallel with the stages.

        That is the search for faces, see `FaceTracker.set_executor`, and what stages submit.
        `between_frames` then has to be called after every frame.
        """
        self._executor = executor
        self._tracker.set_executor(executor)

    def between_frames(self) -> None:
        """Starts work that no frame has to wait for, and returns at once.

        Must not run concurrently with `process`.
        """
        self._tracker.between_frames()
        for stage in self.stages:
            stage.between_frames()

    def set_detection(self, rate: DetectionRate) -> None:
        """Sets how often faces are searched for and checked; may be called from any thread."""
        self._tracker.rate = rate

    def set_level(self, rank: int) -> None:
        """Sets the quality level of all stages, from the next frame on; from any thread."""
        self._rank = rank

    def search_finely(self) -> None:
        """Lets the next frame's search find small faces, which takes longer: for files."""
        self._tracker.search_finely()

    def recover(self) -> None:
        """Restarts the parts that a failure may have broken.

        May take as long as opening a session; must not run concurrently with `process`. Raises
        MissingError for the landmark file, else what the stages raise; parts that could not be
        restarted stay as they are.
        """
        self._last = None
        try:
            for stage in self.stages:
                stage.reset()
        finally:
            self._tracker = FaceTracker(self._tracker.rate)
            if self._executor is not None:
                self._tracker.set_executor(self._executor)

    def _result(self, video: av.VideoFrame, frame: DecodedFrame, outcome: Outcome) -> EnhancedFrame:
        """Returns a result of the size that sinks expect.

        `video` has another size if a stage that changes the size did not change this frame.
        """
        size = frame.video.width, frame.video.height
        for stage in self.stages:
            size = stage.output_size(*size)
        if size != (video.width, video.height):
            resized = video.reformat(*size, interpolation="BILINEAR")
            keep_tags(resized, video)
            video = resized
        scale = size[0] / frame.video.width if frame.video.width else 1.0
        return EnhancedFrame(video, frame, outcome, scale)

    def _apply_level(self) -> None:
        rank, self._rank = self._rank, None
        if rank is not None:
            for stage in self.stages:
                stage.set_level(rank)

    def _observe(self, missed: Sequence[DecodedFrame], before: av.VideoFrame | None) -> None:
        for number, frame in enumerate(missed):
            if frame.video.format.name in RESTORABLE:
                context = self._context(frame, missed[:number], before, lambda: None)
                for stage in self.stages:
                    stage.observe(context)

    def _context(
        self,
        frame: DecodedFrame,
        missed: Sequence[DecodedFrame],
        before: av.VideoFrame | None,
        listen: Callable[[], PcmWindow | None],
    ) -> FrameContext:
        priors = CodecPriors((*missed[-MISSED_AT_MOST:], frame), before)
        return FrameContext(frame, priors, self.stats, self._find_faces, listen, self._executor)

    def _find_faces(self, frame: DecodedFrame) -> list[Face]:
        video = frame.video
        with self.stats.stage("faces"):
            return [
                face
                for face in self._tracker.track(luma_of(video))
                if can_be_cropped(
                    face.landmarks, face.box, face.crop_from_frame, video.width, video.height
                )
            ]


def _checked(stage: Stage, before: Canvas, after: Canvas) -> Canvas:
    """Returns `after`. Raises ValueError if its frame could break later stages or sinks."""
    old, new = before.video, after.video
    size = stage.output_size(old.width, old.height)
    if new is not old and (new.format.name not in RESTORABLE or (new.width, new.height) != size):
        raise ValueError(
            f"{type(stage).__name__} returned {new.width}x{new.height} {new.format.name} "
            f"instead of 4:2:0 in its output_size {size}"
        )
    return after
