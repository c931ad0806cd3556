"""Landmarks and identity of faces, measured by dlib's networks."""

from functools import lru_cache
from typing import Any

import dlib
import numpy as np
from numpy.typing import NDArray

from bench.metrics.pictures import luma
from keyframes import Landmarks, Picture
from receiver.enhance.faces.tracking import landmark_file
from receiver.inference.package_models import RECOGNITION, package_model
from receiver.media.frame import Box


def identity(picture: Picture, landmarks: Landmarks) -> NDArray[Any]:
    """Returns dlib's embedding of a face, 128 numbers; landmarks are 68x2 in the picture's pixels.

    Two embeddings of one person are mostly less than 0.6 apart (dlib's own threshold).
    """
    points = [dlib.point(round(float(x)), round(float(y))) for x, y in landmarks]
    (left, top), (right, bottom) = landmarks.min(axis=0), landmarks.max(axis=0)
    box = dlib.rectangle(int(left), int(top), int(right), int(bottom))
    shape = dlib.full_object_detection(box, points)
    return np.array(_descriptor().compute_face_descriptor(np.ascontiguousarray(picture), shape))


def find_landmarks(picture: Picture, box: Box) -> Landmarks:
    """Returns 68x2 landmarks of a face without smoothing; `box` is in the picture's pixels."""
    left, top, right, bottom = np.round(box).astype(int).tolist()
    shape = _predictor()(luma(picture), dlib.rectangle(left, top, right - 1, bottom - 1))
    return np.array([(point.x, point.y) for point in shape.parts()], np.float32)


@lru_cache(maxsize=1)
def _descriptor() -> Any:
    return dlib.face_recognition_model_v1(str(package_model(RECOGNITION)))


@lru_cache(maxsize=1)
def _predictor() -> Any:
    return dlib.shape_predictor(str(landmark_file()))
