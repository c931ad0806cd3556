"""Measures the quality of a face crop."""

import math

import cv2

from receiver.enhance.faces.alignment import Affine, Crop

NOISE = 1.0
"""Standard deviation, in crop pixels, of the blur that removes coding noise from the detail."""


def sharpness(crop: Crop) -> float:
    """Returns the mean absolute Laplacian of a 3x256x256 crop's green channel, in 8-bit levels."""
    edges = cv2.Laplacian(crop[1], cv2.CV_32F)
    return float(cv2.norm(edges, cv2.NORM_L1) * 255.0 / edges.size)


def detail(crop: Crop) -> float:
    """Returns the `sharpness` of a 3x256x256 crop after a blur that removes coding noise."""
    soft = cv2.GaussianBlur(crop[1], (0, 0), NOISE)
    edges = cv2.Laplacian(soft, cv2.CV_32F)
    return float(cv2.norm(edges, cv2.NORM_L1) * 255.0 / edges.size)


def scale_and_roll(crop_from_frame: Affine) -> tuple[float, float]:
    """Returns the crop pixels per pixel of the frame, and the tilt of the face in degrees."""
    across, down = crop_from_frame[0, 0], crop_from_frame[1, 0]
    return math.hypot(across, down), math.degrees(math.atan2(down, across))
