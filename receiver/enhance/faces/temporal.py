"""Removes shimmer from a restored face: it changes only if the received face changes.

Every face is restored by itself, and compression artefacts differ from frame to frame, so a
restored face shimmers even if the person is still. This is a recursive filter along the motion. It
moves the previous frame's restored crop to where the face is now, and blends it in where the
previous received crop, moved alike, agrees with the current one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from receiver.enhance.faces.alignment import CROP, Crop

MOST_BLEND = 0.85
"""Largest weight of the previous frame."""
DISAGREE, DISAGREE_QP = (3.0, 14.0), (26.0, 43.0)
"""Difference of the received luma, in 8-bit levels, above which the previous frame has no weight:
for a face at the first QP and below, and at the second QP and above. The better a face was
received, the more of its changes are real."""
AVERAGED_SIDE = 5
"""Side of the square over which that difference is averaged, in pixels."""
FLOW_SIDE = 64
"""Side in pixels to which the crop is reduced to find its motion: the flow is as good as at
128."""
PATCH_STRIDE = 6
"""Reduced pixels from one patch of the flow to the next: takes half of the default's time."""
FLOW_BLUR = 1.2
"""Standard deviation in reduced pixels of the blur that keeps the flow from following artefacts."""
NOTHING_IN_COMMON = 0.1
"""Mean weight below which the crop shows something else: a cut, or another face."""

_Plane = NDArray[np.float32]

_PIXELS: NDArray[np.float32] = np.indices((CROP, CROP), np.float32)[::-1]
"""The x and y of each pixel, 2x256x256."""


class TemporalFilter:
    """Filters one tracked face; discard it together with the face."""

    def __init__(self) -> None:
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setPatchStride(PATCH_STRIDE)
        self._before: tuple[Any, NDArray[np.uint8]] | None = None
        self._ahead: _Ahead | None = None

    def see(self, degraded: Crop, qp: float | None) -> None:
        """Does the work that does not need the restored face, which is most of it.

        Args:
            degraded: 3x256x256 in [0, 1], the face as received in the current frame.
            qp: QP of that face; None counts as the middle of `DISAGREE_QP`.
        """
        received = _luma(degraded)
        reduced = _reduced(received)
        self._ahead = _Ahead(received, reduced, None)
        if self._before is None:
            return
        before, reduced_before = self._before
        back = self._flow.calc(reduced, reduced_before, None)  # 64x64x2, in reduced pixels
        *planes, received_moved = cv2.split(_moved(before, back))
        weight = _agreement(received_moved, received, qp)
        if float(weight.mean()) >= NOTHING_IN_COMMON:
            self._ahead = _Ahead(received, reduced, (planes, weight))

    def apply(self, restored: Crop) -> Crop:
        """Removes the shimmer from a restored crop in place and returns it.

        The first crop stays unchanged. Raises ValueError unless `see` was called for this frame.

        Args:
            restored: 3x256x256 in [0, 1], the restored face of the frame that `see` was given.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            raise ValueError("see() has to be called before apply()")
        if ahead.before is not None:
            planes, weight = ahead.before
            for plane, change in zip(restored, planes, strict=True):
                change -= plane
                change *= weight
                plane += change
        # One array of four channels is moved in a third of the time.
        self._before = cv2.merge([*restored, ahead.received]), ahead.reduced  # 256x256x4
        return restored


@dataclass(frozen=True)
class _Ahead:
    """The result of `TemporalFilter.see` for one frame.

    Attributes:
        received: luma of the received crop, 256x256 float32 in [0, 1].
        reduced: the same as 64x64 uint8.
        before: the red, green and blue planes of the previous restored crop, moved to where the
            face is now, and their weight, each 256x256; None if nothing is blended in.
    """

    received: _Plane
    reduced: NDArray[np.uint8]
    before: tuple[Sequence[_Plane], _Plane] | None


def _agreement(moved: _Plane, received: _Plane, qp: float | None) -> _Plane:
    """Returns the weight of the previous frame, HxW, 0 to `MOST_BLEND`."""
    known = sum(DISAGREE_QP) / 2 if qp is None else qp
    weight: Any = cv2.blur(cv2.absdiff(moved, received), (AVERAGED_SIDE, AVERAGED_SIDE))
    weight *= -MOST_BLEND * 255.0 / float(np.interp(known, DISAGREE_QP, DISAGREE))
    weight += MOST_BLEND
    result: _Plane = np.maximum(weight, 0.0, out=weight)
    return result


def _moved(picture: NDArray[np.float32], back: NDArray[np.float32]) -> Any:
    """Moves a 256x256 picture by a 64x64 flow that points from the new places to the old ones."""
    flow: Any = cv2.resize(back, (CROP, CROP), interpolation=cv2.INTER_LINEAR)
    flow *= CROP / FLOW_SIDE
    x, y = flow[..., 0] + _PIXELS[0], flow[..., 1] + _PIXELS[1]
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _luma(crop: Crop) -> _Plane:
    """Returns the BT.601 luma of a crop, 256x256."""
    red, green, blue = crop
    luma: Any = cv2.addWeighted(red, 0.299, green, 0.587, 0.0)
    result: _Plane = cv2.addWeighted(luma, 1.0, blue, 0.114, 0.0, dst=luma)
    return result


def _reduced(luma: _Plane) -> NDArray[np.uint8]:
    small: Any = cv2.resize(luma, (FLOW_SIDE, FLOW_SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), FLOW_BLUR)
    result: NDArray[np.uint8] = np.clip(small * 255.0, 0.0, 255.0).astype(np.uint8)
    return result
