"""Metrics of faces. Pictures are HxWx3 uint8 RGB, all of one size.

Metrics of a sequence take `cuts`: indices of pictures that do not follow their predecessor in time.
"""

import json
import subprocess
import tempfile
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray

from keyframes import Landmarks, Picture
from receiver.enhance.faces.tracking import landmark_file
from receiver.inference.package_models import RECOGNITION, package_model
from receiver.media.frame import Box

VMAF, VMAF_NEG = "version=vmaf_v0.6.1", "version=vmaf_v0.6.1neg"
RESAMPLES = 10_000
"""Draws of a bootstrap interval."""


def psnr(original: Picture, picture: Picture) -> float:
    """Returns the PSNR over all three channels in dB."""
    return float(cv2.PSNR(original, picture))


def ssim(original: Picture, picture: Picture) -> float:
    """Returns the structural similarity of the luma, at most 1."""
    from skimage.metrics import structural_similarity

    return float(structural_similarity(_luma(original), _luma(picture)))


def vmaf_neg(originals: list[Picture], pictures: list[Picture]) -> list[float]:
    """Returns VMAF-NEG, 0 to 100, of each of successive pictures, measured by FFmpeg's libvmaf."""
    frames = _libvmaf(originals, pictures, f"model={VMAF_NEG}")
    return [float(frame["vmaf"]) for frame in frames]


def vmaf_family(originals: list[Picture], pictures: list[Picture]) -> dict[str, list[float]]:
    """Returns `vmaf`, `vmaf_neg` (0 to 100) and `ms_ssim` (luma, at most 1), a value a picture."""
    # Within a filter's option a colon is escaped once for the option and once for the graph.
    models = rf"model={VMAF}\\:name=vmaf|{VMAF_NEG}\\:name=vmaf_neg:feature=name=float_ms_ssim"
    frames = _libvmaf(originals, pictures, models)
    keys = {"vmaf": "vmaf", "vmaf_neg": "vmaf_neg", "ms_ssim": "float_ms_ssim"}
    return {name: [float(frame[key]) for frame in frames] for name, key in keys.items()}


def _libvmaf(
    originals: list[Picture], pictures: list[Picture], options: str
) -> list[dict[str, float]]:
    """Returns libvmaf's figures of each picture. Needs imageio-ffmpeg, whose FFmpeg has libvmaf."""
    import imageio_ffmpeg

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
        graph = f"libvmaf={options}:n_threads=2:log_fmt=json:log_path={log}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *inputs]
        subprocess.run([*command, "-lavfi", graph, "-f", "null", "-"], check=True)
        return [frame["metrics"] for frame in json.loads(log.read_text())["frames"]]


def identity(picture: Picture, landmarks: Landmarks) -> NDArray[Any]:
    """Returns dlib's embedding of a face, 128 numbers; landmarks are 68x2 in the picture's pixels.

    Two embeddings of one person are mostly less than 0.6 apart (dlib's own threshold).
    """
    points = [dlib.point(round(float(x)), round(float(y))) for x, y in landmarks]
    (left, top), (right, bottom) = landmarks.min(axis=0), landmarks.max(axis=0)
    box = dlib.rectangle(int(left), int(top), int(right), int(bottom))
    shape = dlib.full_object_detection(box, points)
    return np.array(_descriptor().compute_face_descriptor(np.ascontiguousarray(picture), shape))


def flicker(originals: list[Picture], pictures: list[Picture], cuts: Collection[int] = ()) -> float:
    """Returns how much more successive pictures differ than the originals do, without motion.

    The optical flow of the originals moves the previous picture; the rest is the mean absolute
    difference of the luma. The result is the pictures' difference over the originals': 1 is as
    steady as the original, more is flicker, less is too smooth. It is 1 if nothing changes.
    """
    ours = theirs = 0.0
    for now in _following(len(originals), cuts):
        before, after = (_luma(originals[i]) for i in (now - 1, now))
        back = _flow().calc(after, before, None)
        theirs += _moved_difference(before, after, back)
        ours += _moved_difference(_luma(pictures[now - 1]), _luma(pictures[now]), back)
    if ours == theirs:
        return 1.0
    return ours / theirs if theirs else float("inf")


def _moved_difference(before: Picture, after: Picture, back: NDArray[Any]) -> float:
    """Returns the mean absolute difference of HxW luma after motion.

    `back`, HxWx2, leads from `after` to `before`.
    """
    height, width = before.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = cv2.remap(
        before.astype(np.float32),
        x + back[..., 0],
        y + back[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return float(np.abs(after - moved).mean())


def find_landmarks(picture: Picture, box: Box) -> Landmarks:
    """Returns 68x2 landmarks of a face without smoothing; `box` is in the picture's pixels."""
    left, top, right, bottom = np.round(box).astype(int).tolist()
    shape = _predictor()(_luma(picture), dlib.rectangle(left, top, right - 1, bottom - 1))
    return np.array([(point.x, point.y) for point in shape.parts()], np.float32)


def landmark_jitter(
    originals: Sequence[Landmarks], landmarks: Sequence[Landmarks], cuts: Collection[int] = ()
) -> float:
    """Returns by how many pixels landmarks move against the original's between pictures; 0 is best.

    Takes 68x2 arrays. The result is a mean over all points; a constant offset does not count.
    """
    offsets = np.asarray(landmarks, np.float64) - np.asarray(originals, np.float64)  # (n, 68, 2)
    steps = [offsets[now] - offsets[now - 1] for now in _following(len(offsets), cuts)]
    return float(np.linalg.norm(steps, axis=2).mean()) if steps else 0.0


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the mean: draws of as many values with replacement."""
    rng = np.random.default_rng(seed)
    draws = rng.choice(np.asarray(values, np.float64), (RESAMPLES, len(values)))
    low, high = np.percentile(draws.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _following(count: int, cuts: Collection[int]) -> list[int]:
    """Returns the indices of pictures that follow their predecessor in time."""
    return [now for now in range(1, count) if now not in cuts]


def _luma(picture: Picture) -> Picture:
    grey: Picture = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return grey


@lru_cache(maxsize=1)
def _descriptor() -> Any:
    return dlib.face_recognition_model_v1(str(package_model(RECOGNITION)))


@lru_cache(maxsize=1)
def _predictor() -> Any:
    return dlib.shape_predictor(str(landmark_file()))


@lru_cache(maxsize=1)
def _flow() -> Any:
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
