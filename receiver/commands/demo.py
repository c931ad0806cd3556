"""A real call with oneself: sender, ICE, DTLS, SRTP, receiver, restored faces, and figures."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from keyframes import Picture
from receiver.calls.requester import Requester
from receiver.calls.track import EnhancedVideoTrack
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import Crop, extract_crop, picture_of, psnr_db
from receiver.enhance.faces.tracking import Face
from receiver.enhance.stage import EnhancedFrame
from receiver.errors import ReceiverError
from receiver.media.encoding import Encoding
from receiver.media.outputs import FileOutput, side_by_side, write_label, write_picture
from receiver.sending.encoded_track import EncodedTrack
from receiver.sending.sources import Source
from receiver.stills.protocol import LABEL
from receiver.stills.sender import StillSender
from receiver.transport.aiortc_hooks import on_keyframe_request
from receiver.transport.connections import h264_codecs, prepare_aiortc, receive_h264
from receiver.transport.data_channels import guard_channels

PANELS = ["received", "restored", "original"]
PATIENCE = 1.0
"""Seconds for which a moment of `demo.png` waits for a frame that was restored."""
MOMENTS = (0.25, 0.55, 0.85)
"""Parts of the demo's length at which `demo.png` shows a face."""
MEASURE_EVERY = 5
"""Frames from one PSNR to the next: it should not cost the call its time."""
SETUP_SECONDS = 15.0
"""Longest wait for the connection."""


@dataclass(frozen=True)
class Moment:
    """One frame as received, as restored, as it was sent, and its faces."""

    pictures: tuple[av.VideoFrame, av.VideoFrame, av.VideoFrame]
    faces: list[Face]


@dataclass
class DemoResult:
    """Figures of a demo."""

    fps: float
    added_latency_ms: dict[str, float]
    frames: dict[str, int]
    skipped: int
    high_quality_inputs: int
    written: int
    face_psnr_db: dict[str, float]
    kbps: float
    stills: int
    stills_kbps: float
    keyframes: int
    device: str
    model: str
    stages_ms: dict[str, dict[str, float]]


class Recorder(FileOutput):
    """Writes `demo.mp4`, measures faces and keeps three moments for `demo.png`.

    Attributes:
        psnr: of faces, received and restored against the original, in dB.
    """

    def __init__(self, folder: Path, rate: Fraction, seconds: float, has_sound: bool) -> None:
        """`seconds` of about `rate` frames each are expected."""
        self.psnr: dict[str, list[float]] = {"received": [], "restored": []}
        self._folder = folder
        self._due = [part * seconds for part in MOMENTS]
        self._kept: list[Picture] = []
        super().__init__(folder / "demo.mp4", rate, has_sound)

    def close(self) -> None:
        """Waits until everything is written. Raises InputError if it cannot be."""
        super().close()
        if self._kept:
            write_picture(self._folder / "demo.png", cv2.vconcat(self._kept))

    def picture(self, item: Moment) -> av.VideoFrame:
        """The three panels of a moment, which is measured on the way."""
        # A frame that went out untouched shows nothing, unless the machine restores none at all.
        patience = 0.0 if item.pictures[1] is not item.pictures[0] else PATIENCE
        time = item.pictures[0].time or 0.0
        due = sum(time >= moment + patience for moment in self._due)
        wanted = due > len(self._kept)
        if item.faces and (wanted or self.written % MEASURE_EVERY == 0):
            to_crop = item.faces[0].crop_from_frame
            crops = [extract_crop(picture, to_crop) for picture in item.pictures]
            self.psnr["received"].append(psnr_db(crops[0], crops[2]))
            self.psnr["restored"].append(psnr_db(crops[1], crops[2]))
            if wanted:
                self._kept.append(magnified(crops))
        return side_by_side(list(item.pictures), PANELS)


def magnified(crops: list[Crop]) -> Picture:
    """Face crops in a row, labelled, as an 8-bit BGR picture."""
    row = []
    for crop, label in zip(crops, PANELS, strict=True):
        picture = cv2.resize(picture_of(crop)[..., ::-1], (448, 448), interpolation=cv2.INTER_CUBIC)
        write_label(picture, label)
        row.append(picture)
    return cv2.hconcat(row)


