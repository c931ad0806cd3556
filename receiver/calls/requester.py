"""Requests references from the sender of a call, within the policy's budget."""

import asyncio
import time
from collections import deque

from aiortc import RTCDataChannel, RTCRtpReceiver

from keyframes import Budget, ReferenceNeed, RequestKind, RequestPolicy
from keyframes.admission import BETTER
from keyframes.requests import TIME_OUT
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.still_faces import region_of
from receiver.enhance.stage import EnhancedFrame
from receiver.media.planes import WHOLE
from receiver.stills.protocol import LABEL
from receiver.stills.receiver import Still, StillReceiver
from receiver.transport.aiortc_hooks import request_keyframe
from receiver.transport.receiving import SteadyReceiver
from receiver.waiting import BackgroundTasks

STILL_SHARE = 0.5
"""Rate of a still as a fraction of the video's rate, on a link that has been full in this call."""
STILL_KBPS = (24.0, 200.0)
"""Lowest and highest rate of a still in kbit/s. With the lowest it arrives within the policy's
`TIME_OUT`, with the highest in a third of a second; a pose does not last much longer."""
RATE_SECONDS = 2.0
"""Seconds over which the video's rate is averaged."""
REPAIR_EVERY = 1.0
"""Seconds between requests for an I-frame while frames are damaged. The budget counts neither these
nor those of `receiver.transport` for lost packets: without them the frames stay damaged."""


class StillPace:
    """Chooses the rate of a still from the rate of the video that is sent with it."""

    def __init__(self) -> None:
        self._sizes: deque[tuple[float, int]] = deque()  # (seconds, bytes) of the latest frames

    def see(self, now: float, size_bytes: int | None) -> None:
        """Notes the video's next frame."""
        self._sizes.append((now, size_bytes or 0))
        while self._sizes[0][0] <= now - RATE_SECONDS:
            self._sizes.popleft()

    def kbps(self, *, link_was_full: bool) -> float:
        """Returns the rate of a still in kbit/s."""
        if not link_was_full:
            return STILL_KBPS[1]
        video_kbps = 8 * sum(size for _, size in self._sizes) / 1000 / RATE_SECONDS
        return min(max(STILL_KBPS[0], STILL_SHARE * video_kbps), STILL_KBPS[1])


