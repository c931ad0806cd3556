"""Keeps a restored face calm: what did not change in the picture received does not change here.

Every face is restored by itself, and the traces of compression differ from frame to frame, so the
restored face shimmers even where the person is still. This is a recursive filter along the motion:
the frame before, moved to where the face is now, is mixed in wherever the received picture moved
alike agrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from receiver.enhance.faces.alignment import CROP, Crop

MOST_BLEND = 0.85
"""Of the frame before, at most."""
DISAGREE, DISAGREE_QP = (3.0, 14.0), (26.0, 43.0)
"""Difference of the received luma, in levels of 255, from which on nothing of the frame before is
mixed in, for a face received at the first QP and below and at the second and above. The better a
face came, the more of what changes in it is its own."""
AROUND = 5
"""Side in pixels of the square over which that difference is averaged."""
FLOW_SIDE = 64
"""Pixels to which the crop is reduced to see its motion: the flow is as good as at 128."""
PATCH_STRIDE = 6
"""Pixels of those between the patches that are looked for: half of the default's time."""
BLUR = 1.2
"""Sigma in those pixels by which it is blurred: traces of compression are not to be followed."""
NOTHING_IN_COMMON = 0.1
"""Mean weight below which it is another picture: a cut, or another face."""

_Plane = NDArray[np.float32]

_PIXELS: NDArray[np.float32] = np.indices((CROP, CROP), np.float32)[::-1]
"""Each pixel's x and y."""


class TemporalFilter:
    """Of one face; forget it with the face."""

    def __init__(self) -> None:
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setPatchStride(PATCH_STRIDE)
        self._before: tuple[Any, NDArray[np.uint8]] | None = None
        self._ahead: _Ahead | None = None

    def see(self, degraded: Crop, qp: float | None) -> None:
        """Does all that can be done before the face is restored, which is most.

        Args:
            degraded: 3x256x256 in [0, 1], of the frame after the one before.
            qp: with which the face came; None where nobody knows counts as `DISAGREE_QP`'s middle.
        """
        received = _luma(degraded)
        seen = _reduced(received)
        self._ahead = _Ahead(received, seen, None)
        if self._before is None:
            return
        before, seen_before = self._before
        back = self._flow.calc(seen, seen_before, None)  # 64x64x2, in its pixels
        *planes, received_moved = cv2.split(_moved(before, back))
        weight = _agreement(received_moved, received, qp)
        if float(weight.mean()) >= NOTHING_IN_COMMON:
            self._ahead = _Ahead(received, seen, (planes, weight))

    def apply(self, restored: Crop) -> Crop:
        """The restored crop without its shimmer, in place; the first one comes back as it is.

        Args:
            restored: 3x256x256 in [0, 1], of the frame that was seen last.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            raise ValueError("a crop has to be seen before it can be calmed")
        if ahead.before is not None:
            planes, weight = ahead.before
            for plane, change in zip(restored, planes, strict=True):
                change -= plane
                change *= weight
                plane += change
        # The four in one picture: it is moved in a third of the time.
        self._before = cv2.merge([*restored, ahead.received]), ahead.seen  # 256x256x4
        return restored


@dataclass(frozen=True)
class _Ahead:
    """What is known of a frame before it is restored.

    Attributes:
        received: its luma, 256x256.
        seen: the same in 64x64 and 8 bits.
        before: red, green and blue of the frame before, moved to where the face is now, and which
            weight of them is to be taken, 256x256 each; None where there is nothing to be taken.
    """

    received: _Plane
    seen: NDArray[np.uint8]
    before: tuple[Sequence[_Plane], _Plane] | None


def _agreement(moved: _Plane, received: _Plane, qp: float | None) -> _Plane:
    """How much of the frame before is to be taken, HxW of 0 to `MOST_BLEND`."""
    known = sum(DISAGREE_QP) / 2 if qp is None else qp
    weight: Any = cv2.blur(cv2.absdiff(moved, received), (AROUND, AROUND))
    weight *= -MOST_BLEND * 255.0 / float(np.interp(known, DISAGREE_QP, DISAGREE))
    weight += MOST_BLEND
    result: _Plane = np.maximum(weight, 0.0, out=weight)
    return result


def _moved(picture: NDArray[np.float32], back: NDArray[np.float32]) -> Any:
    """A picture of 256x256 where a flow of 64x64 that points back to it says."""
    flow: Any = cv2.resize(back, (CROP, CROP), interpolation=cv2.INTER_LINEAR)
    flow *= CROP / FLOW_SIDE
    x, y = flow[..., 0] + _PIXELS[0], flow[..., 1] + _PIXELS[1]
    return cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _luma(crop: Crop) -> _Plane:
    """256x256, BT.601."""
    red, green, blue = crop
    luma: Any = cv2.addWeighted(red, 0.299, green, 0.587, 0.0)
    result: _Plane = cv2.addWeighted(luma, 1.0, blue, 0.114, 0.0, dst=luma)
    return result


def _reduced(luma: _Plane) -> NDArray[np.uint8]:
    small: Any = cv2.resize(luma, (FLOW_SIDE, FLOW_SIDE), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), BLUR)
    result: NDArray[np.uint8] = np.clip(small * 255.0, 0.0, 255.0).astype(np.uint8)
    return result