async def run_demo(
    source: Source,
    encoding: Encoding,
    enhancer: Enhancer,
    seconds: float,
    folder: Path,
    progress: Callable[[float], None],
    show: Callable[[av.VideoFrame], bool] | None = None,
) -> DemoResult:
    """Sends `source` to ourselves for `seconds` and writes `demo.mp4` and `demo.png`.

    Args:
        progress: is given the seconds that have been shown.
        show: is given received and restored side by side; returns whether to go on.

    Raises:
        ReceiverError: if no connection comes about on this machine.
        InputError: if `demo.mp4` cannot be written.
    """
    sender = EncodedTrack(source, encoding, seconds)
    recorder = Recorder(folder, source.rate, seconds, source.sound is not None)
    prepare_aiortc()
    # aiortc would ask a public STUN server for our address; this call stays on the machine.
    here = RTCConfiguration(iceServers=[])
    sending, receiving = RTCPeerConnection(here), RTCPeerConnection(here)
    tracks: dict[str, MediaStreamTrack] = {}
    receiving.on("track", lambda track: tracks.update({track.kind: track}))
    requester = Requester(enhancer)
    stills = StillSender(sending.createDataChannel(LABEL), lambda: sender.newest)
    try:
        await connect(sending, receiving, sender)
        guard_channels(receiving, requester.take_channel, sender.stop)
        (receiver,) = (one for one in receiving.getReceivers() if one.track is tracks["video"])
        requester.listen_to(receiver)

        def on_frame(enhanced: EnhancedFrame) -> None:
            frame, output = enhanced.received, enhanced.video
            requester.consider(enhanced)
            original = sender.sent.get(frame.video.pts or 0)
            if original is not None:
                recorder.put(Moment((frame.video, output, original), list(enhanced.faces)))
            progress((frame.video.pts or 0) / 90000)
            if show is not None and not show(side_by_side([frame.video, output], PANELS[:2])):
                sender.stop()

        restored = EnhancedVideoTrack(tracks["video"], enhancer, on_frame=on_frame)
        consumers = [asyncio.ensure_future(consume(restored, lambda _: None))]
        if "audio" in tracks:
            consumers.append(asyncio.ensure_future(consume(tracks["audio"], recorder.put)))
        sender.begin()
        await sender.ended.wait()
        await asyncio.sleep(0.2)  # what is still under way
    finally:
        sender.stop()
        stills.close()
        requester.close()
        await asyncio.gather(sending.close(), receiving.close())
        await asyncio.to_thread(recorder.close)
    await asyncio.gather(*consumers)
    stills_kbps = stills_bytes(requester) * 8 / 1000 / seconds
    return demo_result(enhancer, recorder, sender, seconds, stills_kbps)


def stills_bytes(requester: Requester) -> int:
    """Bytes of the stills that came."""
    return requester.stills.counts.bytes if requester.stills else 0


async def connect(
    sending: RTCPeerConnection,
    receiving: RTCPeerConnection,
    video: EncodedTrack,
) -> None:
    """Offer and answer between two connections of this process, until media can flow."""
    rtp_sender = sending.addTrack(video)
    on_keyframe_request(rtp_sender, video.request_keyframe)
    sending.getTransceivers()[0].setCodecPreferences(h264_codecs())
    if video.sound is not None:
        sending.addTrack(video.sound)
    receive_h264(receiving)
    connected = asyncio.Event()

    def check() -> None:
        if receiving.connectionState == sending.connectionState == "connected":
            connected.set()

    for connection in (sending, receiving):
        connection.on("connectionstatechange", check)
    await sending.setLocalDescription(await sending.createOffer())
    if "a=candidate:" not in sending.localDescription.sdp:
        raise ReceiverError(
            "no connection to this machine itself can come about: no network interface is up, not "
            "even loopback; set that up with: ip link set lo up"
        )
    await receiving.setRemoteDescription(sending.localDescription)
    await receiving.setLocalDescription(await receiving.createAnswer())
    await sending.setRemoteDescription(receiving.localDescription)
    check()
    try:
        await asyncio.wait_for(connected.wait(), SETUP_SECONDS)
    except TimeoutError:
        raise ReceiverError(
            "no connection to this machine itself came about: allow UDP between its own addresses"
        ) from None


async def consume(track: MediaStreamTrack, use: Callable[[Any], None]) -> None:
    """Reads a track to its end."""
    with contextlib.suppress(MediaStreamError):
        while True:
            use(await track.recv())


def demo_result(
    enhancer: Enhancer,
    recorder: Recorder,
    sender: EncodedTrack,
    seconds: float,
    stills_kbps: float,
) -> DemoResult:
    """The figures, once everything has ended."""
    stats = enhancer.stats
    median, p95 = stats.milliseconds("added latency", 50, 95)
    counts = stats.frames
    psnr = {name: float(np.mean(values or [np.nan])) for name, values in recorder.psnr.items()}
    return DemoResult(
        fps=round(stats.fps, 2),
        added_latency_ms={"median": round(median, 2), "p95": round(p95, 2)},
        frames={
            "received": counts.received,
            "enhanced": counts.enhanced,
            "passed": counts.passed,
            "dropped": counts.dropped,
        },
        skipped=counts.skipped,
        high_quality_inputs=stats.high_quality_inputs,
        written=recorder.written,
        face_psnr_db={name: round(value, 2) for name, value in psnr.items()},
        kbps=round(sender.bytes_sent * 8 / 1000 / seconds, 1),
        stills=stats.admitted["still"],
        stills_kbps=round(stills_kbps, 1),
        keyframes=stats.keyframes,
        device=enhancer.generator.device,
        model=enhancer.generator.model.name,
        stages_ms=stats.snapshot()["stages_ms"],
    )
