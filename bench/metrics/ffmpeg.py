"""Metrics that FFmpeg measures: the VMAF family by libvmaf, and XPSNR.

Each is measured of two files of raw video, which may be long, or of two lists of pictures. A file
holds 8-bit yuv420p frames without a header; both files have equal numbers of frames.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import cv2
import numpy as np
from numpy.typing import NDArray

from keyframes import Picture
from receiver.errors import InputError

NAMES = {
    "vmaf": "vmaf",
    "vmaf_neg": "vmaf_neg",
    "ms_ssim": "float_ms_ssim",
    "psnr_luma": "psnr_y",
}
"""libvmaf's names of the figures of `vmaf_family`."""
MODELS = {"vmaf": "vmaf_v0.6.1", "vmaf_neg": "vmaf_v0.6.1neg"}
"""VMAF's models: the second does not reward enhancement, such as sharpening."""
MAX_PSNR = 60.0
"""The XPSNR of equal pictures in dB: libvmaf's limit of the PSNR of 8-bit video."""
LUMA = r"n: .*? XPSNR y: +(\S+)"
"""A frame in the log of FFmpeg's filter."""
SMALLEST = 176
"""MS-SSIM needs pictures of this width and height: five scales with a window of 11 pixels."""


def vmaf_family_of_files(
    original: Path, other: Path, width: int, height: int, threads: int = 1, every: int = 1
) -> dict[str, list[float]]:
    """Returns the figures of two raw yuv420p files, a value a measured frame, in one FFmpeg run.

    `vmaf` and `vmaf_neg` are 0 to 100, `ms_ssim` (luma) is at most 1, `psnr_luma` is in dB and at
    most 60. The first frame of each `every` frames is measured; its motion is of all frames.
    Needs imageio-ffmpeg, whose FFmpeg has libvmaf. Raises InputError if the files have not the
    same whole number of frames of that size, or if the frames are too small for MS-SSIM.
    """
    import imageio_ffmpeg

    _count(original, other, width, height)
    if min(width, height) < SMALLEST:
        raise InputError(
            f"MS-SSIM needs at least {SMALLEST}x{SMALLEST} pixels, not {width}x{height}"
        )
    # Within a filter's option a colon is escaped once for the option and once for the graph.
    models = "|".join(rf"version={file}\\:name={name}" for name, file in MODELS.items())
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "vmaf.json"
        graph = (
            f"libvmaf=model={models}:feature=name=float_ms_ssim|name=psnr:n_threads={threads}"
            f":n_subsample={every}:log_fmt=json:log_path={log}"
        )
        raw = f"-f rawvideo -pix_fmt yuv420p -s {width}x{height} -i".split()
        inputs = [*raw, str(other), *raw, str(original)]  # libvmaf takes the original second
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *inputs]
        subprocess.run([*command, "-lavfi", graph, "-f", "null", "-"], check=True)
        frames = [frame["metrics"] for frame in json.loads(log.read_text())["frames"]]
    return {name: [float(frame[key]) for frame in frames] for name, key in NAMES.items()}


def vmaf_family(originals: list[Picture], pictures: list[Picture]) -> dict[str, list[float]]:
    """Returns the figures of `vmaf_family_of_files` of successive pictures, a value a picture."""
    with _raw_files(originals, pictures) as files:
        return vmaf_family_of_files(*files)


def vmaf_neg(originals: list[Picture], pictures: list[Picture]) -> list[float]:
    """Returns VMAF-NEG, 0 to 100, of each of successive pictures."""
    return vmaf_family(originals, pictures)["vmaf_neg"]


def xpsnr_of_files(
    original: Path, other: Path, width: int, height: int, rate: Fraction | float
) -> list[float]:
    """Returns the XPSNR of the luma in dB, at most 60, of each frame of two raw yuv420p files.

    The PSNR of blocks is weighted by how visible an error is beside the original's structure and
    motion (Helmrich et al., ICASSP 2020); motion is judged by the frame rate in fps. Raises
    InputError if the files have not the same whole number of frames of that size.
    """
    shape = (_count(original, other, width, height), height * 3 // 2, width)
    frames = [np.memmap(file, np.uint8, "r", shape=shape) for file in (original, other)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "xpsnr.log"
        _filter_xpsnr(frames, Fraction(rate).limit_denominator(1001), log)
        return [min(float(value), MAX_PSNR) for value in re.findall(LUMA, log.read_text())]


def _filter_xpsnr(frames: Sequence[NDArray[Any]], fps: Fraction, log: Path) -> None:
    """Writes the filter's log of two arrays of frames, n x 3H/2 x W; it is whole on return."""
    height, width = frames[0].shape[1] * 2 // 3, frames[0].shape[2]
    graph = av.filter.Graph()
    size = f"video_size={width}x{height}:pix_fmt=yuv420p"
    times = f"time_base={1 / fps}:frame_rate={fps}"
    sources = [graph.add("buffer", f"{size}:{times}") for _ in frames]
    xpsnr, sink = graph.add("xpsnr", stats_file=str(log)), graph.add("buffersink")
    for i, source in enumerate(sources):  # the original first, other than in libvmaf
        source.link_to(xpsnr, 0, i)
    xpsnr.link_to(sink)
    graph.configure()
    for number, pair in enumerate(zip(*frames, strict=True)):
        for source, planes in zip(sources, pair, strict=True):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, 1 / fps
            source.push(frame)
        sink.pull()


def xpsnr(originals: list[Picture], pictures: list[Picture], rate: Fraction | float) -> list[float]:
    """Returns the figures of `xpsnr_of_files` of successive pictures, a value a picture."""
    with _raw_files(originals, pictures) as files:
        return xpsnr_of_files(*files, rate)


def write_raw(file: Path, pictures: list[Picture]) -> None:
    """Writes HxWx3 uint8 RGB pictures of even sizes as frames of raw yuv420p."""
    with file.open("wb") as opened:
        for picture in pictures:
            opened.write(cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420).tobytes())


@contextmanager
def _raw_files(
    originals: list[Picture], pictures: list[Picture]
) -> Iterator[tuple[Path, Path, int, int]]:
    """Gives the raw files of both lists, and the width and height."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "originals.yuv", Path(folder) / "pictures.yuv"
        write_raw(files[0], originals)
        write_raw(files[1], pictures)
        height, width = originals[0].shape[:2]
        yield *files, width, height


def _count(original: Path, other: Path, width: int, height: int) -> int:
    """Returns the number of frames of both files."""
    if width % 2 or height % 2 or min(width, height) < 2:
        raise InputError(f"yuv420p needs an even width and height, not {width}x{height}")
    for file in (original, other):
        if not file.is_file():
            raise InputError(f"{file} is not a file")
    sizes = original.stat().st_size, other.stat().st_size
    frame = width * height * 3 // 2
    if sizes[0] != sizes[1] or not sizes[0] or sizes[0] % frame:
        raise InputError(
            f"{original} and {other} must hold the same number of {width}x{height} frames "
            f"of {frame} bytes: they have {sizes[0]} and {sizes[1]} bytes"
        )
    return sizes[0] // frame
