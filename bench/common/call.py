"""A receiver that restores a clip's frames with references from one origin."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import av
import numpy as np

from keyframes import Picture, crop_qp
from keyframes.requests import RequestPolicy
from receiver.calls.requester import StillPace
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.observations import STILL_QP, faces_of_still, region_of
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.media.frame import DecodedFrame
from receiver.media.planes import Region
from receiver.stills.protocol import decode_still, encode_still, part_of

Way: TypeAlias = Literal["none", "i-frames", "quality", "stills", "raw"]


WAYS: tuple[Way, ...] = ("none", "i-frames", "quality", "stills", "raw")


STILL_DELAY = 0.15
"""Seconds from asking for a still to its first byte: a round trip and the sender's encoder."""


@dataclass
class Faces:
    """One clip's faces in one way: successive pictures, and what references cost."""

    pictures: list[Picture] = field(default_factory=list)
    reference_bytes: int = 0
    requests: int = 0


class Call:
    """One receiver, restoring in one way; is given a clip's frames one after the other."""

    def __init__(self, way: Way, generator: Generator) -> None:
        """`way` says where its references come from."""
        admission: Any = "i-frames" if way == "i-frames" else "quality"
        self.enhancer = Enhancer(generator, admission=admission)
        self.faces = Faces()
        self._way = way
        self._policy = RequestPolicy()
        self._coming: deque[tuple[float, bytes, str, Region]] = deque()
        self._next_raw = 0.0
        self._pace = StillPace()

    def see(self, now: float, raw: av.VideoFrame, decoded: DecodedFrame) -> av.VideoFrame:
        """Restores a frame; no frame is its own reference."""
        seen = decoded
        self._pace.see(now, decoded.size_bytes)
        if self._way in ("none", "raw"):  # nothing of the stream is to become a reference
            seen = DecodedFrame(decoded.video, decoded.is_keyframe, decoded.qp, damaged=True)
        restored = self.enhancer.enhance(seen)
        if self._way == "raw" and now >= self._next_raw:
            self._next_raw = now + 1.0
            self._give_raw(raw)
        if self._way == "stills":
            self._ask(now, raw)
        return restored

    def _give_raw(self, raw: av.VideoFrame) -> None:
        """Makes a raw frame's faces references, as the paper does: nothing has to be checked."""
        size = np.array([raw.width, raw.height] * 2, np.float64)
        for still in faces_of_still(raw, shared_recogniser()):
            face = still.among(self.enhancer.faces, size)
            if face is not None:
                still.keyframe.qp = crop_qp(STILL_QP, still.enlarged)
                self.enhancer.add_reference(face.track_id, still.keyframe)

    def _ask(self, now: float, raw: av.VideoFrame) -> None:
        while self._coming and self._coming[0][0] <= now:
            _, data, mime, region = self._coming.popleft()
            self._policy.arrived(now, len(data))
            self.faces.reference_bytes += len(data)
            self.enhancer.add_still(decode_still(data, mime), region)
        if self.enhancer.need is None:
            return
        request = self._policy.decide(now, self.enhancer.need, ("still",))
        if request is not None:
            self.faces.requests += 1
            region = region_of(self.enhancer.faces[0], raw.width, raw.height)
            data, mime = encode_still(part_of(raw, region), request.max_bytes)
            arrives = (
                now + STILL_DELAY + len(data) * 8 / (self._pace.kbps(link_was_full=True) * 1000)
            )
            self._coming.append((arrives, data, mime, region))
