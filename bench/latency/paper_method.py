"""The published method of restoring a call's faces, to be timed against this project's.

"Perceptual Quality Improvement in Videoconferencing using Keyframes-based GAN", as the paper
describes it: the detector on every whole frame, MLS for every pixel with nearest sampling, a
generator, and the whole frame blended in floats. The generator is not trained: its time does not
depend on its weights, and its pictures are not judged.
"""

import time

import av
import cv2
import dlib
import numpy as np
from numpy.typing import NDArray

from bench.rivals.paper_networks import Network
from keyframes import Keyframe, KeyframeSet, Landmarks, Picture
from receiver.enhance.faces.alignment import CROP, Affine, crop_from_frame, transform
from receiver.enhance.faces.tracking import landmark_file
from receiver.media.frame import DecodedFrame
from receiver.media.planes import planes
from receiver.stats import Stats

CAPACITY = 10


class PaperMethod:
    """Restores the faces of successive frames as the paper does.

    Attributes:
        stats: timings under the names of this project's corresponding stages. `copy` converts the
            whole frame to RGB and back.
        runtime: of the network, in words.
    """

    def __init__(self, network: Network) -> None:
        """Raises MissingError if the landmark file is missing."""
        self.stats = Stats(network.device)
        self.runtime = network.runtime
        self._network = network
        self._detect = dlib.get_frontal_face_detector()
        self._predict = dlib.shape_predictor(str(landmark_file()))
        self._keyframes = KeyframeSet(CAPACITY)

    def enhance(self, frame: DecodedFrame) -> av.VideoFrame:
        """Returns the frame with its faces restored, or the same object if it shows none."""
        with self.stats.stage("faces"):
            faces = self._faces(planes(frame.video)[0])
        if not faces:
            return frame.video
        began = time.perf_counter()
        picture = frame.video.to_ndarray(format="rgb24")
        copying = time.perf_counter() - began
        for face in faces:
            picture = self._restored(picture, face, frame.is_keyframe)
        began = time.perf_counter()
        output = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        self.stats.add("copy", copying + time.perf_counter() - began)
        output.pts, output.time_base = frame.video.pts, frame.video.time_base
        return output

    def _faces(self, luma: NDArray[np.uint8]) -> list[Landmarks]:
        """Returns 68x2 landmarks of each face. Uses luma: the detector takes longer in colour."""
        luma = np.ascontiguousarray(luma)
        return [
            np.array([(at.x, at.y) for at in self._predict(luma, box).parts()], np.float32)
            for box in self._detect(luma, 0)
        ]

    def _restored(self, picture: Picture, face: Landmarks, is_keyframe: bool) -> Picture:
        """Returns the whole HxWx3 uint8 picture with one of its faces restored."""
        stage = self.stats.stage
        with stage("crop"):
            to_crop = crop_from_frame(face)
            crop = cv2.warpAffine(picture, to_crop, (CROP, CROP), flags=cv2.INTER_CUBIC)
            landmarks = transform(face, to_crop)
        with stage("admit"):
            if is_keyframe or not len(self._keyframes):
                self._keyframes.add(Keyframe(crop, landmarks))
        with stage("choose"):
            keyframe = nearest(list(self._keyframes), landmarks)
            keyframe.uses += 1
        with stage("warp"):
            reference = warp_every_pixel(keyframe.crop, keyframe.landmarks, landmarks)
        with stage("landmarks"):
            drawn = np.zeros((CROP, CROP), np.uint8)
            for x, y in np.rint(landmarks).astype(int).tolist():
                cv2.circle(drawn, (x, y), 2, 255, cv2.FILLED)
        with stage("generator"):
            restored = self._network.restore(crop, reference, drawn)
        with stage("paste"):
            return paste(picture, restored, to_crop)


def nearest(keyframes: list[Keyframe], landmarks: Landmarks) -> Keyframe:
    """Returns the first keyframe with the least Euclidean distance of its 68x2 landmarks."""
    distances = [float(np.linalg.norm(one.landmarks - landmarks)) for one in keyframes]
    return keyframes[int(np.argmin(distances))]


def mls_every_pixel(source: Landmarks, target: Landmarks, side: int) -> NDArray[np.float64]:
    """Returns where each pixel of a square picture comes from, by affine moving least squares.

    Uses the closed form with weights 1/d^2 as the inverse map: the target's landmarks are the
    control points. Schaefer, McPhail, Warren: "Image Deformation Using Moving Least Squares", 2.1.

    Args:
        source, target: Kx2 in pixels, not all on one line.
        side: side of the picture in pixels.

    Returns:
        side x side x 2, x and y in pixels of the source.
    """
    p, q = target.astype(np.float64), source.astype(np.float64)
    places = np.arange(side, dtype=np.float64)
    across, down = (np.square(places[:, None] - axis) for axis in p.T)  # (side, K) each
    moments = [np.ones(len(p)), *p.T, *q.T, *(a * b for a in p.T for b in (*p.T, *q.T))]
    terms = np.stack(moments, axis=1)  # (K, 13)
    # Row by row: all weights at once are 36 MB of cold memory and several times as slow.
    sums = np.stack([1.0 / (row + across + 1e-6) @ terms for row in down])  # (side, side, 13)
    means = sums[..., 1:] / sums[..., :1]
    p_mean, q_mean, products = means[..., :2], means[..., 2:4], means[..., 4:]
    products = products.reshape(side, side, 2, 4)
    p_spread = products[..., :2] - p_mean[..., :, None] * p_mean[..., None, :]  # (side, side, 2, 2)
    q_spread = products[..., 2:] - p_mean[..., :, None] * q_mean[..., None, :]
    (a, b), (_, d) = np.moveaxis(p_spread, (-2, -1), (0, 1))
    x = places - p_mean[..., 0]
    y = places[:, None] - p_mean[..., 1]
    determinant = a * d - b * b
    along = np.stack([(d * x - b * y) / determinant, (a * y - b * x) / determinant], axis=-1)
    moved: NDArray[np.float64] = np.einsum("...i,...ij->...j", along, q_spread) + q_mean
    return moved


def warp_every_pixel(picture: Picture, source: Landmarks, target: Landmarks) -> Picture:
    """Warps a square HxWx3 picture so that its landmarks move from `source` to `target`.

    Samples the nearest pixel; beyond the border, the border's.
    """
    side = len(picture)
    places = np.rint(mls_every_pixel(source, target, side)).astype(np.intp)
    x, y = np.moveaxis(np.clip(places, 0, side - 1), -1, 0)
    warped: Picture = picture[y, x]
    return warped


def paste(picture: Picture, restored: NDArray[np.float32], to_crop: Affine) -> Picture:
    """Returns a whole HxWx3 uint8 picture with a restored crop blended in, in floats.

    Args:
        restored: 256x256x3 in [0, 1].
        to_crop: `crop_from_frame` of the crop.
    """
    size = (picture.shape[1], picture.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    mask = cv2.warpAffine(np.ones((CROP, CROP, 1), np.float32), to_crop, size, flags=flags)
    moved = cv2.warpAffine(restored * np.float32(255.0), to_crop, size, flags=flags)
    blended = mask[..., None] * moved + (1.0 - mask[..., None]) * picture.astype(np.float32)
    return np.clip(np.rint(blended), 0.0, 255.0).astype(np.uint8)
