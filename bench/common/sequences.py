"""What viewers see of a clip: as captured, as received, and restored by several receivers."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from numpy.typing import NDArray

from bench.common.call import Call
from keyframes import Landmarks, Picture
from receiver.enhance.faces.alignment import extract_crop, picture_of, transform
from receiver.enhance.faces.tracking import Face
from receiver.media.frame import Box, DecodedFrame

ORIGINAL, RECEIVED = "original", "received"
"""Names of the captured frames, and of the received ones enlarged by bicubic interpolation."""


class Enlarger(Protocol):
    """Another way to show a small received frame at full size."""

    def show(self, frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
        """Returns a yuv420p frame of this size in pixels."""


@dataclass
class Sequence:
    """Successive frames in the camera's size, under the name of each way to show them.

    The faces are those of the captured frames, so that all ways, encodings and models are judged by
    the same ones, found by the receiver or not.

    Attributes:
        videos: files of raw yuv420p frames by name.
        faces: 256x256x3 uint8 RGB crops of the nearest face by name, of the frames with a face.
        width: of the frames in pixels.
        height: of the frames in pixels.
        rate: frames a second.
        frames: their number.
        sent_size: width and height of the received frames.
        qp: their mean QP; None if unknown.
        landmarks: 68x2 in crop pixels, of the captured frames, smoothed.
        boxes: the detector's boxes in crop pixels.
        cuts: indices of faces that do not follow their predecessor in time, or are of another
            track.
        stream_kbps: bitrate of the video.
        reference_kbps: bitrate of what was sent in addition to the video, by receiver.
    """

    videos: dict[str, Path]
    width: int
    height: int
    rate: Fraction
    faces: dict[str, list[Picture]] = field(default_factory=dict)
    frames: int = 0
    sent_size: tuple[int, int] = (0, 0)
    qp: float | None = None
    landmarks: list[Landmarks] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    cuts: set[int] = field(default_factory=set)
    stream_kbps: float = 0.0
    reference_kbps: dict[str, float] = field(default_factory=dict)

    def pictures(self, name: str, every: int) -> list[Picture]:
        """Reads every n-th whole frame, HxWx3 uint8 RGB."""
        size = self.width * self.height * 3 // 2
        found = []
        with self.videos[name].open("rb") as file:
            for index in range(0, self.frames, every):
                file.seek(index * size)
                planes = np.frombuffer(file.read(size), np.uint8).reshape(-1, self.width)
                frame = av.VideoFrame.from_ndarray(planes, "yuv420p")
                found.append(frame.to_ndarray(format="rgb24"))
        return found


def enlarged(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """Returns a frame in another size, by bicubic interpolation; itself if the size is the same."""
    return frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")


def watch(
    sent: Iterable[tuple[av.VideoFrame, DecodedFrame, int]],
    rate: Fraction,
    faces: list[Face | None],
    calls: Mapping[str, Call],
    folder: Path,
    *,
    rivals: Mapping[str, Enlarger] | None = None,
    is_judged: Callable[[int], bool] = lambda index: True,
    advance: Callable[[], None] = lambda: None,
) -> Sequence:
    """Shows received frames in every way, and returns those that are judged.

    Args:
        sent: each captured frame, the frame decoded for it, and its size in bytes.
        rate: frames a second.
        faces: the nearest face of each captured frame.
        calls: receivers by name.
        folder: an empty folder for the videos.
        rivals: other ways to enlarge the received frame, by name.
        is_judged: whether the frame with this index is judged; all are received and restored.
        advance: called for each frame.
    """
    sequence: Sequence | None = None
    size_bytes, count, last, qps = 0, 0, (-2, -1), []
    with ExitStack() as files:
        for index, (raw, decoded, packet_bytes) in enumerate(sent):
            advance()
            size_bytes, count = size_bytes + packet_bytes, count + 1
            shown = {ORIGINAL: raw, RECEIVED: decoded.video}
            for name, call in calls.items():
                shown[name] = call.see(index / float(rate), raw, decoded).video
            size = raw.width, raw.height
            if not is_judged(index):
                continue
            shown = {name: enlarged(frame, *size) for name, frame in shown.items()}
            for name, rival in (rivals or {}).items():
                shown[name] = rival.show(decoded.video, *size)
            if sequence is None:
                videos = {name: folder / f"{number}.yuv" for number, name in enumerate(shown)}
                sequence = Sequence(videos, *size, rate, {name: [] for name in shown})
                opened = {n: files.enter_context(path.open("wb")) for n, path in videos.items()}
            for name, frame in shown.items():
                opened[name].write(frame.to_ndarray(format="yuv420p").tobytes())
            sequence.frames += 1
            sequence.sent_size = decoded.video.width, decoded.video.height
            qps += [decoded.qp] if decoded.qp is not None else []
            face = faces[index]
            if face is not None:
                if last != (index - 1, face.track_id):
                    sequence.cuts.add(len(sequence.boxes))
                last = index, face.track_id
                _add_face(sequence, face, shown)
    if sequence is None:
        raise ValueError("no frame is judged")
    sequence.qp = float(np.mean(qps)) if qps else None
    sequence.stream_kbps = kbps_of_bytes(size_bytes, count / float(rate))
    for name, call in calls.items():
        sequence.reference_kbps[name] = kbps_of_bytes(call.reference_bytes, count / float(rate))
    return sequence


def _add_face(sequence: Sequence, face: Face, shown: Mapping[str, av.VideoFrame]) -> None:
    """Cuts a face of the captured frame out of the frames of all names."""
    for name, frame in shown.items():
        sequence.faces[name].append(picture_of(extract_crop(frame, face.crop_from_frame)))
    sequence.landmarks.append(transform(face.landmarks, face.crop_from_frame))
    sequence.boxes.append(_box_in_crop(face))


def keep_faces(sequence: Sequence, kept: Collection[int]) -> None:
    """Drops the faces whose index is not in `kept`; the whole frames stay."""
    chosen = sorted(kept)
    sequence.faces = {name: [one[i] for i in chosen] for name, one in sequence.faces.items()}
    sequence.landmarks = [sequence.landmarks[i] for i in chosen]
    sequence.boxes = [sequence.boxes[i] for i in chosen]
    followers = {b for a, b in pairwise(chosen) if b == a + 1}
    sequence.cuts = {
        number
        for number, index in enumerate(chosen)
        if index in sequence.cuts or index not in followers
    }


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
