"""Figures of a clip's faces against the original's."""

from dataclasses import dataclass

import numpy as np

from bench.common.call import ORIGINS, Origin
from bench.common.sequences import FaceSequence
from bench.metrics.faces import identity
from bench.metrics.ffmpeg import vmaf_neg
from bench.metrics.pictures import psnr, ssim
from bench.references.restoring import JUDGED_EVERY

IDENTITY_EVERY = 30
"""Frames from one whose face is judged by identity, which is slow, to the next."""
SSIM_EVERY = 3
"""Judged faces from one that is judged by SSIM to the next."""
FIGURES = ("psnr_db", "ssim", "vmaf_neg", "identity")
"""Fields of `Judged` that are shown as gains over the input."""
SHARED: tuple[Origin, ...] = ("i-frames", "quality", "stills")
"""Origins whose gain is given as a share of that of raw references."""


@dataclass(frozen=True)
class Judged:
    """Means over the faces of one clip.

    Attributes:
        way: origin of the references; 'input' for the received faces.
        faces: their number.
        identity: distance of dlib's embeddings.
        reference_kbps: bitrate of the stills.
    """

    scenario: str
    clip: str
    way: str
    faces: int
    psnr_db: float
    ssim: float
    vmaf_neg: float
    identity: float
    reference_kbps: float


def judge(sequence: FaceSequence, scenario: str, clip: str) -> list[Judged]:
    """Compares the received faces and those of each origin with the original's."""
    originals, landmarks = sequence.pictures["original"], sequence.landmarks
    probes = range(0, len(originals), IDENTITY_EVERY // JUDGED_EVERY)
    known = {i: identity(originals[i], landmarks[i]) for i in probes}
    results = []
    for way in ("input", *ORIGINS):
        pictures = sequence.pictures[way]
        apart = [np.linalg.norm(identity(pictures[i], landmarks[i]) - known[i]) for i in probes]
        pairs = list(zip(originals, pictures, strict=True))
        results.append(
            Judged(
                scenario,
                clip,
                way,
                len(pictures),
                float(np.mean([psnr(*pair) for pair in pairs])),
                float(np.mean([ssim(*pair) for pair in pairs[::SSIM_EVERY]])),
                float(np.mean(vmaf_neg(originals, pictures))),
                float(np.mean(apart)),
                sequence.reference_kbps.get(way, 0.0),
            )
        )
    return results


def mean(results: list[Judged], scenario: str, way: str, figure: str) -> float:
    """Returns the mean over clips of one figure."""
    chosen = [one for one in results if (one.scenario, one.way) == (scenario, way)]
    return float(np.mean([getattr(one, figure) for one in chosen]))


def shares(results: list[Judged]) -> dict[str, dict[str, float]]:
    """Returns each origin's share of the gain of raw references, by scenario and figure."""
    found: dict[str, dict[str, float]] = {}
    for scenario in dict.fromkeys(result.scenario for result in results):
        for figure in ("psnr_db", "vmaf_neg"):
            none = mean(results, scenario, "none", figure)
            raw = mean(results, scenario, "raw", figure) - none
            for origin in SHARED:
                gain = mean(results, scenario, origin, figure) - none
                share = gain / raw if raw else float("nan")
                found.setdefault(f"{scenario}, {figure}", {})[origin] = round(share, 3)
    return found


def worst(results: list[Judged]) -> tuple[Judged, Judged]:
    """Returns the restored clips that lose most against their input, by PSNR and by VMAF-NEG."""
    inputs = {(r.scenario, r.clip): r for r in results if r.way == "input"}
    restored = [r for r in results if r.way in ("quality", "stills")]

    def gain(result: Judged, name: str) -> float:
        return float(getattr(result, name) - getattr(inputs[result.scenario, result.clip], name))

    return (
        min(restored, key=lambda result: gain(result, "psnr_db")),
        min(restored, key=lambda result: gain(result, "vmaf_neg")),
    )
