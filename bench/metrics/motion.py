"""Metrics of sequences in time: how steady pictures and landmarks are beside the original's.

`cuts` are indices of pictures that do not follow their predecessor in time.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.metrics.pictures import luma
from keyframes import Landmarks, Picture


class Steadiness(NamedTuple):
    """How steady a sequence is beside its original: see `flicker` and `warping_error`."""

    flicker: float
    warping_error: float


def steadiness_of(
    originals: Sequence[Picture],
    sequences: Mapping[str, Sequence[Picture]],
    cuts: Collection[int] = (),
) -> dict[str, Steadiness]:
    """Returns the steadiness of several sequences with one original, by name.

    The optical flow of the originals, which takes most of the time, is found once for all.
    """
    theirs = 0.0
    ours = dict.fromkeys(sequences, 0.0)
    errors: dict[str, list[float]] = {name: [] for name in sequences}
    for now in _following(len(originals), cuts):
        before, after = (luma(originals[i]) for i in (now - 1, now))
        back, forth = _flow().calc(after, before, None), _flow().calc(before, after, None)
        visible = _visible(back, forth)
        theirs += _mean_difference(before, after, back)
        for name, pictures in sequences.items():
            ours[name] += _mean_difference(luma(pictures[now - 1]), luma(pictures[now]), back)
            if visible.any():
                apart = (pictures[now] - _moved(pictures[now - 1], back))[visible] / 255
                errors[name].append(float(np.square(apart).mean()))
    return {
        name: Steadiness(
            _ratio(ours[name], theirs), float(np.mean(errors[name])) if errors[name] else 0.0
        )
        for name in sequences
    }


def flicker(
    originals: Sequence[Picture], pictures: Sequence[Picture], cuts: Collection[int] = ()
) -> float:
    """Returns how much more successive pictures differ than the originals do, without motion.

    The optical flow of the originals moves the previous picture; the rest is the mean absolute
    difference of the luma. The result is the pictures' difference over the originals': 1 is as
    steady as the original, more is flicker, less is too smooth. It is 1 if nothing changes.
    """
    return steadiness_of(originals, {"": pictures}, cuts)[""].flicker


def warping_error(
    originals: Sequence[Picture], pictures: Sequence[Picture], cuts: Collection[int] = ()
) -> float:
    """Returns the warping error, 0 (best) to 1 (Lai et al., ECCV 2018).

    The optical flow of the originals moves each picture to the next one; the rest is the mean
    squared difference of RGB, 0 to 1, of pixels that were visible in both and are not at an edge of
    motion, as a mean over the pairs. Unlike `flicker` it is not relative: a still, blurred picture
    has less than the original. It is 0 if no pair has such a pixel.
    """
    return steadiness_of(originals, {"": pictures}, cuts)[""].warping_error


def _visible(back: NDArray[Any], forth: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns HxW: whether a pixel was visible before, and is not at an edge of motion.

    The flows are HxWx2, `back` from the later to the earlier picture and `forth` its opposite; the
    tests and constants are those of Ruder et al. (GCPR 2016), which the warping error uses.
    """
    height, width = back.shape[:2]
    returned = _moved(forth, back)
    length = np.square(back).sum(axis=2)
    lost = np.square(back + returned).sum(axis=2) > (
        0.01 * (length + np.square(returned).sum(axis=2)) + 0.5
    )
    slope = sum(np.square(one).sum(axis=2) for one in np.gradient(back, axis=(0, 1)))
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    x, y = x + back[..., 0], y + back[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    visible: NDArray[np.bool_] = inside & ~lost & (slope <= 0.01 * length + 0.002)
    return visible


def landmark_jitter(
    originals: Sequence[Landmarks], landmarks: Sequence[Landmarks], cuts: Collection[int] = ()
) -> float:
    """Returns by how many pixels landmarks move against the original's between pictures; 0 is best.

    Takes 68x2 arrays. The result is a mean over all points; a constant offset does not count.
    """
    offsets = np.asarray(landmarks, np.float64) - np.asarray(originals, np.float64)  # (n, 68, 2)
    steps = [offsets[now] - offsets[now - 1] for now in _following(len(offsets), cuts)]
    return float(np.linalg.norm(steps, axis=2).mean()) if steps else 0.0


def _following(count: int, cuts: Collection[int]) -> list[int]:
    """Returns the indices of pictures that follow their predecessor in time."""
    return [now for now in range(1, count) if now not in cuts]


def _ratio(ours: float, theirs: float) -> float:
    if ours == theirs:
        return 1.0
    return ours / theirs if theirs else float("inf")


def _mean_difference(before: Picture, after: Picture, back: NDArray[Any]) -> float:
    """Returns the mean absolute difference of HxW luma after motion.

    `back`, HxWx2, leads from `after` to `before`.
    """
    return float(np.abs(after - _moved(before, back)).mean())


def _moved(before: NDArray[Any], back: NDArray[Any]) -> NDArray[Any]:
    """Returns float32 values of an array, HxW or HxWxC, where the flow `back`, HxWx2, points."""
    height, width = before.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved: NDArray[Any] = cv2.remap(
        before.astype(np.float32),
        x + back[..., 0],
        y + back[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return moved


@lru_cache(maxsize=1)
def _flow() -> Any:
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
