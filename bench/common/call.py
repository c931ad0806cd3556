"""A receiver that restores a clip's frames with references from one origin."""

from collections import deque
from contextlib import suppress
from typing import Any, Literal, TypeAlias

import av
import numpy as np

from keyframes import Keyframe, Policy, crop_qp
from keyframes.requests import RequestKind, RequestPolicy
from receiver.calls.requester import StillPace
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.enhance.faces.still_faces import STILL_QP, faces_of_still, region_of
from receiver.enhance.stage import EnhancedFrame
from receiver.media.frame import DecodedFrame
from receiver.media.planes import Region
from receiver.stills.picture import decode_still, encode_still, part_of

Origin: TypeAlias = Literal["none", "i-frames", "quality", "stills", "raw"]
ORIGINS: tuple[Origin, ...] = ("none", "i-frames", "quality", "stills", "raw")
"""Origins of references: none; the stream's I-frames; the stream's good faces; these and stills
that are requested and whose bits count; raw frames, one a second and free."""
PROTOCOLS: dict[str, Origin] = {"none": "none", "call": "stills", "paper": "raw"}
"""The origin of references by protocol: none; as in a call, good frames of the stream and stills
whose bits count; as in the paper, raw frames."""
STILL_DELAY = 0.15
"""Seconds from a request for a still to its first byte: a round trip and the sender's encoder."""
KINDS: tuple[RequestKind, ...] = ("still",)
"""Requests that these calls can make."""
RAW_EVERY = 1.0
"""Seconds from one raw frame that becomes a reference to the next."""
RAW_AFTER = 0.5
"""Seconds after which a raw frame becomes a reference. The frames before look almost like it: they
would be restored with themselves."""


class Call:
    """Restores a clip's frames, one after the other, with references from one origin.

    Attributes:
        enhancer: what restores the frames.
        reference_bytes: size of the stills that arrived.
    """

    def __init__(
        self, origin: Origin, generator: Generator, *, policy: Policy = "lfu", capacity: int = 10
    ) -> None:
        """`policy` and `capacity` are those of each person's `KeyframeSet`."""
        admission: Any = "i-frames" if origin == "i-frames" else "quality"
        self.enhancer = Enhancer(generator, admission=admission, policy=policy, capacity=capacity)
        self.reference_bytes = 0
        self._origin = origin
        self._policy = RequestPolicy()
        self._coming: deque[tuple[float, bytes, str, Region]] = deque()
        self._next_raw = 0.0
        self._raw: deque[tuple[float, int, Keyframe]] = deque()
        self._pace = StillPace()

    def see(self, now: float, raw: av.VideoFrame, decoded: DecodedFrame) -> EnhancedFrame:
        """Restores a frame.

        No frame is restored with a reference that was captured within `RAW_AFTER` seconds of it,
        unless that had been received before.

        Args:
            now: the frame's time in seconds.
            raw: the frame as captured, which may be larger than `decoded`.
        """
        received = decoded
        self._pace.see(now, decoded.size_bytes)
        if self._origin in ("none", "raw"):  # damaged frames never become references
            received = DecodedFrame(decoded.video, decoded.is_keyframe, decoded.qp, damaged=True)
        while self._raw and now > self._raw[0][0] + RAW_AFTER:
            _, track_id, keyframe = self._raw.popleft()
            with suppress(KeyError):  # the face has been lost since
                self.enhancer.add_reference(track_id, keyframe)
        enhanced = self.enhancer.process(received)
        if self._origin == "raw" and now >= self._next_raw:
            self._next_raw = now + RAW_EVERY
            self._keep_raw(now, raw, enhanced)
        if self._origin == "stills":
            self._exchange_stills(now, raw, enhanced)
        return enhanced

    def _keep_raw(self, now: float, raw: av.VideoFrame, enhanced: EnhancedFrame) -> None:
        """Keeps a raw frame's faces until they become references, unchecked as in the paper."""
        size = _size_of(enhanced)
        for still in faces_of_still(raw, shared_recogniser()):
            face = still.among(list(enhanced.faces), np.array(size * 2, np.float64))
            if face is not None:
                still.keyframe.qp = crop_qp(STILL_QP, still.enlarged)
                self._raw.append((now, face.track_id, still.keyframe))

    def _exchange_stills(self, now: float, raw: av.VideoFrame, enhanced: EnhancedFrame) -> None:
        """Takes the stills that have arrived, and requests another one if it is needed."""
        while self._coming and self._coming[0][0] <= now:
            _, data, mime, region = self._coming.popleft()
            self._policy.arrived(now, len(data))
            self.reference_bytes += len(data)
            self.enhancer.add_still(decode_still(data, mime), region)
        if enhanced.reference_need is None:
            return
        request = self._policy.decide(now, enhanced.reference_need, KINDS)
        if request is not None:
            region = region_of(enhanced.faces[0], *_size_of(enhanced))
            data, mime = encode_still(part_of(raw, region), request.max_bytes)
            bits_a_second = self._pace.kbps(link_was_full=True) * 1000
            arrives = now + STILL_DELAY + len(data) * 8 / bits_a_second
            self._coming.append((arrives, data, mime, region))


def _size_of(enhanced: EnhancedFrame) -> tuple[int, int]:
    """Returns the width and height of the decoded frame, in whose pixels the faces are."""
    return enhanced.received.video.width, enhanced.received.video.height
