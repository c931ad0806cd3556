"""A real call: ICE, DTLS, SRTP, RTP and H.264 between two peer connections."""

import asyncio
import json
import threading
from fractions import Fraction
from types import SimpleNamespace

import aiortc.codecs
import aiortc.rtcrtpreceiver
import aiortc.rtp
import av
import cv2
import numpy as np
import pytest
from aiortc import RTCPeerConnection

from receiver.calls.track import EnhancedVideoTrack
from receiver.commands.loopback import connect, run_demo
from receiver.media.encoding import Encoding
from receiver.media.frame import Arrival, DecodedFrame
from receiver.media.planes import copy_frame
from receiver.sending.encoded_track import EncodedTrack
from receiver.sending.sources import clip_source, portrait_source
from receiver.signalling.connections import read_to_the_end
from receiver.transport import aiortc_hooks as call
from receiver.transport.connections import prepare_aiortc

# Before anything is hooked.
AIORTCS_OWN_LEVEL = aiortc.rtp.compute_audio_level_dbov


@pytest.fixture(scope="module")
def source():
    return portrait_source()


async def test_a_call_restores_faces_and_writes_what_it_showed(source, enhancer, tmp_path):
    shown = []
    result = await run_demo(source, Encoding(kbps=100), enhancer, 4.0, tmp_path, shown.append)
    frames = result.frames
    assert frames["received"] >= 110
    assert frames["received"] - frames["enhanced"] - frames["passed"] - frames["dropped"] in (0, 1)
    assert frames["enhanced"] > 0
    assert result.keyframes >= 1
    assert 40 < result.kbps < 130
    assert (result.device, result.model) == ("cpu", "lite")
    # Received and original belong together, or this would be some 20 dB.
    assert result.face_psnr_db["received"] > 26
    assert shown[-1] == pytest.approx(4.0, abs=0.3)
    with av.open(str(tmp_path / "demo.mp4")) as video:
        written = sum(1 for _ in video.decode(video=0))
        assert (video.streams.video[0].width, video.streams.video[0].height) == (1920, 480)
    assert written == result.written
    rows, columns = divmod(cv2.imread(str(tmp_path / "demo.png")).shape[0], 448), 3 * 448
    assert rows in ((1, 0), (2, 0), (3, 0))  # moments at which a frame was restored, at most three
    assert cv2.imread(str(tmp_path / "demo.png")).shape[1:] == (columns, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.mp4", "demo.png"]
    json.dumps(result.stages_ms)


async def test_a_call_with_sound_passes_it_on(clip, enhancer, tmp_path):
    result = await run_demo(
        clip_source(clip), Encoding(kbps=200), enhancer, 2.0, tmp_path, lambda seconds: None
    )
    assert result.written > 0  # how many depends on the machine's speed
    with av.open(str(tmp_path / "demo.mp4")) as video:
        sound = sum(frame.samples for frame in video.decode(audio=0))
    assert sound > 48000


async def test_a_clip_of_a_variable_rate_is_shown_for_as_long_as_asked(
    portrait, enhancer, tmp_path
):
    """By its average rate, 3 s of this clip were over after 0.6 s. Its sound begins first."""
    path, times = tmp_path / "clip.mkv", [0.4 + i / 30 for i in range(20)] + [1.5, 4.0]
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 640, 480, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        video.options = {"crf": "12", "tune": "zerolatency"}
        sound = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        piece = av.AudioFrame.from_ndarray(np.full((1, 48000), 3000, np.int16), "s16", "mono")
        piece.sample_rate, piece.pts = 48000, 0
        container.mux(sound.encode(piece))
        for picture, at in zip(portrait, times, strict=False):
            frame = copy_frame(picture)
            frame.pts, frame.time_base = round(at * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    shown: list[float] = []
    result = await run_demo(
        clip_source(path), Encoding(kbps=300), enhancer, 3.0, tmp_path, shown.append
    )
    assert 1.4 < shown[-1] <= 3.0
    assert result.written >= 5
    # Received and original belong together, though the first frame is not the file's first.
    assert result.face_psnr_db["received"] > 26
    assert cv2.imread(str(tmp_path / "demo.png")).shape[0] >= 448


async def test_the_call_is_h264_and_its_frames_know_their_qp(source, enhancer):
    prepare_aiortc()
    sender = EncodedTrack(source, Encoding(kbps=100, keyframe_every=15), 2.0)
    sending, receiving = RTCPeerConnection(), RTCPeerConnection()
    tracks, seen = [], []
    receiving.on("track", tracks.append)
    await connect(sending, receiving, sender)
    assert "H264/90000" in receiving.localDescription.sdp
    assert "VP8" not in receiving.localDescription.sdp
    track = EnhancedVideoTrack(
        tracks[0], enhancer, deadline=5.0, on_frame=lambda enhanced: seen.append(enhanced.received)
    )
    reading = asyncio.ensure_future(read_to_the_end(track))
    sender.begin()
    await sender.ended.wait()
    await asyncio.sleep(0.2)
    await asyncio.gather(sending.close(), receiving.close())
    await reading
    assert len(seen) >= 15  # a slow machine drops the others
    keyed = {frame.video.pts // 3000 for frame in seen if frame.is_keyframe}
    assert keyed <= set(range(0, 60, 15))
    assert 0 in keyed
    assert all(20 < frame.qp <= 51 for frame in seen)
    assert all(isinstance(frame.video.opaque, Arrival) for frame in seen)
    assert not any(frame.damaged for frame in seen)


async def test_a_pli_brings_a_key_frame(source, enhancer):
    prepare_aiortc()
    sender = EncodedTrack(source, Encoding(kbps=150, keyframe_every=1000))
    sending, receiving = RTCPeerConnection(), RTCPeerConnection()
    tracks: list = []
    receiving.on("track", tracks.append)
    await connect(sending, receiving, sender)
    sender.begin()
    keys = []
    while len(keys) < 2:
        frame = DecodedFrame.from_video(await asyncio.wait_for(tracks[0].recv(), 5))
        if frame.is_keyframe:
            keys.append(frame.video.pts)
        if frame.video.pts == 15 * 3000:
            rtp_receiver = receiving.getReceivers()[0]
            for one in rtp_receiver.getSynchronizationSources():
                await rtp_receiver._send_rtcp_pli(one.source)
        assert frame.video.pts < 90 * 3000
    assert keys[0] == 0
    assert 15 * 3000 < keys[1] < 45 * 3000
    sender.stop()
    await asyncio.gather(sending.close(), receiving.close())


@pytest.mark.parametrize(
    ("adapters", "reaches", "hosts"),
    [
        (["127.0.0.1"], True, ["127.0.0.1"]),
        ([], True, ["127.0.0.1"]),
        ([], False, []),
        (["127.0.0.1", "127.0.0.2"], True, ["127.0.0.2"]),
    ],
)
async def test_the_loopback_address_is_a_candidate_if_there_is_no_other(
    adapters, reaches, hosts, monkeypatch
):
    here = [SimpleNamespace(ips=[SimpleNamespace(ip=address)]) for address in adapters]
    monkeypatch.setattr("ifaddr.get_adapters", lambda: here)
    monkeypatch.setattr(call, "_reaches", lambda address: reaches)
    connection = call.BoundedConnection(ice_controlling=True)
    await connection.gather_candidates()
    assert [one.host for one in connection.local_candidates] == hosts
    await connection.close()


@pytest.mark.parametrize("amplitude", [0, 1, 30, 1000, 20000, 32767])
def test_the_level_of_sound_is_aiortcs_own(amplitude):
    wave = (amplitude * np.sin(np.arange(960) * 0.1)).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(wave[None], "s16", "mono")
    assert call.audio_level(frame) == AIORTCS_OWN_LEVEL(frame)


async def test_nothing_is_left_after_a_call(source, enhancer, tmp_path):
    before = {thread.name for thread in threading.enumerate()}
    await run_demo(source, Encoding(kbps=100), enhancer, 1.0, tmp_path, lambda seconds: None)
    await asyncio.sleep(0.2)
    after = {thread.name for thread in threading.enumerate()} - before
    assert {name for name in after if not name.startswith("asyncio_")} == set()
    assert asyncio.all_tasks() == {asyncio.current_task()}
