"""The figures that all benches of quality share."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bench.common.jobs import Job
from bench.common.sequences import ORIGINAL, Sequence
from bench.metrics.ffmpeg import vmaf_family_of_files, vmaf_neg
from bench.metrics.pictures import psnr

VMAF_EVERY = 3
"""Whole frames from one that VMAF measures to the next."""
BASIC = {
    "face_vmaf_neg": "VMAF-NEG of the face",
    "face_psnr": "PSNR of the face, dB",
    "frame_vmaf_neg": "VMAF-NEG of the whole frame",
    "frame_psnr": "PSNR of the whole frame, dB",
}
"""Labels of `basic_figures` by name."""


def left_out(jobs: Iterable[Job], where: str = "") -> str:
    """Returns a sentence that names the clips without figures, or '' if all clips have figures."""
    clips = ", ".join(dict.fromkeys(job.clip.name for job in jobs))
    return f"left out{where}, too short or without a large enough face: {clips}" if clips else ""


def basic_figures(sequence: Sequence, way: str) -> dict[str, float]:
    """Returns means over faces and frames for one way to show them, by the names of `BASIC`.

    PSNR is of all three channels for faces, and of the luma for whole frames.
    """
    originals, pictures = sequence.faces[ORIGINAL], sequence.faces[way]
    pairs = zip(originals, pictures, strict=True)
    files = sequence.videos[ORIGINAL], sequence.videos[way], sequence.width, sequence.height
    frames = vmaf_family_of_files(*files, every=VMAF_EVERY)
    return {
        "face_vmaf_neg": _mean(vmaf_neg(originals, pictures)),
        "face_psnr": _mean([psnr(*pair) for pair in pairs]),
        "frame_vmaf_neg": _mean(frames["vmaf_neg"]),
        "frame_psnr": _mean(frames["psnr_luma"]),
    }


def _mean(values: Any) -> float:
    return float(np.mean(values))
