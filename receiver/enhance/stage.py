"""The contract of a stage: what it is given, and what it returns."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol, TypeAlias

import av

from keyframes import ReferenceNeed
from receiver.enhance.faces.tracking import Face
from receiver.media.frame import DecodedFrame
from receiver.media.pixels import keep_tags
from receiver.media.planes import copy_frame
from receiver.media.priors import CodecPriors
from receiver.media.sound import PcmWindow
from receiver.stats import Stats

Outcome: TypeAlias = Literal[
    "restored",
    "passed: no face",
    "passed: high quality",
    "passed: format",
    "passed: late",
    "passed: failed",
]
"""What became of a frame. `restored`: a stage changed it; `late`: enhancement did not finish in
time, or was not expected to; `failed`: it raised; `format`: its pixel format is not supported."""


@dataclass(frozen=True)
class Canvas:
    """The frame as the previous stages have left it, 4:2:0 with 8 or 10 bits per sample.

    Attributes:
        video: the frame. Not to be written to unless `is_own`.
        scale: pixels of the canvas for one pixel of the decoded frame.
        is_own: whether `video` was made for this canvas. The decoder still predicts from the frame
            that it returned.
    """

    video: av.VideoFrame
    scale: float = 1.0
    is_own: bool = False

    def writable(self) -> "Canvas":
        """Returns a canvas whose frame may be written to: this one if it is, else a copy."""
        return self if self.is_own else replace(self, video=copy_frame(self.video), is_own=True)

    def replaced(self, video: av.VideoFrame) -> "Canvas":
        """Returns a canvas with a new frame, which may be larger or smaller than this one's.

        The new frame gets this one's time and colours.
        """
        keep_tags(video, self.video)
        return Canvas(video, self.scale * video.width / self.video.width, is_own=True)


@dataclass
class FrameContext:
    """A frame and what is known about it, for one run of the stages.

    Attributes:
        frame: as decoded.
        priors: of the code stream, accumulated over the frames missed before this one.
        stats: of the stream; a stage times its parts with `stats.stage`.
        find_faces: returns the faces of a frame; read `faces` instead.
        listen: returns the sound up to the frame; read `sound` instead.
        executor: runs work beside the stage's own, None if there is none (files): then a stage
            has to be deterministic.
        reference_need: set by the face stage.
        passed: the outcome if no stage changes the frame; may be set by stages.
    """

    frame: DecodedFrame
    priors: CodecPriors
    stats: Stats
    find_faces: Callable[[DecodedFrame], list[Face]]
    listen: Callable[[], PcmWindow | None] = lambda: None
    executor: Executor | None = None
    reference_need: ReferenceNeed | None = None
    passed: Outcome = "passed: no face"

    @cached_property
    def faces(self) -> list[Face]:
        """The tracked faces, in pixels of the decoded frame; found when first read."""
        return self.find_faces(self.frame)

    @cached_property
    def sound(self) -> PcmWindow | None:
        """The sound that had arrived when the frame did; None if there is none."""
        return self.listen()


@dataclass(frozen=True)
class StageLevel:
    """A quality level of a stage.

    Attributes:
        name: of the level.
        seconds: time for a frame on this machine, as measured; None if unknown.
    """

    name: str
    seconds: float | None = None


class Stage(Protocol):
    """One step of the enhancement of a stream. A subclass has to define `run` alone.

    No two methods of a stage ever run at the same time, except for `output_size`, which may run
    beside any other. Their threads may differ.
    """

    levels: Sequence[StageLevel] = ()
    """Quality levels, from the cheapest to the best; empty if there is nothing to choose."""

    def run(self, context: FrameContext, canvas: Canvas) -> Canvas:
        """Returns the canvas with this stage's change, or the very same object without one.

        Args:
            context: the frame, and what is known about it.
            canvas: the result of the stage before. Write to `canvas.writable()` or return
                `canvas.replaced(frame)`.
        """
        ...

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """Returns the width and height of the canvas that `run` returns for one of this size.

        Frames that pass through are resized accordingly, so that sinks see one size. A new frame
        of another size counts as a failure.
        """
        return width, height

    def observe(self, context: FrameContext) -> None:
        """Records a frame that was dropped or skipped, so that recurrent state stays valid.

        Called before `run`, oldest frame first. `context.priors.before` is None if more frames were
        missed than are kept (see `receiver.enhance.pipeline.MISSED_AT_MOST`), or if a stage raised
        on the frame before them.
        """
        return

    def between_frames(self) -> None:
        """Starts slow work that no frame has to wait for; returns at once.

        Called in a call, when a frame has left and before the next one runs; not for files.
        """
        return

    def reset(self) -> None:
        """Restarts the stage after a failure: drops what may be broken. May take seconds."""
        return

    def set_level(self, rank: int) -> None:
        """Changes to `levels[rank]`, or to the best level if there are fewer.

        Called before `run`.
        """
        return


@dataclass(frozen=True)
class EnhancedFrame:
    """The result for one frame.

    Attributes:
        video: the enhanced frame, with the pts and time base of the received one; the same
            object as `received.video` if nothing was changed and no stage changes the size.
        received: the frame as decoded.
        outcome: what became of it.
        scale: pixels of `video` for one pixel of the received frame.
        faces: the tracked faces, in pixels of the received frame; empty if no stage asked for them.
        reference_need: which reference the nearest face lacks; None without a face, or if the
            stages did not run.
        seconds: time that the stages took; 0 if they did not run.
    """

    video: av.VideoFrame
    received: DecodedFrame
    outcome: Outcome
    scale: float = 1.0
    faces: Sequence[Face] = field(default=())
    reference_need: ReferenceNeed | None = None
    seconds: float = 0.0

    @property
    def is_restored(self) -> bool:
        """Whether a stage changed the frame."""
        return self.outcome == "restored"

    @property
    def was_processed(self) -> bool:
        """Whether the stages ran on the frame."""
        return self.outcome not in ("passed: late", "passed: failed", "passed: format")
