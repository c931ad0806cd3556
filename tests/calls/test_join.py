"""Joining calls of this project's own server, of Janus and of libdatachannel."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path

import av
import pytest
from aiohttp import web
from aiortc import RTCPeerConnection, RTCSessionDescription

from bench.chromium.janus import JANUS, janus
from receiver.calls.join import Joined
from receiver.enhance.enhancer import Enhancer
from receiver.errors import InputError, MissingError
from receiver.media.encoding import Encoding
from receiver.media.files.recording import FileOutput
from receiver.media.outputs import VirtualCamera
from receiver.sending.encoded_track import EncodedTrack
from receiver.signalling.client import Client, SessionError
from receiver.signalling.janus import Janus
from receiver.signalling.links import ice_servers
from receiver.signalling.sessions import open_session
from receiver.transport.connections import h264_codecs
from tests.calls.peer import HERE, Peer, Tone, portrait, serving, until

PEERS = Path(__file__).parent / "peers"


@contextlib.asynccontextmanager
async def joining(url: str, generator, **options) -> AsyncIterator[tuple[Joined, list]]:
    seen: list[av.VideoFrame] = []
    said: list[str] = []
    joined = Joined(
        url, options.pop("token", None), Enhancer(generator), say=said.append,
        shows=[seen.append], **options,
    )  # fmt: skip
    running = asyncio.ensure_future(joined.run())
    try:
        yield joined, seen
    finally:
        joined.stop()
        await asyncio.wait_for(running, 5)


async def test_joining_over_whep_records_picture_and_sound(generator, http, tmp_path):
    async with serving(generator) as (server, base):
        publisher = Peer(http, base)
        await publisher.publish(sound=True)
        file = FileOutput(tmp_path / "call.mp4", Fraction(30), has_sound=True)
        async with joining(base + "/whep/room", generator, file=file) as (joined, seen):
            await until(lambda: len(seen) > 45)
            assert server.rooms["room"].viewer_count == 1
            joined.stop()
            await until(lambda: server.rooms["room"].viewer_count == 0)
        await asyncio.to_thread(file.close)
        await publisher.close()
    with av.open(str(tmp_path / "call.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert len(times) >= 40
    assert times == sorted(set(times))
    with av.open(str(tmp_path / "call.mp4")) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 24000


async def test_a_call_that_breaks_off_is_joined_again(generator, http, tmp_path):
    async with serving(generator) as (server, base):
        first, second = Peer(http, base), Peer(http, base)
        await first.publish()
        file = FileOutput(tmp_path / "call.mp4", Fraction(30), has_sound=False)
        async with joining(base + "/whep/room", generator, file=file) as (joined, seen):
            await until(lambda: len(seen) > 20)
            await first.close()
            await until(lambda: not server.rooms)
            before = len(seen)
            await second.publish()
            await until(lambda: len(seen) > before + 20)
            assert joined.sessions == 2
        await asyncio.to_thread(file.close)
        await second.close()
    with av.open(str(tmp_path / "call.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == sorted(set(times))
    assert len(times) > 35


async def test_what_is_joined_can_be_watched(generator, http):
    async with serving(generator) as (_, base), serving(generator) as (second, again):
        publisher, viewer = Peer(http, base), Peer(http, again)
        await publisher.publish()
        async with joining(base + "/whep/room", generator) as (joined, _):
            second.rooms["live"] = joined.room
            await until(lambda: joined.sessions == 1)
            assert (await viewer.watch("/whep/live")).status == 201
            assert len(await viewer.frames(10)) == 10
            second.rooms.clear()
        await publisher.close()
        await viewer.close()


async def answering(handler) -> tuple[web.AppRunner, str]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.mark.parametrize(
    ("status", "error", "sentence"),
    [
        (401, InputError, "does not accept the token"),
        (403, InputError, "does not accept the token"),
        (405, InputError, "is not a WHEP endpoint"),
        (404, SessionError, "answers 404: no such room"),
        (503, SessionError, "answers 503: no such room"),
        (201, InputError, "cannot be used"),
    ],
)
async def test_a_refusal_is_reported(status, error, sentence):
    async def handler(request):
        return web.Response(status=status, text="no such room", headers={"Retry-After": "7"})

    runner, base = await answering(handler)
    with pytest.raises(error, match=sentence) as caught:
        async with open_session(base + "/whep", None, lambda track: None):
            pass
    if error is SessionError:
        assert caught.value.retry_after == 7
    await runner.cleanup()


async def test_redirects_tokens_and_ice_servers_are_followed():
    seen = []

    async def handler(request):
        seen.append((request.method, request.path, request.headers.get("Authorization")))
        if request.method == "OPTIONS":
            link = '<turn:127.0.0.1:9>; rel="ice-server"; username="u"; credential="c"'
            return web.Response(status=204, headers={"Link": link})
        if request.path == "/first":
            return web.Response(status=307, headers={"Location": "/second"})
        return web.Response(status=503)

    runner, base = await answering(handler)
    async with Client(base + "/first", None).opened() as client:
        ice = await ice_servers(client, (await client.ask("OPTIONS", client.home, most=0)).links)
    assert [(one.urls, one.username, one.credential) for one in ice] == [
        ("turn:127.0.0.1:9", "u", "c")
    ]
    seen.clear()

    with pytest.raises(SessionError, match="answers 503"):
        async with open_session(base + "/first", "secret", lambda track: None):
            pass
    assert [entry for entry in seen if entry[0] == "POST"] == [
        ("POST", "/first", "Bearer secret"),
        ("POST", "/second", "Bearer secret"),
    ]
    await runner.cleanup()


async def test_an_address_without_a_server_fails_at_once(generator):
    joined = Joined(
        "http://127.0.0.1:9/whep", None, Enhancer(generator), say=lambda s: None, shows=[]
    )
    with pytest.raises(InputError, match=r"does not answer: .*check the address"):
        await joined.run()


@pytest.mark.parametrize("url", ["ftp://here/x", "room", "rtsp://camera"])
async def test_an_address_of_another_kind_is_named(url):
    with pytest.raises(InputError, match="is not an address to join"):
        async with open_session(url, None, lambda track: None):
            pass


async def test_a_janus_address_needs_a_room():
    with pytest.raises(InputError, match="has no room"):
        async with open_session("janus+http://127.0.0.1:8088/janus", None, lambda track: None):
            pass


def test_without_pyvirtualcam_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(MissingError, match=r"keyframe-receiver\[virtual-camera\]"):
        VirtualCamera()


@pytest.mark.parametrize("options", [["--json"], []])
async def test_ctrl_c_ends_the_command_and_the_recording_plays(generator, http, tmp_path, options):
    async with serving(generator) as (_, base):
        publisher = Peer(http, base)
        await publisher.publish()
        target = tmp_path / "call.mkv"
        command = [sys.executable, "-m", "receiver", "join", base + "/whep/room", *options]
        process = await asyncio.create_subprocess_exec(
            *command, "--record", str(target), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        async with asyncio.timeout(30):
            while b"in the call" not in (await process.stderr.readline()):
                pass
        await asyncio.sleep(2)
        process.send_signal(signal.SIGINT)
        out, _ = await asyncio.wait_for(process.communicate(), 15)
        assert process.returncode == 0
        if options:
            assert json.loads(out)["frames"]["received"] > 20
        else:
            counted, recorded = out.decode().splitlines()
            assert re.fullmatch(r"\d+ frames received, \d+ restored(: .+)?", counted)
            assert recorded == f"Recorded in {target}."
        await publisher.close()
    with av.open(str(target)) as container:
        assert len(list(container.decode(video=0))) > 20


# Janus


class JanusPublisher:
    """Publishes the portrait in room 1234."""

    def __init__(self, url: str, *more: EncodedTrack) -> None:
        self.janus = Janus(url, None, 15)
        self.connection = RTCPeerConnection(HERE)
        self.sender = EncodedTrack(portrait(), Encoding(kbps=200, keyframe_every=30))
        self.tracks = [self.sender, *more]

    @contextlib.asynccontextmanager
    async def publishing(self) -> AsyncIterator["JanusPublisher"]:
        async with self.janus._client.opened():
            await self.janus.open()
            await self.janus.message({"request": "join", "ptype": "publisher", "room": 1234})
            for track in self.tracks:
                self.connection.addTrack(track)
            for transceiver in self.connection.getTransceivers():
                if transceiver.kind == "video":
                    transceiver.setCodecPreferences(h264_codecs())
            await self.connection.setLocalDescription(await self.connection.createOffer())
            jsep = {"type": "offer", "sdp": self.connection.localDescription.sdp}
            await self.janus.message({"request": "publish"}, jsep=jsep)
            event = await self.janus.event()
            await self.connection.setRemoteDescription(
                RTCSessionDescription(event["jsep"]["sdp"], "answer")
            )
            await until(lambda: self.connection.connectionState == "connected")
            for track in self.tracks:
                if isinstance(track, EncodedTrack):
                    track.begin()
            try:
                yield self
            finally:
                await self.connection.close()
                await self.janus.close()


@pytest.mark.skipif(JANUS is None, reason="needs apt install janus")
async def test_joining_a_janus_room(generator, tmp_path):
    async with janus(tmp_path) as url:
        with pytest.raises(SessionError, match=r"room 1234 of .* has no publisher"):
            async with open_session(url, None, lambda track: None):
                pass
        async with JanusPublisher(url).publishing(), joining(url, generator) as (joined, seen):
            await until(lambda: len(seen) > 30)
            assert joined.sessions == 1
            assert joined.room.qp is not None
        with pytest.raises(SessionError, match="No such room"):
            async with open_session(url.replace("1234", "99"), None, lambda track: None):
                pass


@pytest.mark.skipif(JANUS is None, reason="needs apt install janus")
async def test_of_a_camera_and_a_screen_in_a_janus_room_one_is_received(tmp_path):
    tracks: list[str] = []
    async with janus(tmp_path) as url:
        screen = EncodedTrack(portrait(), Encoding(kbps=200, keyframe_every=30))
        async with JanusPublisher(url, screen, Tone()).publishing() as publisher:
            videos = [one for one in publisher.connection.getSenders() if one.kind == "video"]
            assert len(videos) == 2
            async with open_session(
                url, None, lambda track, _: tracks.append(track.kind)
            ) as connection:
                await until(lambda: connection.connectionState == "connected")
                (video,) = (one for one in connection.getReceivers() if one.track.kind == "video")
                assert (await asyncio.wait_for(video.track.recv(), 15)).width == 640
    assert sorted(tracks) == ["audio", "video"]


# libdatachannel


def node_modules() -> Path | None:
    folder = Path(os.environ.get("NODE_MODULES", PEERS / "node_modules"))
    return folder if (folder / "node-datachannel").is_dir() else None


@pytest.mark.skipif(
    shutil.which("node") is None or node_modules() is None,
    reason="needs node and: npm install --prefix tests/calls/peers",
)
async def test_joining_libdatachannels_whep(generator, portrait, tmp_path):
    from tests.conftest import write_clip

    write_clip(tmp_path / "clip.mp4", portrait, with_audio=False)
    server = await asyncio.create_subprocess_exec(
        "node",
        str(PEERS / "whep_server.mjs"),
        str(tmp_path / "clip.mp4"),
        ffmpeg(),
        stdout=subprocess.PIPE,
        env=os.environ | {"NODE_MODULES": str(node_modules())},
    )
    try:
        line = (await asyncio.wait_for(server.stdout.readline(), 20)).decode().strip()
        async with joining(line, generator) as (joined, seen):
            await until(lambda: len(seen) > 30)
            assert joined.sessions == 1
        assert b"DELETE" in await asyncio.wait_for(server.stdout.readline(), 5)
    finally:
        server.kill()
        await server.wait()


def ffmpeg() -> str:
    import imageio_ffmpeg

    path: str = imageio_ffmpeg.get_ffmpeg_exe()
    return path
