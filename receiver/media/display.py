"""Between the frames of a file and what its viewers see."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from receiver.media.pixels import (
    DEEP_420,
    RESTORABLE,
    Samples,
    Storage,
    bits_of,
    keep_tags,
    samples,
)

MOST_STRETCHED = 4
"""Ratio of a pixel's sides above which a file's sample aspect ratio is ignored as wrong."""
GREY = 128
"""Chroma sample of a grey pixel, with 8 bits."""


@dataclass(frozen=True)
class Display:
    """How stored frames are shown: rotated, mirrored, or with pixels that are not square.

    Attributes:
        matrix: the 9 numbers of the file's display matrix (ISO/IEC 14496-12, 8.3.2), or None.
        aspect: width of a stored pixel divided by its height.
    """

    matrix: tuple[int, ...] | None = None
    aspect: Fraction = Fraction(1)

    @classmethod
    def of(cls, frame: av.VideoFrame, aspect: Any) -> "Display":
        """Returns the display of a decoded frame, with its stream's sample aspect ratio.

        Args:
            aspect: the sample aspect ratio; None for square pixels.
        """
        container: Any = (
            SideDataContainer  # not frame.side_data: see receiver.media.frame._side_data
        )
        data = container(frame).get("DISPLAYMATRIX")
        matrix = None if data is None else tuple(np.frombuffer(data, np.int32)[:9].tolist())
        wide = Fraction(aspect or 1)
        if not Fraction(1, MOST_STRETCHED) <= wide <= MOST_STRETCHED:
            wide = Fraction(1)
        return cls(matrix, wide)

    @property
    def transposed(self) -> bool:
        """Whether a stored row is shown as a column."""
        return self.matrix is not None and abs(self.matrix[1]) > abs(self.matrix[0])

    @property
    def mirrored(self) -> tuple[bool, bool]:
        """Whether columns and rows are shown in reverse, after any transposition."""
        if self.matrix is None:
            return False, False
        a, b, _, c, d, *_ = self.matrix
        return (c < 0, b < 0) if self.transposed else (a < 0, d < 0)

    @property
    def is_plain(self) -> bool:
        """Whether frames are shown as they are stored."""
        return not self.transposed and self.mirrored == (False, False) and self.aspect == 1

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Returns the width and height in square pixels of stored frames of this size."""
        if self.aspect > 1:
            width = round(width * self.aspect)
        else:
            height = round(height / self.aspect)
        return (height, width) if self.transposed else (width, height)

    def shown(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Returns the frame as a viewer sees it: upright, with square pixels, 4:2:0.

        Args:
            frame: in a pixel format of `Storage`.

        Returns:
            A new frame with the same time, colours and depth (`RESTORABLE`), or the same object if
            it needs no change.
        """
        if self.is_plain and frame.format.name in RESTORABLE:
            return frame
        name = DEEP_420
        if bits_of(frame) == 8:
            full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
            name = "yuvj420p" if full else "yuv420p"
        view = av.VideoFrame(*self.size(frame.width, frame.height), name)
        keep_tags(view, frame)
        for to, plane in zip(samples(view), _three(frame), strict=True):
            to[:] = _resized(self._turned(plane), to.shape)
        return view

    def put_back(self, frame: av.VideoFrame, view: av.VideoFrame, restored: av.VideoFrame) -> None:
        """Applies to a stored frame, in place, what restoring changed in its `shown` view.

        Samples that did not change in the view stay bit-equal.
        """
        frame.make_writable()
        most = (1 << bits_of(frame)) - 1
        planes = zip(samples(frame), samples(view), samples(restored), strict=False)
        for plane, before, after in planes:
            if frame is view:
                plane[:] = after
                continue
            change = cv2.subtract(after, before, dtype=cv2.CV_16S)
            if not change.any():
                continue
            lying = plane.shape[::-1] if self.transposed else plane.shape
            change = self._turned_back(_resized(change, lying))
            plane[:] = np.clip(plane.astype(np.int32) + change, 0, most)

    def stored_box(self, box: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
        """Maps a box (left, top, right, bottom in pixels) of a view to the stored frame.

        Args:
            width, height: of the stored frame.
        """
        shown = self.size(width, height)
        x, y = box[0::2] / shown[0], box[1::2] / shown[1]
        flip_x, flip_y = self.mirrored
        x, y = 1 - x if flip_x else x, 1 - y if flip_y else y
        if self.transposed:
            x, y = y, x
        return np.array([min(x) * width, min(y) * height, max(x) * width, max(y) * height])

    def _turned(self, plane: Samples) -> Samples:
        turned = plane.T if self.transposed else plane
        return np.ascontiguousarray(turned[self._slices()])

    def _turned_back(self, plane: Samples) -> Samples:
        turned = plane[self._slices()]
        return np.ascontiguousarray(turned.T if self.transposed else turned)

    def _slices(self) -> tuple[slice, slice]:
        columns, rows = (slice(None, None, -1 if one else 1) for one in self.mirrored)
        return rows, columns


def _three(frame: av.VideoFrame) -> Iterator[Samples]:
    """Yields luma and both chroma planes; a grey frame gets chroma planes of grey."""
    planes = list(samples(frame))
    yield from planes
    if len(planes) == 1:
        grey = np.full((1, 1), GREY << (bits_of(frame) - 8), planes[0].dtype)
        yield from (grey, grey)


def _resized(plane: Samples, shape: tuple[int, ...]) -> Samples:
    """Returns a plane in another height and width: averaged if smaller, interpolated if larger."""
    if plane.shape == shape:
        return plane
    smaller = shape[0] <= plane.shape[0] and shape[1] <= plane.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(plane, shape[::-1], interpolation=how)


def views(frames: Iterable[av.VideoFrame], aspect: Any) -> Iterator[av.VideoFrame]:
    """Yields decoded frames of one stream as viewers see them (`Display.shown`).

    Args:
        aspect: the stream's sample aspect ratio, None if it has none.
    """
    display: Display | None = None
    for frame in frames:
        display = display or Display.of(frame, aspect)
        yield display.shown(Storage.of(frame).stored(frame))
