"""The example of the plugin, as it stands in `examples/`."""

import asyncio
import runpy
from pathlib import Path

import pytest
from aiohttp import web
from aiortc import RTCSessionDescription

from receiver.media.encoding import Encoding
from receiver.sending.encoded_track import EncodedTrack
from receiver.transport.connections import h264_codecs
from tests.calls.peer import Peer, portrait

EXAMPLE = Path(__file__).parents[3] / "examples" / "restored_echo.py"


@pytest.mark.parametrize("offers_vp8_first", [False, True])
async def test_the_echo_returns_frames(http, offers_vp8_first):
    example = runpy.run_path(str(EXAMPLE))
    runner = web.AppRunner(example["app"], shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    peer = Peer(http, f"http://127.0.0.1:{runner.addresses[0][1]}")
    sender = EncodedTrack(portrait(), Encoding(kbps=200))
    peer.connection.addTrack(sender)
    if not offers_vp8_first:  # aiortc's default
        peer.connection.getTransceivers()[0].setCodecPreferences(h264_codecs())
    await peer.connection.setLocalDescription(await peer.connection.createOffer())
    offer = peer.connection.localDescription.sdp
    answer = await (await http.post(peer.base + "/echo", data=offer)).text()
    assert "VP8" not in answer
    await peer.connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await peer.connected()
    sender.begin()
    frames = await peer.frames(10)
    assert {(frame.width, frame.height) for frame in frames} == {(640, 480)}
    sender.stop()
    await asyncio.gather(peer.close(), runner.cleanup())
