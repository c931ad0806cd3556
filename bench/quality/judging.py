"""Compares what viewers see with what the camera captured."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.command_line import MissingPackageError, needs
from bench.common.sequences import ORIGINAL, Sequence
from bench.metrics.brisque import brisque
from bench.metrics.faces import find_landmarks, identity
from bench.metrics.ffmpeg import vmaf_family, vmaf_family_of_files, xpsnr_of_files
from bench.metrics.motion import landmark_jitter, steadiness_of
from bench.metrics.niqe import niqe
from bench.metrics.pictures import psnr, ssim
from bench.quality.figures import Figures
from keyframes import Landmarks, Picture

SSIM_EVERY, IDENTITY_EVERY, SLOW_EVERY, FRAMES_EVERY, VMAF_EVERY = 3, 30, 60, 150, 6
"""Slow metrics measure every n-th face, or every n-th whole frame; the others measure all."""
FAMILY = ("vmaf", "vmaf_neg", "ms_ssim")
"""Metrics that libvmaf measures in one run."""


@dataclass(frozen=True)
class Extras:
    """What metrics need beyond the bench's own packages. Networks are opened where they are used.

    Attributes:
        lpips: weights of AlexNet and LPIPS; None to leave LPIPS out.
        mobileface: folder of the network; None to leave it out.
        absent: names of the metrics whose package is not installed.
    """

    lpips: Path | None = None
    mobileface: Path | None = None
    absent: tuple[str, ...] = ()


def absent_metrics() -> dict[str, str]:
    """Returns the metrics whose package is not installed here, and how to install it."""
    black = np.zeros((256, 256, 3), np.uint8)
    probes: dict[str, Callable[[], Any]] = {
        "st_lpips": _st_lpips,
        "brisque": lambda: brisque(black),
        "niqe": lambda: niqe(black),
    }
    found = {}
    for name, probe in probes.items():
        try:
            probe()
        except MissingPackageError as error:
            found[name] = str(error)
        except ImportError:
            found[name] = f"bench quality {needs('torch')}"
    return found


def judge(
    sequence: Sequence, ways: Collection[str], extras: Extras
) -> dict[str, dict[str, Figures]]:
    """Returns the figures of each way to show the frames, by way and region.

    What is known of the captured frames is found once for all ways.
    """
    faces = judge_faces(sequence, ways, extras) if sequence.boxes else {way: {} for way in ways}
    frames = judge_frames(sequence, ways, extras)
    return {way: {"face": faces[way], "frame": frames[way]} for way in ways}


def judge_faces(sequence: Sequence, ways: Collection[str], extras: Extras) -> dict[str, Figures]:
    """Compares the 256x256 crops of the nearest face; returns figures by way."""
    originals, boxes = sequence.faces[ORIGINAL], sequence.boxes
    shown = {way: sequence.faces[way] for way in ways}
    steadiness = steadiness_of(originals, shown, sequence.cuts)
    landmarks = [find_landmarks(*one) for one in zip(originals, boxes, strict=True)]
    slow = _slow_figures(
        originals[::SLOW_EVERY], {way: crops[::SLOW_EVERY] for way, crops in shown.items()}, extras
    )
    apart = _identity_distances(sequence, ways, extras)
    figures: dict[str, Figures] = {}
    for way, pictures in shown.items():
        pairs = list(zip(originals, pictures, strict=True))
        family = vmaf_family(originals, pictures)
        found = [find_landmarks(*one) for one in zip(pictures, boxes, strict=True)]
        figures[way] = {
            "psnr": _mean([psnr(*pair) for pair in pairs]),
            "ssim": _mean([ssim(*pair) for pair in pairs[::SSIM_EVERY]]),
            **{name: _mean(family[name]) for name in FAMILY},
            **slow[way],
            **apart[way],
            "jitter": landmark_jitter(landmarks, found, sequence.cuts),
            "flicker": _finite(steadiness[way].flicker),
            "warping": 1000 * steadiness[way].warping_error,
        }
    return figures


def judge_frames(sequence: Sequence, ways: Collection[str], extras: Extras) -> dict[str, Figures]:
    """Compares the whole frames; returns figures by way."""
    size, original = (sequence.width, sequence.height), sequence.videos[ORIGINAL]
    originals = sequence.pictures(ORIGINAL, FRAMES_EVERY)
    shown = {way: sequence.pictures(way, FRAMES_EVERY) for way in ways}
    slow = _slow_figures(originals, shown, extras)
    figures: dict[str, Figures] = {}
    for way, pictures in shown.items():
        video = sequence.videos[way]
        family = vmaf_family_of_files(original, video, *size, every=VMAF_EVERY)
        figures[way] = {
            "psnr": _mean(family["psnr_luma"]),
            "ssim": _mean([ssim(*pair) for pair in zip(originals, pictures, strict=True)]),
            **{name: _mean(family[name]) for name in FAMILY},
            "xpsnr": _mean(xpsnr_of_files(original, video, *size, sequence.rate)),
            **slow[way],
        }
        if "niqe" not in extras.absent:  # a face has too few of its patches
            figures[way]["niqe"] = _mean([niqe(picture) for picture in pictures])
    return figures


def _identity_distances(
    sequence: Sequence, ways: Collection[str], extras: Extras
) -> dict[str, Figures]:
    """Returns the mean distance of the embeddings of shown and original faces, by way."""
    embedders: dict[str, Callable[[Picture, Landmarks], NDArray[Any]]] = {"identity": identity}
    if extras.mobileface:
        embedders["mobileface"] = _mobileface(extras.mobileface).embedding
    figures: dict[str, Figures] = {way: {} for way in ways}
    for name, embed in embedders.items():
        embedded = {
            way: [
                embed(*one)
                for one in zip(
                    sequence.faces[way][::IDENTITY_EVERY],
                    sequence.landmarks[::IDENTITY_EVERY],
                    strict=True,
                )
            ]
            for way in (ORIGINAL, *ways)
        }
        for way in ways:
            pairs = zip(embedded[ORIGINAL], embedded[way], strict=True)
            figures[way][name] = _mean([np.linalg.norm(a - b) for a, b in pairs])
    return figures


def _slow_figures(
    originals: list[Picture], shown: dict[str, list[Picture]], extras: Extras
) -> dict[str, Figures]:
    """Returns the slow figures that faces and frames share, by way."""
    figures: dict[str, Figures] = {way: {} for way in shown}
    if "st_lpips" not in extras.absent:
        distances = [
            _st_lpips().distances(original, pictures)
            for original, *pictures in zip(originals, *shown.values(), strict=True)
        ]
        for way, column in zip(shown, np.transpose(distances), strict=True):
            figures[way]["st_lpips"] = _mean(column)
    for way, pictures in shown.items():
        if extras.lpips:
            pairs = zip(originals, pictures, strict=True)
            figures[way]["lpips"] = _mean([_lpips(extras.lpips).between(*pair) for pair in pairs])
        if "brisque" not in extras.absent:
            figures[way]["brisque"] = _mean([brisque(picture) for picture in pictures])
    return figures


def _finite(value: float) -> float | None:
    """Returns the value; None for the flicker beside a still original, which is infinite."""
    return value if math.isfinite(value) else None


def _mean(values: Any) -> float:
    return float(np.mean(values))


@lru_cache(maxsize=1)
def _lpips(weights: Path) -> Any:
    from bench.metrics.lpips import LPIPS

    return LPIPS(weights)


@lru_cache(maxsize=1)
def _st_lpips() -> Any:
    from bench.metrics.stlpips import STLPIPS

    return STLPIPS()


@lru_cache(maxsize=1)
def _mobileface(folder: Path) -> Any:
    from bench.metrics.mobileface import MobileFace

    return MobileFace(folder)
