"""The work of one job of the quality bench."""

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.common.call import PROTOCOLS, Call
from bench.common.jobs import Captured, generator
from bench.common.senders import sender_of
from bench.common.sequences import ORIGINAL, RECEIVED, Sequence, watch
from bench.quality.judging import Extras, judge
from bench.rivals.naming import rivals_of
from keyframes import Picture


def measure(
    encoding: str,
    model: str,
    rivals: tuple[str, ...],
    extras: Extras,
    min_face: float,
    strips: Path,
    clip: Captured,
    folder: Path,
) -> dict[str, Any]:
    """Sends a clip, restores it by each protocol and judges what is seen.

    Args:
        encoding: name of the sender.
        model: name or file of the generator.
        rivals: other ways to enlarge the received frames, see `bench.rivals`.
        extras: networks of metrics.
        min_face: height in pixels of the detector's box; below it a clip is left out.
        strips: a folder; a strip of the middle frame and face is written to it as PNG.
        clip: the captured frames.
        folder: for large files.

    Returns:
        The number of faces and frames, the size sent, its QP, bitrate and figures by
        way, and the name of the strip.
        Without a large enough face the ways are empty.
    """
    if not clip.frames or clip.face_height < min_face:
        return {"faces": 0, "frames": 0, "sent": [0, 0], "qp": None, "ways": {}}
    opened = generator(model)
    calls = {
        f"{opened.model.name} {name}": Call(origin, opened) for name, origin in PROTOCOLS.items()
    }
    sent = sender_of(encoding).send(clip.frames, clip.rate)
    shown = {one.name: one for one in rivals_of(rivals, threads=1)}
    sequence = watch(sent, clip.rate, clip.faces, calls, folder, rivals=shown)
    ways = {}
    for way, figures in judge(sequence, (RECEIVED, *calls, *shown), extras).items():
        kbps = sequence.stream_kbps + sequence.reference_kbps.get(way, 0.0)
        ways[way] = {"kbps": kbps, **figures}
    picture = strip(sequence)
    name = f"{hashlib.sha256(picture.tobytes()).hexdigest()[:16]}.png"
    cv2.imwrite(str(strips / name), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return {
        "strip": name,
        "faces": len(sequence.boxes),
        "frames": sequence.frames,
        "sent": list(sequence.sent_size),
        "qp": sequence.qp,
        "ways": ways,
    }


def strip(sequence: Sequence) -> Picture:
    """Returns the middle frame with the middle face below it, for each way, side by side."""
    face = len(sequence.boxes) // 2
    middle = max(1, sequence.frames // 2)
    columns = []
    for way in (ORIGINAL, *(name for name in sequence.videos if name != ORIGINAL)):
        frame = sequence.pictures(way, middle)[-1]
        crop = cv2.resize(sequence.faces[way][face], (frame.shape[1], frame.shape[1]))
        columns.append(np.vstack([frame, crop]))
    return np.hstack(columns)
