"""A Janus server on this machine, and a page's script that publishes to it."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

JANUS = shutil.which("janus")
PUBLISH_TO_JANUS = """
(async (server) => {
  const ask = async (url, body) => (await fetch(url, {method: "POST",
    body: JSON.stringify({transaction: Math.random().toString(36), ...body})})).json();
  const session = `${server}/${(await ask(server, {janus: "create"})).data.id}`;
  const attached = await ask(session, {janus: "attach", plugin: "janus.plugin.videoroom"});
  const handle = `${session}/${attached.data.id}`;
  const event = async (wanted) => {
    for (;;) {
      const one = await (await fetch(session)).json();
      if (wanted(one)) return one;
    }
  };
  await ask(handle, {janus: "message", body: {request: "join", ptype: "publisher", room: 1234}});
  await event((one) => one.plugindata?.data.videoroom === "joined");
  const stream = await navigator.mediaDevices.getUserMedia({video: {width: 640, height: 480}});
  const connection = window.publisher = new RTCPeerConnection();
  connection.addTrack(stream.getVideoTracks()[0], stream);
  await connection.setLocalDescription();
  await new Promise((done) => {
    const check = () => connection.iceGatheringState === "complete" && done();
    connection.onicegatheringstatechange = check;
    check();
  });
  await ask(handle, {janus: "message", body: {request: "publish", audio: false, video: true},
    jsep: {type: "offer", sdp: connection.localDescription.sdp}});
  await connection.setRemoteDescription((await event((one) => one.jsep)).jsep);
  setInterval(() => fetch(session), 10000);
})(SERVER)
"""
"""Publishes the camera in room 1234 of the Janus server at the address SERVER."""


@contextlib.asynccontextmanager
async def janus(folder: Path) -> AsyncIterator[str]:
    """A separate Janus with one room, 1234."""
    port, admin = 18088, 17088
    general = 'general: { admin_secret = "x"; debug_level = 3; }\n'
    media = 'media: { rtp_port_range = "20000-20100"; }\nnat: { ice_lite = false; }\n'
    (folder / "janus.jcfg").write_text(
        general + media + 'transports: { disable = "libjanus_websockets.so,libjanus_pfunix.so,'
        'libjanus_mqtt.so,libjanus_nanomsg.so,libjanus_rabbitmq.so" }\n'
    )
    (folder / "janus.transport.http.jcfg").write_text(
        f'general: {{ http = true; port = {port}; ip = "127.0.0.1"; https = false; }}\n'
        f"admin: {{ admin_http = false; admin_port = {admin}; }}\n"
    )
    (folder / "janus.plugin.videoroom.jcfg").write_text(
        'room-1234: { description = "test"; publishers = 6; videocodec = "h264";'
        ' h264_profile = "42e01f"; bitrate = 0; fir_freq = 0; }\n'
    )
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [str(JANUS), "-F", str(folder), "-C", str(folder / "janus.jcfg")],
        stdout=log,
        stderr=log,
    )
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    await session.get(f"http://127.0.0.1:{port}/janus/info")
                    break
                await asyncio.sleep(0.1)
        yield f"janus+http://127.0.0.1:{port}/janus?room=1234"
    finally:
        process.terminate()
        process.wait(10)
        log.close()
