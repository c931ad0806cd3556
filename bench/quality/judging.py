"""Compares what viewers see with what the camera captured."""

from collections.abc import Callable
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
from bench.metrics.motion import flicker, landmark_jitter, warping_error
from bench.metrics.niqe import niqe
from bench.metrics.pictures import psnr, ssim
from bench.quality.figures import Figures
from keyframes import Landmarks, Picture

SSIM_EVERY, SLOW_EVERY = 3, 30
"""SSIM measures every third face or frame, slow metrics every thirtieth; the others measure all."""
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


def judge(sequence: Sequence, way: str, extras: Extras) -> dict[str, Figures]:
    """Returns the figures of one way to show the frames, by region."""
    return {
        "face": judge_faces(sequence, way, extras) if sequence.boxes else {},
        "frame": judge_frames(sequence, way, extras),
    }


def judge_faces(sequence: Sequence, way: str, extras: Extras) -> Figures:
    """Compares the 256x256 crops of the nearest face."""
    originals, pictures = sequence.faces[ORIGINAL], sequence.faces[way]
    pairs = list(zip(originals, pictures, strict=True))
    theirs, ours = (
        [find_landmarks(*one) for one in zip(crops, sequence.boxes, strict=True)]
        for crops in (originals, pictures)
    )
    family = vmaf_family(originals, pictures)
    embedders: dict[str, Callable[[Picture, Landmarks], NDArray[Any]]] = {"identity": identity}
    if extras.mobileface:
        embedders["mobileface"] = _mobileface(extras.mobileface).embedding
    probes = list(zip(pairs, sequence.landmarks, strict=True))[::SLOW_EVERY]
    apart = {
        name: _mean([np.linalg.norm(embed(a, at) - embed(b, at)) for (a, b), at in probes])
        for name, embed in embedders.items()
    }
    return {
        "psnr": _mean([psnr(*pair) for pair in pairs]),
        "ssim": _mean([ssim(*pair) for pair in pairs[::SSIM_EVERY]]),
        **{name: _mean(family[name]) for name in FAMILY},
        **_of_pairs(pairs[::SLOW_EVERY], extras),
        **apart,
        "jitter": landmark_jitter(theirs, ours, sequence.cuts),
        "flicker": flicker(originals, pictures, sequence.cuts),
        "warping": 1000 * warping_error(originals, pictures, sequence.cuts),
    }


def judge_frames(sequence: Sequence, way: str, extras: Extras) -> Figures:
    """Compares the whole frames."""
    files = sequence.videos[ORIGINAL], sequence.videos[way], sequence.width, sequence.height
    family = vmaf_family_of_files(*files)
    originals, pictures = (sequence.pictures(name, SLOW_EVERY) for name in (ORIGINAL, way))
    pairs = list(zip(originals, pictures, strict=True))
    return {
        "psnr": _mean(family["psnr_luma"]),
        "ssim": _mean([ssim(*pair) for pair in pairs]),
        **{name: _mean(family[name]) for name in FAMILY},
        "xpsnr": _mean(xpsnr_of_files(*files, sequence.rate)),
        **_of_pairs(pairs, extras),
    }


def _of_pairs(pairs: list[tuple[Picture, Picture]], extras: Extras) -> Figures:
    """Returns the slow figures that faces and frames share."""
    measures: dict[str, Callable[[Picture, Picture], float]] = {
        "st_lpips": lambda original, shown: float(_st_lpips().between(original, shown)),
        "brisque": lambda original, shown: brisque(shown),
        "niqe": lambda original, shown: niqe(shown),
    }
    if extras.lpips:
        measures["lpips"] = _lpips(extras.lpips).between
    return {
        name: _mean([measure(*pair) for pair in pairs])
        for name, measure in measures.items()
        if name not in extras.absent
    }


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