class Requester:
    """Sends one call's requests: for stills if the sender offers them, else for I-frames.

    All methods have to be called in one event loop.

    Attributes:
        stills: receives stills; None if the sender opened no channel for them.
        keyframes_requested: PLIs sent, for references and to repair damage.
    """

    def __init__(self, enhancer: Enhancer, budget: Budget | None = None) -> None:
        """Requests what frames of `enhancer` lack, within `budget`."""
        self.stills: StillReceiver | None = None
        self.keyframes_requested = 0
        self._enhancer = enhancer
        self._policy = RequestPolicy(budget or Budget())
        self._receiver: RTCRtpReceiver | None = None
        # What the face lacked at the request; the same and the key frame's size, until judged.
        self._keyframe_wanted: ReferenceNeed | None = None
        self._keyframe_unjudged: tuple[ReferenceNeed, int] | None = None
        self._keyframe_asked = 0.0
        self._judged = self._stills_judged()
        self._repaired = 0.0
        self._pace = StillPace()
        self._tasks = BackgroundTasks()

    def listen_to(self, receiver: RTCRtpReceiver) -> None:
        """Sets the receiver of the call's video, whose sender can be asked for I-frames."""
        self._receiver = receiver

    def take_channel(self, channel: RTCDataChannel) -> bool:
        """Uses a data channel for stills; returns False if the sender opened it for other uses."""
        if channel.label != LABEL or self.stills is not None:
            return False
        loop = asyncio.get_running_loop()

        def on_still(still: Still) -> None:  # in the worker's thread
            self._enhancer.add_still(still.picture, still.region)
            loop.call_soon_threadsafe(self._arrived, still.size_bytes)

        self.stills = StillReceiver(channel, on_still, lambda _, size: self._failed(size))
        return True

    def consider(self, enhanced: EnhancedFrame) -> None:
        """Sends the requests that the policy grants; to be called for every frame that leaves."""
        now, frame = time.perf_counter(), enhanced.received
        self._pace.see(now, frame.size_bytes)
        if frame.damaged and now >= self._repaired + REPAIR_EVERY:
            self._repaired = now
            self._ask_keyframe()
        need = enhanced.reference_need
        self._look_at_keyframe(enhanced, now)
        self._look_at_stills(now)
        kinds: list[RequestKind] = []
        if self.stills is not None and self.stills.ready:
            kinds = ["still"]
        elif self.stills is None and self._receiver is not None:
            kinds = ["pli"]
        request = self._policy.decide(now, need, kinds) if need is not None else None
        if request is None:
            return
        if request.kind == "pli":
            self._keyframe_wanted, self._keyframe_asked = need, now
            self._keyframe_unjudged = None
            self._ask_keyframe()
        elif not self._ask_still(enhanced, request.max_bytes):
            self._failed(0)

    def close(self) -> None:
        """Ends all requests."""
        if self.stills is not None:
            self.stills.close()
        self._tasks.cancel()

    def _look_at_stills(self, now: float) -> None:
        """Reports to the policy whether the stills that arrived were of use."""
        judged = self._stills_judged()
        if judged != self._judged:
            self._policy.judged(now, useful=judged[0] > self._judged[0])
            self._judged = judged

    def _stills_judged(self) -> tuple[int, int]:
        """Returns how many stills became references, and how many were refused."""
        admitted = self._enhancer.stats.admitted
        return admitted["still"], admitted["nobody's"] + admitted["worse"]

    def _look_at_keyframe(self, enhanced: EnhancedFrame, now: float) -> None:
        """Reports to the policy what a requested key frame cost, and whether it helped.

        Real-time encoders make key frames worse than the frames around them: asking such a sender
        again would only cost its stream quality. A key frame that the stages did not run on is
        judged by the first frame after it that they did run on.
        """
        frame, need = enhanced.received, enhanced.reference_need
        in_time = now < self._keyframe_asked + TIME_OUT  # later the policy has charged it already
        if frame.is_keyframe:
            self._policy.saw_keyframe(frame.size_bytes or 0)
            wanted, self._keyframe_wanted = self._keyframe_wanted, None
            if wanted is not None and in_time:
                self._keyframe_unjudged = wanted, frame.size_bytes or 0
        if not in_time:
            self._keyframe_unjudged = None
        if self._keyframe_unjudged is None or not enhanced.was_processed:
            return
        wanted, size = self._keyframe_unjudged
        self._keyframe_unjudged = None
        known = need is not None and need.qp is not None and wanted.qp is not None
        if known and need.qp <= wanted.qp - BETTER:  # type: ignore[union-attr,operator]
            self._policy.arrived(now, size)
        else:
            self._policy.failed(now, size)

    def _ask_keyframe(self) -> None:
        if self._receiver is not None:
            self.keyframes_requested += 1
            self._tasks.start(request_keyframe(self._receiver))

    def _ask_still(self, enhanced: EnhancedFrame, max_bytes: int) -> bool:
        faces, video = enhanced.faces, enhanced.received.video
        region = region_of(faces[0], video.width, video.height) if faces else WHOLE
        receiver = self._receiver
        was_full = isinstance(receiver, SteadyReceiver) and receiver.link_was_full
        kbps = self._pace.kbps(link_was_full=was_full)
        return self.stills is not None and self.stills.request(max_bytes, kbps, region)

    def _arrived(self, size: int) -> None:
        self._policy.arrived(time.perf_counter(), size)

    def _failed(self, size: int) -> None:
        self._policy.failed(time.perf_counter(), size)
