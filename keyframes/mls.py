"""Affine moving least squares: warps a reference face onto the current one."""

from functools import lru_cache
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from keyframes.keyframe_set import Landmarks, Picture

NEAREST_SQUARE = 1e-6
"""Added to the squared distances (px^2), because a grid point may coincide with a landmark."""


def mls_map(
    source: Landmarks, target: Landmarks, points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Maps `points` of the target to the source.

    Computes affine moving least squares in closed form with weights 1/d^2 (Schaefer, McPhail and
    Warren, "Image Deformation Using Moving Least Squares", section 2.1), as the inverse map: the
    control points are the target's landmarks, and the source's landmarks are their images.

    Args:
        source, target: Kx2 landmarks in pixels.
        points: Mx2, in pixels of the target.

    Returns:
        Mx2, in pixels of the source.
    """
    # Relative to one of the landmarks, so that the moments below keep their precision.
    centre = target[0].astype(np.float64)
    (x, y), q, v = (target - centre).T, (source - centre).T, (points - centre).T  # p is (x, y)
    # Terms of the weighted sums, a column per landmark: 1, p, the products of p, q, and q times p.
    # All the sums are one matrix product, and |p - v|^2 = xx + yy - 2 p v + |v|^2 is another.
    terms = np.empty((12, len(target)))
    terms[0], terms[1], terms[2], terms[5] = 1.0, x, y, y * y
    terms[3:5], terms[6:8], terms[8:10], terms[10:12] = terms[1:3] * x, q, q * x, q * y
    factors = np.empty((6, len(points)))
    factors[0] = v[0] * v[0] + v[1] * v[1] + NEAREST_SQUARE
    factors[1:3], factors[3], factors[4], factors[5] = -2.0 * v, 1.0, 0.0, 1.0
    squares = terms[:6].T @ factors  # (K, M)
    weights = np.divide(1.0, squares, out=squares)
    sums = terms[1:] @ weights  # (11, M)
    sums /= weights.sum(axis=0)
    (x, y, xx, xy, yy), q, xq, yq = sums[:5], sums[5:7], sums[7:9], sums[9:11]  # now means
    xx, xy, yy, xq, yq = xx - x * x, xy - x * y, yy - y * y, xq - x * q, yq - y * q
    along_x, along_y = ahead = v - sums[:2]
    determinant = xx * yy - xy * xy
    # Landmarks on one line define no affine map: the point then only moves along with them.
    flat = determinant <= 1e-9 * (xx + yy) ** 2
    determinant[flat] = 1.0
    bent = (along_x * yy - along_y * xy) * xq + (along_y * xx - along_x * xy) * yq
    moved = np.where(flat, ahead, bent / determinant) + q
    return np.asarray(moved.T + centre, np.float64)


def warp(image: Picture, source: Landmarks, target: Landmarks, *, step: int = 16) -> Picture:
    """Warps `image` so that its landmarks move from `source` to `target`.

    The map is computed on a grid of `step` pixels and interpolated. Beyond the image its border is
    repeated.

    Args:
        image: HxWx3, uint8 or float32, H and W multiples of `step`.
        source, target: Kx2 in pixels of the image: the 68 landmarks of a face, or any other points.

    Returns:
        The warped image, of the same shape and dtype, sampled bilinearly.
    """
    height, width = image.shape[:2]
    rows, columns = height // step + 2, width // step + 2
    coarse = mls_map(source, target, _grid(rows, columns, step)).astype(np.float32)
    fine = cv2.resize(
        coarse.reshape(rows, columns, 2),
        (columns * step, rows * step),
        interpolation=cv2.INTER_LINEAR,
    )
    fine = fine[step:-step, step:-step]
    # OpenCV samples four channels in half the time of three.
    four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    second = cast(Any, None)  # the first map holds x and y; OpenCV's types know only two maps
    four = cv2.remap(four, fine, second, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    bent: Picture = cv2.cvtColor(four, cv2.COLOR_RGBA2RGB)
    return bent


@lru_cache(maxsize=4)
def _grid(rows: int, columns: int, step: int) -> NDArray[np.float64]:
    """Returns the centres of an image's cells and of one cell beyond each border, (rows*columns)x2.

    Uses cell centres and one cell beyond each border, because cv2.resize interpolates between
    centres.
    """
    xs = (np.arange(columns) - 0.5) * step - 0.5
    ys = (np.arange(rows) - 0.5) * step - 0.5
    return np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
