"""The process behind `recognition`: reads faces from its input, writes embeddings.

Run as a script with the path of dlib's model file. Imports nothing of this project: it starts in a
third of a second and takes little memory. One record in, one record out, until the input ends.
"""

import os
import signal
import sys
from typing import Any

SIDE = 256
"""Width and height of a face crop in pixels."""
POINTS = 68
"""Landmarks of a face."""
SIZE = 128
"""Numbers of an embedding."""
LANDMARK_BYTES = POINTS * 2 * 4
RECORD_BYTES = LANDMARK_BYTES + SIDE * SIDE * 3
"""A record: 68x2 float32 landmarks in crop pixels, then 256x256x3 uint8 RGB."""


def main() -> None:
    """Serves until the input ends, as it does when the parent process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    if hasattr(os, "nice"):
        os.nice(10)  # a call's frames come first
    import dlib
    import numpy as np

    model = dlib.face_recognition_model_v1(sys.argv[1])
    while len(record := sys.stdin.buffer.read(RECORD_BYTES)) == RECORD_BYTES:
        landmarks = np.frombuffer(record, np.float32, POINTS * 2).reshape(POINTS, 2)
        picture = np.frombuffer(record, np.uint8, offset=LANDMARK_BYTES).reshape(SIDE, SIDE, 3)
        embedding = np.array(_embed(dlib, model, picture, landmarks), np.float32)
        # Of length 1: measured on 93 people, distances of directions separate them better.
        embedding /= np.linalg.norm(embedding)
        answers.write(embedding.tobytes())
        answers.flush()


def _embed(dlib: Any, model: Any, picture: Any, landmarks: Any) -> Any:
    """dlib aligns the face by its landmarks to 150x150 pixels, then runs its ResNet."""
    points = [dlib.point(round(float(x)), round(float(y))) for x, y in landmarks]
    left, top = (int(side) for side in landmarks.min(axis=0))
    right, bottom = (int(side) for side in landmarks.max(axis=0))
    box = dlib.rectangle(left, top, right, bottom)
    return model.compute_face_descriptor(picture, dlib.full_object_detection(box, points))


if __name__ == "__main__":
    main()
