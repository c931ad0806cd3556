"""Clips framed as a call shows them: 640x480 around the face."""

from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from models.prepare import frame_rate, read_frames
from receiver.enhance.faces.tracking import FaceTracker
from receiver.errors import InputError
from receiver.media.files.reading import ENDINGS
from receiver.media.planes import cut_frame, planes

VIEW = (640, 480)
"""Width and height of a call's picture."""


FACE = 220.0
"""Height in pixels of the detector's box that a larger face is shrunk to."""


def call_view(path: Path, seconds: float) -> tuple[list[av.VideoFrame], Fraction]:
    """A clip as a call shows it, forward and backward until it lasts; and its frame rate."""
    rate, every = frame_rate(path), 1
    if rate > 31:
        rate, every = rate / 2, 2
    frames = list(islice(read_frames(path, limit=round(seconds * rate) * every), 0, None, every))
    tracker, boxes = FaceTracker(), []
    for frame in frames[:30]:
        boxes += [face.box for face in tracker.track(planes(frame)[0])[:1]]
    if not boxes:
        return [], rate
    box = np.median(boxes, axis=0)
    scale = min(1.0, FACE / (box[3] - box[1]))
    view = [cut(frame, scale, (box[:2] + box[2:]) / 2) for frame in frames]
    there_and_back = view + view[-2:0:-1]
    wanted = round(seconds * rate)
    return [there_and_back[i % len(there_and_back)] for i in range(wanted)], rate


def cut(frame: av.VideoFrame, scale: float, centre: np.ndarray[Any, Any]) -> av.VideoFrame:
    width, height = (int(side * scale) // 2 * 2 for side in (frame.width, frame.height))
    shrunk = frame.reformat(width, height, "yuv420p")
    size = min(VIEW[0], width), min(VIEW[1], height)
    left, top = (
        int(max(0.0, place * scale - side / 2)) // 2 * 2
        for place, side in zip(centre, size, strict=True)
    )
    return cut_frame(shrunk, left, top, *size)


def clips_in(folder: Path) -> list[Path]:
    """The videos of a folder by name. Raises InputError without one."""
    found = folder.glob("*") if folder.is_dir() else ()
    clips = sorted(path for path in found if path.suffix.lower() in ENDINGS)
    if not clips:
        endings = ", ".join(sorted(ENDINGS))
        raise InputError(f"no videos in {folder}: give a folder that holds clips ({endings})")
    return clips


def framed(clip: Path, seconds: float) -> tuple[list[av.VideoFrame], Fraction]:
    """`call_view` of a clip. Raises InputError for one that is no video."""
    try:
        return call_view(clip, seconds)
    except InputError as error:
        raise InputError(f"{error}, or remove it") from error
