"""Frames side by side, labels in them, and pictures as PNG files."""

from pathlib import Path

import av
import cv2

from keyframes import Picture
from receiver.errors import InputError
from receiver.media.planes import planes
from receiver.safe_files import NewFile


def side_by_side(frames: list[av.VideoFrame], labels: list[str] | None = None) -> av.VideoFrame:
    """yuv420p frames of one even size in a row, with the first one's pts.

    Each has its label, if any, in its upper left corner.
    """
    width, height = frames[0].width, frames[0].height
    row = av.VideoFrame(width * len(frames), height, "yuv420p")
    row.pts = frames[0].pts
    if frames[0].time_base is not None:
        row.time_base = frames[0].time_base
    for index, frame in enumerate(frames):
        for to, of in zip(planes(row), planes(frame), strict=True):
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


def write_picture(path: Path, bgr: Picture) -> None:
    """Writes a PNG that only this user may read. Raises InputError if it cannot be written."""
    data = cv2.imencode(".png", bgr)[1].tobytes()
    try:
        with NewFile(path, private=True) as new:
            new.file.write(data)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def write_label(image: Picture, label: str) -> None:
    """White on dark into the upper left corner of an HxW or HxWx3 picture."""
    image[8:32, 8 : 8 + _label_width(label)] = 32
    cv2.putText(
        image, label, (14, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA
    )


def _label_width(label: str) -> int:
    return int(cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0]) // 2 * 2 + 14
