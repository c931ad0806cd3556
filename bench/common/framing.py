"""Clips as a camera captures them: 640x480 around the face, or 480x640 upright."""

import math
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from models.prepare import frame_rate, read_frames
from receiver.enhance.faces.tracking import Face, FaceTracker
from receiver.errors import InputError
from receiver.media.files.reading import ENDINGS
from receiver.media.planes import cut_frame, planes

VIEW = (640, 480)
"""Width and height of a camera's frames in pixels, at most; a phone held upright has 480x640."""
MOST_ENLARGED = 4 / 3
"""How much a small clip may be enlarged to fill the view; more would look soft."""
FACE = 220.0
"""Height in pixels of the detector's box to which a larger face is reduced, if there is room."""
FASTEST = 31
"""Most frames a second; of a faster clip every second frame is used, or every third and so on."""
SEARCHED = 30
"""First frames of a clip in which the face is searched for."""


def clips_in(folder: Path) -> list[Path]:
    """Returns the videos of a folder, sorted by name. Raises InputError if there are none."""
    found = folder.glob("*") if folder.is_dir() else ()
    clips = sorted(path for path in found if path.suffix.lower() in ENDINGS)
    if not clips:
        endings = ", ".join(sorted(ENDINGS))
        raise InputError(f"no videos in {folder}: give a folder that holds clips ({endings})")
    return clips


def framed(clip: Path, seconds: float) -> tuple[list[av.VideoFrame], Fraction]:
    """Returns `camera_view` of a clip. Raises InputError for a file that is not a video."""
    try:
        return camera_view(clip, seconds)
    except InputError as error:
        raise InputError(f"{error}, or remove it") from error


def camera_view(path: Path, seconds: float) -> tuple[list[av.VideoFrame], Fraction]:
    """Returns the first `seconds` of a clip as a camera captures them, and their frame rate.

    A shorter clip gives fewer frames: none is played twice or backward, because then a later frame
    could be restored with itself as its reference. Without a face there are no frames.
    """
    rate = frame_rate(path)
    every = max(1, math.ceil(rate / FASTEST))
    rate /= every
    frames = list(islice(read_frames(path, limit=round(seconds * rate) * every), 0, None, every))
    tracker, boxes = FaceTracker(), []
    for frame in frames[:SEARCHED]:
        boxes += [face.box for face in tracker.track(planes(frame)[0])[:1]]
    if not boxes:
        return [], rate
    box = np.median(boxes, axis=0)
    first = frames[0]
    view = VIEW if first.width >= first.height else VIEW[::-1]
    scale = scale_of((first.width, first.height), view, float(box[3] - box[1]))
    return [cut(frame, scale, (box[:2] + box[2:]) / 2, view) for frame in frames], rate


def scale_of(size: tuple[int, int], view: tuple[int, int], face: float) -> float:
    """Returns by how much a clip is enlarged (above 1) or reduced before the view is cut out of it.

    Reduces a face that is higher than `FACE`, but the clip still has to fill the view: a camera has
    a whole room to send, and a call is not as easy as a close-up. Enlarges a clip that is a little
    smaller than the view; one that is far smaller stays as it is, a smaller camera.

    Args:
        size: width and height of the clip in pixels.
        view: those of the view.
        face: height of the detector's box in pixels.
    """
    filling = max(part / whole for part, whole in zip(view, size, strict=True))
    reduced = min(1.0, FACE / face)
    return max(reduced, filling) if filling <= MOST_ENLARGED else reduced


def cut(
    frame: av.VideoFrame, scale: float, centre: NDArray[np.float64], view: tuple[int, int]
) -> av.VideoFrame:
    """Returns a frame in another size, cut to at most `view` around a point.

    Args:
        scale: by which the frame is enlarged or reduced.
        centre: x and y in pixels of the whole frame.
        view: width and height in pixels.
    """
    width, height = (round(side * scale / 2) * 2 for side in (frame.width, frame.height))
    scaled = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")
    size = min(view[0], width), min(view[1], height)
    left, top = (
        min(int(max(0.0, place * scale - side / 2)) // 2 * 2, whole - side)
        for place, side, whole in zip(centre, size, (width, height), strict=True)
    )
    return cut_frame(scaled, left, top, *size)


def nearest_faces(frames: list[av.VideoFrame]) -> list[Face | None]:
    """Returns the nearest face of each frame; None for a frame without one."""
    tracker = FaceTracker()
    return [next(iter(tracker.track(planes(frame)[0])), None) for frame in frames]
