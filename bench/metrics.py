"""What the benches judge faces by: each takes pictures of one size, 8-bit RGB, HxWx3."""

import json
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import dlib
import imageio_ffmpeg
import numpy as np
from skimage.metrics import structural_similarity

from keyframes import Landmarks, Picture
from receiver.faces import landmark_file

VMAF_NEG = "version=vmaf_v0.6.1neg"
DESCRIPTOR = "dlib_face_recognition_resnet_model_v1.dat"


def psnr(original: Picture, picture: Picture) -> float:
    """In dB, over all three channels."""
    return float(cv2.PSNR(original, picture))


def ssim(original: Picture, picture: Picture) -> float:
    """Structural similarity of the luma, at most 1."""
    luma = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for one in (original, picture)]
    return float(structural_similarity(*luma))


def vmaf_neg(originals: list[Picture], pictures: list[Picture]) -> list[float]:
    """VMAF-NEG of each of successive pictures, 0 to 100, by FFmpeg's libvmaf."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = []
        for kind, sequence in (("pictures", pictures), ("originals", originals)):
            path = folder / f"{kind}.yuv"
            with path.open("wb") as file:
                for one in sequence:
                    file.write(cv2.cvtColor(one, cv2.COLOR_RGB2YUV_I420).tobytes())
            height, width = sequence[0].shape[:2]
            inputs += f"-f rawvideo -pix_fmt yuv420p -s {width}x{height} -i {path}".split()
        log = folder / "vmaf.json"
        graph = f"libvmaf=model={VMAF_NEG}:n_threads=2:log_fmt=json:log_path={log}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *inputs]
        subprocess.run([*command, "-lavfi", graph, "-f", "null", "-"], check=True)
        frames = json.loads(log.read_text())["frames"]
    return [float(frame["metrics"]["vmaf"]) for frame in frames]


def identity(picture: Picture, landmarks: Landmarks) -> np.ndarray[Any, Any]:
    """dlib's 128 numbers of a face, 68x2 landmarks in the picture's pixels.

    Of one person they are mostly less than 0.6 apart (dlib's own threshold).
    """
    points = [dlib.point(round(float(x)), round(float(y))) for x, y in landmarks]
    (left, top), (right, bottom) = landmarks.min(axis=0), landmarks.max(axis=0)
    box = dlib.rectangle(int(left), int(top), int(right), int(bottom))
    shape = dlib.full_object_detection(box, points)
    return np.array(_descriptor().compute_face_descriptor(np.ascontiguousarray(picture), shape))


@lru_cache(maxsize=1)
def _descriptor() -> Any:
    return dlib.face_recognition_model_v1(str(landmark_file().with_name(DESCRIPTOR)))
