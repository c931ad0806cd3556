"""The demo's own clip: a public-domain portrait, animated with the project's warp."""

import math
from collections.abc import Iterator

import av
import cv2
import dlib
import numpy as np
from numpy.typing import NDArray

from keyframes import Landmarks, Picture, warp
from receiver.enhance.faces.tracking import landmark_file
from receiver.errors import MissingError

WIDTH, HEIGHT, FPS = 640, 480, 30
LOOP = 8 * FPS
"""Frames after which the clip repeats."""

_VIEW = (68, 0, 320, 240)
"""Left, top, width and height of the view in the 512x512 portrait."""
_NOISE = 2.0
"""Standard deviation of the sensor noise in 8-bit levels."""


def portrait_frames() -> Iterator[av.VideoFrame]:
    """Yields one loop of a woman who turns her head, blinks and talks: 240 frames, 640x480 yuv420p.

    The portrait is scikit-image's `astronaut` (Eileen Collins, photographed by NASA, public
    domain). Raises MissingError without scikit-image.
    """
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise MissingError(
            "the demo's own clip needs scikit-image: pip install 'keyframe-receiver[demo]' or "
            "give a clip with --clip FILE"
        ) from error
    left, top, width, height = _VIEW
    view = np.ascontiguousarray(astronaut()[top : top + height, left : left + width])
    picture = cv2.resize(view, (WIDTH, HEIGHT), interpolation=cv2.INTER_LANCZOS4)
    landmarks = _find_landmarks(picture)
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, _NOISE, (HEIGHT + 64, WIDTH + 64, 1)).astype(np.float32)
    for index in range(LOOP):
        time = 2.0 * math.pi * index / LOOP  # whole multiples of it are seamless
        moved = _pose(landmarks, time)
        frame = _bend(picture, landmarks, moved).astype(np.float32)
        frame *= 1.0 + 0.012 * math.sin(time)
        x, y = rng.integers(0, 64, 2)
        frame += noise[y : y + HEIGHT, x : x + WIDTH]
        rgb = np.clip(np.round(frame), 0, 255).astype(np.uint8)
        yield av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")


def _find_landmarks(picture: Picture) -> Landmarks:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    box = dlib.get_frontal_face_detector()(grey, 0)[0]
    shape = dlib.shape_predictor(str(landmark_file()))(grey, box)
    return np.array([(point.x, point.y) for point in shape.parts()], np.float32)


def _pose(landmarks: Landmarks, time: float) -> Landmarks:
    """Returns the landmarks at `time`, an angle of 0 to 2 pi in one loop."""
    moved = landmarks.astype(np.float64)
    size = float(np.ptp(moved[:17, 0]))
    opening = max(0.0, math.sin(9 * time) * math.sin(2 * time + 0.5)) * 0.07 * size
    _open_mouth(moved, opening)
    _blink(moved, max(0.0, 1.0 - abs((time % math.pi) - 1.2) / 0.09))
    return _turn(moved, 0.22 * math.sin(time), 0.08 * math.sin(2 * time), size).astype(np.float32)


def _open_mouth(points: NDArray[np.float64], opening: float) -> None:
    """Moves the lower lip and the jaw down by `opening` pixels, in place."""
    points[[55, 56, 57, 58, 59, 64, 65, 66, 67], 1] += opening
    points[[5, 6, 7, 8, 9, 10, 11], 1] += opening * np.array([0.3, 0.6, 0.8, 0.9, 0.8, 0.6, 0.3])


def _blink(points: NDArray[np.float64], closed: float) -> None:
    """Moves the upper eyelids towards the lower ones, in place (`closed`: 0 open, 1 closed)."""
    for upper, lower in ((37, 41), (38, 40), (43, 47), (44, 46)):
        points[upper] += 0.85 * closed * (points[lower] - points[upper])


def _turn(
    points: NDArray[np.float64], yaw: float, pitch: float, size: float
) -> NDArray[np.float64]:
    """Turns the head by angles in radians about its centre, as if a face were half a ball."""
    centre = points[27:36].mean(axis=0)
    x, y = ((points - centre) / size).T
    depth = 0.5 * np.sqrt(np.clip(1.0 - (x / 0.62) ** 2 - (y / 0.85) ** 2, 0.0, 1.0))
    depth[27:36] += 0.12  # the nose
    turned_x = x * math.cos(yaw) + depth * math.sin(yaw)
    turned_y = y * math.cos(pitch) + depth * math.sin(pitch)
    turned: NDArray[np.float64] = centre + size * np.column_stack([turned_x, turned_y])
    return turned


def _bend(picture: Picture, source: Landmarks, target: Landmarks) -> Picture:
    """Warps the picture from landmarks to landmarks while its border stays in place."""
    border = np.array(
        [(x, y) for x in np.linspace(0, WIDTH, 9) for y in (0, HEIGHT)]
        + [(x, y) for x in (0, WIDTH) for y in np.linspace(0, HEIGHT, 7)[1:-1]],
        np.float32,
    )
    return warp(picture, np.vstack([source, border]), np.vstack([target, border]))
