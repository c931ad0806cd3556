"""Figures of restored faces, by clip and as means over clips."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.common.learned import LPIPS, brisque, brisque_problem
from bench.common.metrics import (
    bootstrap_interval,
    find_landmarks,
    flicker,
    identity,
    landmark_jitter,
    psnr,
    ssim,
    vmaf_family,
)
from bench.common.sequences import PROTOCOLS, Seen

METRICS = {
    "psnr": ("PSNR dB, up", ".2f"),
    "ssim": ("SSIM, up", ".3f"),
    "ms_ssim": ("MS-SSIM, up", ".4f"),
    "vmaf": ("VMAF, up", ".1f"),
    "vmaf_neg": ("VMAF-NEG, up", ".1f"),
    "brisque": ("BRISQUE, down", ".1f"),
    "identity": ("identity distance, down", ".3f"),
    "jitter": ("landmark jitter px, down", ".2f"),
    "flicker": ("flicker, 1 is the original's", ".2f"),
    "lpips": ("LPIPS, down", ".3f"),
}
"""Label and format of each figure of a row."""


SSIM_EVERY, IDENTITY_EVERY, LEARNED_EVERY = 3, 30, 6
"""Faces judged by what is slow: every how manyth; by all else, each."""


Figures = dict[str, float | None]


@dataclass(frozen=True)
class Row:
    """Means over the faces of one clip; `model` is '' and `way` 'input' for them as received."""

    clip: str
    encoding: str
    model: str
    way: str
    faces: int
    kbps: float  # of the stream and of what was sent beside it
    figures: Figures

    @property
    def name(self) -> str:
        """Whose pictures they are: a table's column."""
        return f"{self.model} {self.way}".strip()


def judge(seen: Seen, way: str, lpips: LPIPS | None) -> Figures:
    """The faces of one way ('input' or a protocol) against the original's."""
    originals, pictures = seen.pictures["original"], seen.pictures[way]
    pairs = list(zip(originals, pictures, strict=True))
    found = [
        [find_landmarks(*one) for one in zip(those, seen.boxes, strict=True)]
        for those in (originals, pictures)
    ]
    apart = [
        np.linalg.norm(identity(a, points) - identity(b, points))
        for (a, b), points in list(zip(pairs, seen.landmarks, strict=True))[::IDENTITY_EVERY]
    ]
    some = pairs[::LEARNED_EVERY]
    family = vmaf_family(originals, pictures)
    return {
        "psnr": _mean([psnr(*pair) for pair in pairs]),
        "ssim": _mean([ssim(*pair) for pair in pairs[::SSIM_EVERY]]),
        **{name: _mean(values) for name, values in family.items()},
        "brisque": None if brisque_problem() else _mean([brisque(one) for _, one in some]),
        "identity": _mean(apart),
        "jitter": landmark_jitter(*found, seen.cuts),
        "flicker": flicker(originals, pictures, seen.cuts),
        "lpips": _mean([lpips.between(*pair) for pair in some]) if lpips else None,
    }


def _mean(values: Any) -> float:
    return float(np.mean(values))


def result_of(seen: Seen, lpips: LPIPS | None) -> dict[str, Any]:
    """What is kept of a job: its faces' number, and kb/s and figures by way."""
    faces = len(seen.boxes)
    ways = {}
    for way in ("input", *PROTOCOLS) if faces else ():
        kbps = seen.stream_kbps + seen.reference_kbps.get(way, 0.0)
        ways[way] = {"kbps": kbps, "figures": judge(seen, way, lpips)}
    return {"faces": faces, "ways": ways}


def rows_of(job: dict[str, Any], model: str, result: dict[str, Any]) -> list[Row]:
    """A finished job's rows; the input's is alike for every model."""
    return [
        Row(
            job["clip"],
            job["encoding"],
            "" if way == "input" else model,
            way,
            result["faces"],
            found["kbps"],
            found["figures"],
        )
        for way, found in result["ways"].items()
    ]


@dataclass(frozen=True)
class Mean:
    """Over the clips of one encoding, one metric: with 95 % interval, and as gain of each clip."""

    encoding: str
    name: str
    metric: str
    clips: int
    mean: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]


def means_of(rows: list[Row]) -> list[Mean]:
    """Of each encoding, way and metric that was measured; intervals resample the clips."""
    inputs = {(row.encoding, row.clip): row for row in rows if row.way == "input"}
    means = []
    for encoding, name in dict.fromkeys((row.encoding, row.name) for row in rows):
        chosen = [row for row in rows if (row.encoding, row.name) == (encoding, name)]
        for metric in METRICS:
            values = [row.figures[metric] for row in chosen]
            if None in values:
                continue
            before = [inputs[encoding, row.clip].figures[metric] for row in chosen]
            gains = np.subtract(values, before)
            summary = _mean(values), bootstrap_interval(values), _mean(gains)
            summary = (*summary, bootstrap_interval(gains))
            means.append(Mean(encoding, name, metric, len(chosen), *summary))
    return means
