"""Video files as Chromium's camera."""

import math
from itertools import islice
from pathlib import Path

import av

from bench.chromium.driver import write_y4m
from bench.chromium.sent import CAMERA
from models.prepare import frame_rate, read_frames
from receiver.errors import InputError
from receiver.media.planes import cut_frame
from receiver.sending.portrait import FPS, portrait_frames
from receiver.sending.sources import MAX_RATE

CLIP_SECONDS = 10
"""Seconds from the start of a clip that are used: a raw second takes 14 MB."""


def write_camera(path: Path, clip: Path | None) -> None:
    """Writes the y4m file of a camera that shows a clip; the demo's own one for None.

    Chromium repeats the file. A clip other than the demo's, whose end fits its start, is written
    forward and then backward, because a cut would cost bits that no camera's picture costs. Raises
    InputError for a file that is not a video.
    """
    if clip is None:
        write_y4m(path, list(portrait_frames()), FPS)
        return
    rate = frame_rate(clip)
    every = max(1, math.ceil(rate / MAX_RATE))
    limit = round(CLIP_SECONDS * rate)
    frames = [covering(one) for one in islice(read_frames(clip, limit=limit), 0, None, every)]
    if not frames:
        raise InputError(f"{clip} has no frame that can be decoded: give another clip")
    write_y4m(path, frames + frames[-2:0:-1], rate / every)


def covering(frame: av.VideoFrame) -> av.VideoFrame:
    """Returns a frame scaled to fill `CAMERA`, and cut to its middle."""
    scale = max(side / of for side, of in zip(CAMERA, (frame.width, frame.height), strict=True))
    width, height = (
        max(least, math.ceil(side * scale / 2) * 2)
        for side, least in zip((frame.width, frame.height), CAMERA, strict=True)
    )
    scaled = frame.reformat(width, height, "yuv420p", interpolation="AREA")
    left, top = (width - CAMERA[0]) // 4 * 2, (height - CAMERA[1]) // 4 * 2
    return cut_frame(scaled, left, top, *CAMERA)
