"""Puts frames side by side, writes labels into them, and saves pictures as PNG files."""

from pathlib import Path
from typing import Any

import av
import cv2
from numpy.typing import NDArray

from receiver.errors import InputError
from receiver.media.fitting import fitted
from receiver.media.planes import planes
from receiver.safe_files import NewFile


def side_by_side(frames: list[av.VideoFrame], labels: list[str] | None = None) -> av.VideoFrame:
    """Returns 4:2:0 8-bit frames in a row as one yuv420p frame, with the first one's pts.

    Each panel has the size of the largest frame, rounded down to even numbers; smaller frames are
    enlarged, with black around them if their shape differs.

    Args:
        labels: written into the upper left corners of the panels; None for no labels.
    """
    width, height = _panel_size(frames)
    row = av.VideoFrame(width * len(frames), height, "yuv420p")
    row.pts = frames[0].pts
    if frames[0].time_base is not None:
        row.time_base = frames[0].time_base
    for index, frame in enumerate(frames):
        panel = fitted(frame, width, height)
        for to, of in zip(planes(row), planes(panel), strict=True):
            step = of.shape[1]
            to[:, index * step : (index + 1) * step] = of
    for index, label in enumerate(labels or ()):
        luma, blue, red = (
            plane[:, index * plane.shape[1] // len(frames) :] for plane in planes(row)
        )
        write_label(luma, label)
        blue[4:16, 4 : 4 + _label_width(label) // 2] = 128
        red[4:16, 4 : 4 + _label_width(label) // 2] = 128
    return row


def write_picture(path: Path, bgr: NDArray[Any]) -> None:
    """Writes a PNG that only this user may read.

    Args:
        bgr: HxWx3, uint8.

    Raises:
        InputError: if the file cannot be written.
    """
    data = cv2.imencode(".png", bgr)[1].tobytes()
    try:
        with NewFile(path, private=True) as new:
            new.file.write(data)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def write_label(image: NDArray[Any], label: str) -> None:
    """Writes white on dark into the upper left corner of an HxW or HxWx3 uint8 picture."""
    image[8:32, 8 : 8 + _label_width(label)] = 32
    cv2.putText(
        image, label, (14, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA
    )


def _panel_size(frames: list[av.VideoFrame]) -> tuple[int, int]:
    """Returns width and height of the largest frame, each rounded down to an even number."""
    largest = max(frames, key=lambda frame: frame.width * frame.height)
    return max(2, largest.width // 2 * 2), max(2, largest.height // 2 * 2)


def _label_width(label: str) -> int:
    """Returns the width of a label's background in pixels, an even number."""
    return int(cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0]) // 2 * 2 + 14
