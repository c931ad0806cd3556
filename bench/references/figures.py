"""What the faces of a clip are worth against the original's."""

from dataclasses import dataclass

import numpy as np

from bench.common.call import WAYS, Faces
from bench.common.metrics import identity, psnr, ssim, vmaf_neg
from bench.references.restoring import JUDGED_EVERY
from bench.references.scenarios import Scenario
from keyframes import Landmarks, Picture

IDENTITY_EVERY = 30
"""Frames from one whose face is judged by identity, which is slow, to the next."""


@dataclass(frozen=True)
class Judged:
    """Means over the faces of one clip; `way` is 'input' for the pictures as received."""

    scenario: str
    clip: str
    way: str
    faces: int
    psnr_db: float
    ssim: float
    vmaf_neg: float
    identity: float
    reference_kbps: float


def judge(seen: dict[str, Faces], scenario: Scenario, clip: str, seconds: float) -> list[Judged]:
    """Every way's faces against the original's."""
    originals: list[Picture] = seen["original"].pictures
    landmarks: list[Landmarks] = seen["landmarks"].pictures
    probes = range(0, len(originals), IDENTITY_EVERY // JUDGED_EVERY)
    known = {i: identity(originals[i], landmarks[i]) for i in probes}
    results = []
    for way in ("input", *WAYS):
        pictures = seen[way].pictures
        apart = [np.linalg.norm(identity(pictures[i], landmarks[i]) - known[i]) for i in probes]
        pairs = list(zip(originals, pictures, strict=True))
        results.append(
            Judged(
                scenario.name,
                clip,
                way,
                len(pictures),
                float(np.mean([psnr(*pair) for pair in pairs])),
                float(np.mean([ssim(*pair) for pair in pairs[::3]])),
                float(np.mean(vmaf_neg(originals, pictures))),
                float(np.mean(apart)),
                seen[way].reference_bytes * 8 / 1000 / seconds,
            )
        )
    return results


FIGURES = ("psnr_db", "ssim", "vmaf_neg", "identity")


def mean(results: list[Judged], name: str) -> float:
    """Mean over clips of one figure."""
    return float(np.mean([getattr(result, name) for result in results]))


def shares(results: list[Judged]) -> dict[str, dict[str, float]]:
    """What part of the raw references' gain over no reference each way reaches, by scenario."""
    found: dict[str, dict[str, float]] = {}
    for scenario in dict.fromkeys(result.scenario for result in results):
        for figure in ("psnr_db", "vmaf_neg"):
            by_way = {
                way: mean([r for r in results if (r.scenario, r.way) == (scenario, way)], figure)
                for way in WAYS
            }
            raw = by_way["raw"] - by_way["none"]
            for way in ("i-frames", "quality", "stills"):
                share = (by_way[way] - by_way["none"]) / raw if raw else float("nan")
                found.setdefault(f"{scenario}, {figure}", {})[way] = round(share, 3)
    return found


def worst(results: list[Judged]) -> tuple[Judged, Judged]:
    """The restored clips that fare worst against their input, by PSNR and by VMAF-NEG."""
    inputs = {(r.scenario, r.clip): r for r in results if r.way == "input"}
    restored = [r for r in results if r.way in ("quality", "stills")]

    def loss(result: Judged, name: str) -> float:
        return float(getattr(result, name) - getattr(inputs[result.scenario, result.clip], name))

    return (
        min(restored, key=lambda result: loss(result, "psnr_db")),
        min(restored, key=lambda result: loss(result, "vmaf_neg")),
    )
