"""The nearest face of a clip's frames: as sent, received, and restored by several receivers."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import compress
from typing import Literal, TypeAlias

import av
import numpy as np
from numpy.typing import NDArray

from bench.common.call import Call, Origin
from keyframes import Landmarks, Picture
from models.openh264 import OpenH264, through_any_codec
from receiver.enhance.faces.alignment import extract_crop, picture_of, transform
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.tracking import Face
from receiver.media.encoding import Encoding
from receiver.media.frame import Box

Protocol: TypeAlias = Literal["none", "call", "paper"]
PROTOCOLS: dict[Protocol, Origin] = {"none": "none", "call": "stills", "paper": "raw"}
"""The `Origin` of references by protocol: none; as in a call, good frames of the stream and stills
whose bits count; as in the paper, raw frames."""


@dataclass
class FaceSequence:
    """The nearest face of successive frames.

    Attributes:
        pictures: 256x256x3 uint8 RGB crops by name: 'original', 'input' and one name for each
            receiver. The transform of the decoded frame's face cuts all crops of a frame.
        landmarks: 68x2 in crop pixels, of the decoded frames, smoothed.
        boxes: the detector's boxes in crop pixels.
        cuts: indices of pictures that do not follow their predecessor in time.
        stream_kbps: bitrate of the video.
        reference_kbps: bitrate of what was sent in addition to the video, by receiver.
    """

    pictures: dict[str, list[Picture]]
    landmarks: list[Landmarks] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    cuts: set[int] = field(default_factory=set)
    stream_kbps: float = 0.0
    reference_kbps: dict[str, float] = field(default_factory=dict)

    def add(self, face: Face, frames: dict[str, av.VideoFrame]) -> None:
        """Cuts a face of the decoded frame out of the frames of all names."""
        for name, frame in frames.items():
            self.pictures[name].append(picture_of(extract_crop(frame, face.crop_from_frame)))
        self.landmarks.append(transform(face.landmarks, face.crop_from_frame))
        self.boxes.append(_box_in_crop(face))

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Drops the faces for which `kept` is false."""
        self.pictures = {name: list(compress(one, kept)) for name, one in self.pictures.items()}
        self.landmarks = list(compress(self.landmarks, kept))
        self.boxes = list(compress(self.boxes, kept))


def send_and_restore(
    frames: list[av.VideoFrame],
    rate: Fraction,
    encoding: Encoding | OpenH264,
    generator: Generator,
    protocols: Collection[Protocol],
    min_face: float,
    advance: Callable[[], None],
) -> FaceSequence:
    """Sends frames through an encoder and restores their faces by each protocol.

    Args:
        rate: frames a second.
        min_face: height in pixels of the detector's box below which a face is left out.
        advance: called for each frame.
    """
    calls = {protocol: Call(PROTOCOLS[protocol], generator) for protocol in protocols}
    sequence = FaceSequence({name: [] for name in ("original", "input", *protocols)})
    size, last = 0, None
    for index, (raw, decoded, count) in enumerate(through_any_codec(frames, encoding, rate)):
        advance()
        size += count
        now = index / float(rate)
        restored: dict[str, av.VideoFrame] = {}
        for name, call in calls.items():
            enhanced = call.see(now, raw, decoded)
            restored[name], faces = enhanced.video, enhanced.faces  # all calls find the same faces
        if not faces or faces[0].box[3] - faces[0].box[1] < min_face:
            continue
        if last != (index - 1, faces[0].track_id):
            sequence.cuts.add(len(sequence.boxes))
        last = index, faces[0].track_id
        sequence.add(faces[0], {"original": raw, "input": decoded.video, **restored})
    seconds = max(1, len(frames)) / float(rate)
    sequence.stream_kbps = kbps_of_bytes(size, seconds)
    for protocol, call in calls.items():
        sequence.reference_kbps[protocol] = kbps_of_bytes(call.reference_bytes, seconds)
    return sequence


def kbps_of_bytes(size_bytes: int, seconds: float) -> float:
    """Returns the bitrate in kbit/s of `size_bytes` sent in `seconds`."""
    return size_bytes * 8 / 1000 / seconds


def _box_in_crop(face: Face) -> NDArray[np.float64]:
    """Returns an upright box of the detector's size around the centre of its box in the crop."""
    middle = (face.box[:2] + face.box[2:]) / 2
    centre = transform(middle[None].astype(np.float32), face.crop_from_frame)[0]
    scale = math.sqrt(abs(np.linalg.det(face.crop_from_frame[:, :2])))
    half = (face.box[2:] - face.box[:2]) / 2 * scale
    return np.concatenate([centre - half, centre + half])
