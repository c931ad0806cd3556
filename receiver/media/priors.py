"""Data of the bitstream about a frame, one value per macroblock."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from receiver.media.frame import DecodedFrame
from receiver.media.pixels import RESTORABLE
from receiver.media.planes import luma_of

MACROBLOCK = 16
"""Side of a macroblock in luma pixels (H.264, 3.74)."""


@dataclass(frozen=True)
class CodecPriors:
    """QPs, motion and changes of a frame, accumulated over the frames that were missed before it.

    Each map has one value per macroblock: rows x columns, the last ones partly outside the frame if
    its size is not a multiple of 16. The maps are made when they are first read: they cost nothing
    if no stage uses them.

    Attributes:
        frames: decoded frames, oldest first: those that were dropped or skipped since the last one
            that the stages ran on, then the frame itself.
        before: the last frame that the stages ran on, None at the start of a stream or if the chain
            of frames is broken.
    """

    frames: Sequence[DecodedFrame]
    before: av.VideoFrame | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of macroblocks."""
        video = self.frames[-1].video
        return -(-video.height // MACROBLOCK), -(-video.width // MACROBLOCK)

    @cached_property
    def qp(self) -> NDArray[np.float32] | None:
        """Luma QPs of the frame itself, 0 to 51; None if the codec does not export them.

        None also for a rotated or scaled view, whose macroblocks are not the decoded frame's.
        """
        frame = self.frames[-1]
        blocks = frame.qp_blocks
        if blocks is None or frame.stored is not None:
            return None
        qp = np.full(self.shape, np.nan, np.float32)
        row, column = blocks.y // MACROBLOCK, blocks.x // MACROBLOCK
        inside = (row < qp.shape[0]) & (
            column < qp.shape[1]
        )  # interlaced: a row more, cropped away
        qp[row[inside], column[inside]] = blocks.qp[inside]
        return qp

    @cached_property
    def motion(self) -> NDArray[np.float32] | None:
        """Motion from `before` to the frame: rows x columns x 2, x and y in luma pixels.

        A macroblock at p shows what was at p + motion in `before`; NaN if it, or what it was
        predicted from, was coded without prediction from another frame. The vectors of dropped
        frames are chained. Each frame is taken to be predicted from the one before it, as real-time
        encoders do. None if `before` is None or has another size, or if the format of any frame is
        not in `RESTORABLE`.
        """
        if not self._is_chain:
            return None
        total = np.zeros((*self.shape, 2), np.float32)
        for frame in self.frames:
            step = _motion_of(frame, self.shape)
            total = step + _sampled(total, step)
        return total

    @cached_property
    def changed(self) -> NDArray[np.bool_]:
        """Macroblocks whose luma differs from that of `before` in any of `frames`.

        FFmpeg does not export which macroblocks were skipped; one that was skipped without motion
        is bit-equal to its predecessor unless deblocking reached into it. All are True if `before`
        is None or has another size, or if the format of any frame is not in `RESTORABLE`.
        """
        if not self._is_chain or self.before is None:
            return np.ones(self.shape, np.bool_)
        changed = np.zeros(self.shape, np.bool_)
        before = luma_of(self.before)
        for frame in self.frames:
            changed |= _any_in_blocks(luma_of(frame.video) != before, self.shape)
        return changed

    @property
    def _is_chain(self) -> bool:
        if self.before is None:
            return False
        videos = [self.before, *(frame.video for frame in self.frames)]
        is_one_size = len({(video.width, video.height) for video in videos}) == 1
        return is_one_size and all(video.format.name in RESTORABLE for video in videos)


def _motion_of(frame: DecodedFrame, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Returns a frame's own motion; of several vectors in a macroblock, their mean by area."""
    vectors: Any = frame.motion_vectors
    total, area = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32)
    if vectors is not None:
        past = vectors[vectors["source"] < 0]
        size = past["w"].astype(np.float32) * past["h"]
        # `dst` is a block's centre.
        row = np.clip(past["dst_y"] // MACROBLOCK, 0, shape[0] - 1)
        column = np.clip(past["dst_x"] // MACROBLOCK, 0, shape[1] - 1)
        scale = np.maximum(past["motion_scale"], 1).astype(np.float32)
        for axis, name in enumerate(("motion_x", "motion_y")):
            np.add.at(total[..., axis], (row, column), size * past[name] / scale)
        np.add.at(area, (row, column), size)
    mean = np.full((*shape, 2), np.nan, np.float32)
    known = area > 0
    mean[known] = total[known] / area[known][:, None]
    return mean


def _sampled(field: NDArray[np.float32], at: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the field's values at each macroblock's place plus `at` pixels; NaN stays NaN."""
    rows, columns = field.shape[:2]
    moved = np.nan_to_num(np.rint(at / MACROBLOCK)).astype(np.intp)
    row = np.clip(np.arange(rows)[:, None] + moved[..., 1], 0, rows - 1)
    column = np.clip(np.arange(columns)[None, :] + moved[..., 0], 0, columns - 1)
    sampled: NDArray[np.float32] = field[row, column]
    return sampled


def _any_in_blocks(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns for each macroblock whether any of its pixels is True."""
    rows, columns = shape
    padded = np.zeros((rows * MACROBLOCK, columns * MACROBLOCK), np.bool_)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    blocks = padded.reshape(rows, MACROBLOCK, columns, MACROBLOCK)
    return np.asarray(blocks.any(axis=(1, 3)))
