"""Runs the demo's call on this machine (ICE, DTLS, SRTP) and records and measures it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamTrack

from keyframes import Picture
from receiver.calls.requester import Requester
from receiver.calls.track import EnhancedVideoTrack
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.alignment import Crop, extract_crop, picture_of, psnr_db
from receiver.enhance.stage import EnhancedFrame
from receiver.errors import ReceiverError
from receiver.media.encoding import Encoding
from receiver.media.files.recording import FileOutput
from receiver.media.views import side_by_side, write_label, write_picture
from receiver.sending.encoded_track import EncodedTrack
from receiver.sending.sources import Source
from receiver.signalling.connections import read_to_the_end, receiver_of
from receiver.stills.protocol import LABEL
from receiver.stills.sender import StillSender
from receiver.transport.aiortc_hooks import on_keyframe_request
from receiver.transport.connections import h264_codecs, prepare_aiortc, receive_h264
from receiver.transport.data_channels import guard_channels

PANELS = ["received", "restored", "original"]
RESTORED_WITHIN = 1.0
"""Seconds for which a moment of `demo.png` waits for a restored frame."""
MOMENTS = (0.25, 0.55, 0.85)
"""Moments at which `demo.png` shows a face, as fractions of the demo's length."""
MEASURE_EVERY = 5
"""Frames from one PSNR measurement to the next, so that measuring does not slow the call."""
CONNECTED_WITHIN = 15.0
"""Longest wait for the connection, in seconds."""


@dataclass(frozen=True)
class Moment:
    """The result for one frame, and the frame as it was sent."""

    enhanced: EnhancedFrame
    original: av.VideoFrame

    @property
    def pictures(self) -> list[av.VideoFrame]:
        """The frame as received, as restored (it may be larger) and as sent."""
        return [self.enhanced.received.video, self.enhanced.video, self.original]


@dataclass
class DemoResult:
    """Figures of a demo: counts of frames, times in ms, PSNR in dB, rates in kbit/s."""

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
        psnr: PSNR of face crops against the original in dB, received and restored.
    """

    def __init__(self, folder: Path, rate: Fraction, seconds: float, has_sound: bool) -> None:
        """Starts the thread that writes `demo.mp4`.

        Args:
            folder: for both files; it exists.
            rate: expected frames a second.
            seconds: expected length.
            has_sound: whether sound will be put as well.
        """
        self.psnr: dict[str, list[float]] = {"received": [], "restored": []}
        self._folder = folder
        self._due = [part * seconds for part in MOMENTS]
        self._kept: list[Picture] = []
        super().__init__(folder / "demo.mp4", rate, has_sound)

    def close(self) -> None:
        """Waits until both files are written. Raises InputError if that fails."""
        super().close()
        if self._kept:
            write_picture(self._folder / "demo.png", cv2.vconcat(self._kept))

    def picture(self, item: Moment) -> av.VideoFrame:
        """Returns the three panels of a moment, and measures its face if it is due."""
        # A frame that was passed through shows no difference: wait for a restored one, a while.
        patience = 0.0 if item.enhanced.is_restored else RESTORED_WITHIN
        time = item.pictures[0].time or 0.0
        due = sum(time >= moment + patience for moment in self._due)
        wanted = due > len(self._kept)
        if item.enhanced.faces and (wanted or self.written % MEASURE_EVERY == 0):
            crops = face_crops(item)
            self.psnr["received"].append(psnr_db(crops[0], crops[2]))
            self.psnr["restored"].append(psnr_db(crops[1], crops[2]))
            if wanted:
                self._kept.append(magnified(crops))
        return side_by_side(item.pictures, PANELS)


def face_crops(moment: Moment) -> list[Crop]:
    """Returns the crops (256x256 each) of the first face in the three pictures of a moment."""
    received = moment.pictures[0]
    crop_from_frame = moment.enhanced.faces[0].crop_from_frame
    crops = []
    for picture in moment.pictures:
        # Pixel centres: x of the picture is scale * (x + 1/2) - 1/2 of the received frame.
        scale = np.array([picture.width / received.width, picture.height / received.height])
        crop_from_picture = crop_from_frame.copy()
        crop_from_picture[:, :2] /= scale
        crop_from_picture[:, 2] += crop_from_frame[:, :2] @ (0.5 / scale - 0.5)
        crops.append(extract_crop(picture, crop_from_picture))
    return crops


def magnified(crops: list[Crop]) -> Picture:
    """Returns face crops in a row, labelled, as a BGR picture, 448x1344x3, uint8."""
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
        progress: called with the seconds of video shown so far.
        show: called with received and restored side by side; returns whether to go on.

    Raises:
        ReceiverError: if no connection can be made on this machine.
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
        requester.listen_to(receiver_of(tracks["video"], receiving))

        def on_frame(enhanced: EnhancedFrame) -> None:
            frame, output = enhanced.received, enhanced.video
            requester.consider(enhanced)
            original = sender.sent.get(frame.video.pts or 0)
            if original is not None:
                recorder.put(Moment(enhanced, original))
            progress((frame.video.pts or 0) / 90000)
            if show is not None and not show(side_by_side([frame.video, output], PANELS[:2])):
                sender.stop()

        restored = EnhancedVideoTrack(tracks["video"], enhancer, on_frame=on_frame)
        consumers = [asyncio.ensure_future(read_to_the_end(restored))]
        if "audio" in tracks:
            consumers.append(asyncio.ensure_future(read_to_the_end(tracks["audio"], recorder.put)))
        sender.begin()
        await sender.ended.wait()
        await asyncio.sleep(0.2)  # for the last packets
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
    """Returns the bytes of all stills that were received."""
    return requester.stills.counts.bytes if requester.stills else 0


async def connect(
    sending: RTCPeerConnection,
    receiving: RTCPeerConnection,
    video: EncodedTrack,
) -> None:
    """Connects two peer connections of this process and waits until media can flow.

    Args:
        video: the track that `sending` sends, with its sound if it has any.

    Raises:
        ReceiverError: if they cannot be connected.
    """
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
            "this machine cannot connect to itself: no network interface is up, not even loopback; "
            "enable it with: ip link set lo up"
        )
    await receiving.setRemoteDescription(sending.localDescription)
    await receiving.setLocalDescription(await receiving.createAnswer())
    await sending.setRemoteDescription(receiving.localDescription)
    check()
    try:
        await asyncio.wait_for(connected.wait(), CONNECTED_WITHIN)
    except TimeoutError:
        raise ReceiverError(
            "this machine could not connect to itself: allow UDP between its own addresses"
        ) from None


def demo_result(
    enhancer: Enhancer,
    recorder: Recorder,
    sender: EncodedTrack,
    seconds: float,
    stills_kbps: float,
) -> DemoResult:
    """Returns the figures of a demo that has ended."""
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
