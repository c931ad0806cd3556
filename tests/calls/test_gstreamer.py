"""GStreamer's webrtcbin as a publisher: an RSA certificate and H.264's High profile."""

import asyncio
import subprocess

import av
import pytest

from tests.calls.peer import serving, until
from tests.calls.test_join import PEERS

PYTHON = "/usr/bin/python3"
IMPORT = "import gi; gi.require_version('GstWebRTC', '1.0'); from gi.repository import GstWebRTC"


def has_gstreamer() -> bool:
    try:
        return (
            subprocess.run([PYTHON, "-c", IMPORT], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


@pytest.mark.skipif(
    not has_gstreamer(),
    reason="needs apt install gstreamer1.0-plugins-bad gstreamer1.0-plugins-good "
    "gstreamer1.0-nice python3-gst-1.0 gir1.2-gst-plugins-bad-1.0",
)
async def test_gstreamer_publishes_in_high_profile(generator, portrait, tmp_path):
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        video = container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 640, 480, "yuv420p"
        video.options = {"tune": "zerolatency", "profile": "high", "g": "30", "level": "3.1"}
        for index, frame in enumerate(portrait * 3):
            frame.pts = index
            frame.pict_type = av.video.frame.PictureType.NONE
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    async with serving(generator) as (server, base):
        sender = await asyncio.create_subprocess_exec(
            PYTHON, str(PEERS / "gstreamer_whip.py"), str(clip), base + "/whip/gst"
        )
        try:
            await until(lambda: server.rooms and server.rooms["gst"].stats.frames.received > 20, 30)
            room = server.rooms["gst"]
            await until(lambda: room.stats.frames.enhanced > 5)
            assert room.stats.keyframes >= 1
        finally:
            sender.kill()
            await sender.wait()
