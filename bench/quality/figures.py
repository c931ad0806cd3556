"""Figures of restored faces, by clip and as means over clips."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.common.jobs import Job
from bench.common.sequences import PROTOCOLS, FaceSequence
from bench.metrics.brisque import brisque, brisque_problem
from bench.metrics.faces import find_landmarks, identity
from bench.metrics.ffmpeg import vmaf_family
from bench.metrics.motion import flicker, landmark_jitter
from bench.metrics.people import bootstrap_interval
from bench.metrics.pictures import psnr, ssim

if TYPE_CHECKING:
    from bench.metrics.lpips import LPIPS

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
"""Label and format of each metric."""
SSIM_EVERY, IDENTITY_EVERY, LEARNED_EVERY = 3, 30, 6
"""Slow metrics measure every third, thirtieth and sixth face; the others measure all faces."""

Figures = dict[str, float | None]
"""Means by metric; None for a metric that was not measured."""


@dataclass(frozen=True)
class Row:
    """Means over the faces of one clip.

    Attributes:
        model: the generator's name; '' for received faces.
        way: the protocol; 'input' for received faces.
        faces: their number.
        kbps: bitrate of the stream and of what was sent in addition.
    """

    clip: str
    encoding: str
    model: str
    way: str
    faces: int
    kbps: float
    figures: Figures

    @property
    def name(self) -> str:
        """Model and protocol, as in the header of a table's column."""
        return f"{self.model} {self.way}".strip()


def judge(sequence: FaceSequence, way: str, lpips: "LPIPS | None") -> Figures:
    """Compares the faces of `way`, 'input' or a protocol, with the original's."""
    originals, pictures = sequence.pictures["original"], sequence.pictures[way]
    pairs = list(zip(originals, pictures, strict=True))
    theirs, ours = (
        [find_landmarks(*one) for one in zip(crops, sequence.boxes, strict=True)]
        for crops in (originals, pictures)
    )
    apart = [
        np.linalg.norm(identity(a, points) - identity(b, points))
        for (a, b), points in list(zip(pairs, sequence.landmarks, strict=True))[::IDENTITY_EVERY]
    ]
    some = pairs[::LEARNED_EVERY]
    family = vmaf_family(originals, pictures)
    return {
        "psnr": _mean([psnr(*pair) for pair in pairs]),
        "ssim": _mean([ssim(*pair) for pair in pairs[::SSIM_EVERY]]),
        **{name: _mean(values) for name, values in family.items()},
        "brisque": None if brisque_problem() else _mean([brisque(one) for _, one in some]),
        "identity": _mean(apart),
        "jitter": landmark_jitter(theirs, ours, sequence.cuts),
        "flicker": flicker(originals, pictures, sequence.cuts),
        "lpips": _mean([lpips.between(*pair) for pair in some]) if lpips else None,
    }


def _mean(values: Any) -> float:
    return float(np.mean(values))


def result_of(sequence: FaceSequence, lpips: "LPIPS | None") -> dict[str, Any]:
    """Returns a job's result: the number of faces, and bitrate and figures by way."""
    faces = len(sequence.boxes)
    ways = {}
    for way in ("input", *PROTOCOLS) if faces else ():
        kbps = sequence.stream_kbps + sequence.reference_kbps.get(way, 0.0)
        ways[way] = {"kbps": kbps, "figures": judge(sequence, way, lpips)}
    return {"faces": faces, "ways": ways}


def rows_of(job: Job, result: dict[str, Any]) -> list[Row]:
    """Returns the rows of a finished job; that of the input is equal for every model."""
    return [
        Row(
            job.key["clip"],
            job.key["encoding"],
            "" if way == "input" else job.generator.model.name,
            way,
            result["faces"],
            found["kbps"],
            found["figures"],
        )
        for way, found in result["ways"].items()
    ]


@dataclass(frozen=True)
class Mean:
    """One metric of one encoding, averaged over clips, with 95 % intervals.

    Attributes:
        name: model and protocol, as `Row.name`.
        clips: their number.
        gain: mean of the clips' gains over the input.
    """

    encoding: str
    name: str
    metric: str
    clips: int
    mean: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]


def means_of(rows: list[Row]) -> list[Mean]:
    """Returns a mean for each encoding, name and measured metric; intervals resample the clips."""
    inputs = {(row.encoding, row.clip): row for row in rows if row.way == "input"}
    means = []
    for encoding, name in dict.fromkeys((row.encoding, row.name) for row in rows):
        chosen = [row for row in rows if (row.encoding, row.name) == (encoding, name)]
        for metric in METRICS:
            values, gains = [], []
            for row in chosen:
                value, before = row.figures[metric], inputs[encoding, row.clip].figures[metric]
                if value is not None and before is not None:
                    values.append(value)
                    gains.append(value - before)
            if len(values) < len(chosen):
                continue
            mean, gain = _mean(values), _mean(gains)
            intervals = bootstrap_interval(values), bootstrap_interval(gains)
            means.append(
                Mean(encoding, name, metric, len(chosen), mean, intervals[0], gain, intervals[1])
            )
    return means
