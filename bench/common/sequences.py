"""Clips through calls: how they are encoded, and how one receiver after the other restores them."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from bench.common.call import Call, Way
from keyframes import Landmarks, Picture
from models.openh264 import OpenH264, through_any_codec
from receiver.enhance.faces.alignment import extract_crop, picture_of, transform
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.tracking import Box, Face
from receiver.media.encoding import Encoding

Protocol: TypeAlias = Literal["none", "call", "paper"]
PROTOCOLS: dict[Protocol, Way] = {"none": "none", "call": "stills", "paper": "raw"}
"""Where references come from: nowhere; what a receiver gets, its stream's good pictures and stills
paid for; raw frames, one a second and free, never the frame's own. And their `Call`."""


@dataclass
class Seen:
    """The nearest face of a clip's frames, as cut out of what was sent, received and restored.

    Attributes:
        pictures: successive 256x256x3 uint8 RGB crops, by 'original', 'input' and protocol. All of
            a frame are cut by one transform, that of the face found on the decoded frame.
        landmarks: of each on the decoded frame, smoothed, 68x2 in crop pixels.
        boxes: of each as the detector frames it, in crop pixels.
        cuts: places of pictures that do not follow the one before them.
        stream_kbps: of the video.
        reference_kbps: of what was sent beside it, by protocol.
    """

    pictures: dict[str, list[Picture]]
    landmarks: list[Landmarks] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    cuts: set[int] = field(default_factory=set)
    stream_kbps: float = 0.0
    reference_kbps: dict[str, float] = field(default_factory=dict)


def watch(
    frames: list[av.VideoFrame],
    rate: Fraction,
    encoding: Encoding | OpenH264,
    generator: Generator,
    protocols: Collection[Protocol],
    min_face: float,
    advance: Callable[[], None],
) -> Seen:
    """Sends frames through an encoder and restores them by each protocol.

    Args:
        min_face: height in pixels of the detector's box below which a face is left out.
        advance: called for each frame.
    """
    calls = {protocol: Call(PROTOCOLS[protocol], generator) for protocol in protocols}
    seen = Seen({name: [] for name in ("original", "input", *protocols)})
    size, last = 0, None
    for index, (raw, decoded, count) in enumerate(through_any_codec(frames, encoding, rate)):
        advance()
        size += count
        now = index / float(rate)
        restored = {name: call.see(now, raw, decoded) for name, call in calls.items()}
        faces = next(iter(calls.values())).enhancer.faces  # all calls find the same
        if not faces or faces[0].box[3] - faces[0].box[1] < min_face:
            continue
        if last != (index - 1, faces[0].track_id):
            seen.cuts.add(len(seen.boxes))
        last = index, faces[0].track_id
        _cut_out(seen, faces[0], {"original": raw, "input": decoded.video, **restored})
    seconds = max(1, len(frames)) / float(rate)
    seen.stream_kbps = _kbps(size, seconds)
    for protocol, call in calls.items():
        seen.reference_kbps[protocol] = _kbps(call.faces.reference_bytes, seconds)
    return seen


def _cut_out(seen: Seen, face: Face, frames: dict[str, av.VideoFrame]) -> None:
    for name, frame in frames.items():
        seen.pictures[name].append(picture_of(extract_crop(frame, face.crop_from_frame)))
    seen.landmarks.append(transform(face.landmarks, face.crop_from_frame))
    seen.boxes.append(_box_in_crop(face))


def _box_in_crop(face: Face) -> NDArray[np.float64]:
    """An upright box of the detector's size about where its box comes to lie."""
    middle = (face.box[:2] + face.box[2:]) / 2
    centre = transform(middle[None].astype(np.float32), face.crop_from_frame)[0]
    scale = math.sqrt(abs(np.linalg.det(face.crop_from_frame[:, :2])))
    half = (face.box[2:] - face.box[:2]) / 2 * scale
    return np.concatenate([centre - half, centre + half])


def _kbps(size_bytes: int, seconds: float) -> float:
    return size_bytes * 8 / 1000 / seconds
