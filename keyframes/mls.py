"""Affine moving least squares: bend a reference face onto the current one."""

import cv2
import numpy as np
from numpy.typing import NDArray

from keyframes.keyframe_set import Landmarks, Picture

NEAREST_SQUARE = 1e-6
"""Floor of the squared distance (px^2) in the weights: a grid point may lie on a landmark."""


def mls_map(
    source: Landmarks, target: Landmarks, points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where in the source each of `points` of the target comes from.

    Affine moving least squares in closed form with weights 1/d^2 (Schaefer, McPhail and Warren,
    "Image Deformation Using Moving Least Squares", section 2.1), as the inverse map: the control
    points are the target's landmarks, their images the source's.

    Args:
        source, target: Kx2 landmarks in pixels.
        points: Mx2, in pixels of the target.

    Returns:
        Mx2, in pixels of the source.
    """
    # Around the target's mean, so that the moments below lose no digits.
    centre = target.astype(np.float64).mean(axis=0)
    p, q, v = target - centre, source - centre, points - centre
    x, y = p[:, 0], p[:, 1]
    squares = (v * v).sum(axis=1)[:, None] + (p * p).sum(axis=1) - 2.0 * (v @ p.T)  # (M, K)
    weights = 1.0 / np.maximum(squares, NEAREST_SQUARE)
    weights /= weights.sum(axis=1, keepdims=True)
    # Every weighted sum that the closed form needs, in one matrix product.
    columns = np.column_stack([p, q, x * x, x * y, y * y, x[:, None] * q, y[:, None] * q])
    sums = weights @ columns  # (M, 11)
    p_mean, q_mean = sums[:, 0:2], sums[:, 2:4]
    xx = sums[:, 4] - p_mean[:, 0] ** 2
    xy = sums[:, 5] - p_mean[:, 0] * p_mean[:, 1]
    yy = sums[:, 6] - p_mean[:, 1] ** 2
    xq = sums[:, 7:9] - p_mean[:, 0:1] * q_mean
    yq = sums[:, 9:11] - p_mean[:, 1:2] * q_mean
    determinant = xx * yy - xy * xy
    # Landmarks on one line give no affine map; there the point only moves along with them.
    flat = determinant <= 1e-9 * (xx + yy) ** 2
    determinant = np.where(flat, 1.0, determinant)
    ahead = v - p_mean
    along_x = np.where(flat, ahead[:, 0], (ahead[:, 0] * yy - ahead[:, 1] * xy) / determinant)
    along_y = np.where(flat, ahead[:, 1], (ahead[:, 1] * xx - ahead[:, 0] * xy) / determinant)
    moved = along_x[:, None] * xq + along_y[:, None] * yq
    moved[flat] = ahead[flat]
    return np.asarray(moved + q_mean + centre, np.float64)


def warp(image: Picture, source: Landmarks, target: Landmarks, *, step: int = 16) -> Picture:
    """Bends `image` so that its landmarks `source` come to lie at `target`.

    The map is computed on a grid of `step` pixels and interpolated; beyond the image its border
    is repeated.

    Args:
        image: HxWx3, uint8 or float32, H and W multiples of `step`.
        source, target: Kx2 in pixels of the image: a face's 68, or any other points.

    Returns:
        An image of the same shape and type, sampled bilinearly.
    """
    height, width = image.shape[:2]
    # Cell centres, one cell beyond each border, because cv2.resize interpolates between centres.
    xs = (np.arange(-1, width // step + 1) + 0.5) * step - 0.5
    ys = (np.arange(-1, height // step + 1) + 0.5) * step - 0.5
    grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    coarse = mls_map(source, target, grid).astype(np.float32).reshape(len(ys), len(xs), 2)
    fine = cv2.resize(coarse, (len(xs) * step, len(ys) * step), interpolation=cv2.INTER_LINEAR)
    fine = fine[step:-step, step:-step]
    return cv2.remap(
        image, fine[..., 0], fine[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
