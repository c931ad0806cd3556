"""`receiver send` against the real server: picture, sound, stills, and how it ends."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
from aiohttp import web
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamTrack

from receiver.calls.metrics import room_stats
from receiver.calls.rooms import Room
from receiver.enhance.faces.alignment import extract_crop, psnr_db
from receiver.errors import InputError
from receiver.media.encoding import Encoding
from receiver.sending.publishing import ON_REQUEST, Sending, send
from receiver.sending.sources import Source, clip_source, evenly
from receiver.signalling.client import SessionError
from receiver.signalling.connections import read_to_the_end
from receiver.signalling.offers import answer
from receiver.signalling.sessions import open_publishing
from receiver.transport.connections import receive_h264
from tests.calls.peer import HERE, serving, until
from tests.calls.test_join import answering
from tests.commands.test_cli import assert_one_sentence, run
from tests.conftest import plain_frame, write_clip

WHOLE = np.array([[1.0, 0.0, -200.0], [0.0, 1.0, -100.0]])


@contextlib.asynccontextmanager
async def sending(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "receiver", "send", *arguments, stdout=pipe, stderr=pipe,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def still_of(room: Room, max_bytes: int, kbps: float) -> av.VideoFrame:
    """The next whole still of a room's publisher; the room itself asks for no more."""
    frames: list[av.VideoFrame] = []
    room.requester.consider = lambda frame: None
    await until(lambda: room.requester.stills.ready)
    room.requester.stills._on_still = lambda still: frames.append(still.picture)
    assert room.requester.stills.request(max_bytes, kbps)
    await until(lambda: not room.requester.stills.waiting)
    assert frames, room.requester.stills.counts
    return frames[0]


async def test_a_clip_is_sent_with_stills_until_ctrl_c(generator, http, portrait, tmp_path):
    clip = tmp_path / "clip.mp4"
    write_clip(clip, portrait[:20], with_audio=True, crf=12)
    async with (
        serving(generator, token="secret") as (server, base),
        sending(
            str(clip), base + "/whip/room", "--kbps", "60", "--token", "secret", "--json"
        ) as process,
    ):
        await until(lambda: "room" in server.rooms)
        room = server.rooms["room"]
        await until(lambda: room.stats.frames.received > 45 and room.requester.stills is not None)
        await until(lambda: room.stats.admitted["still"] > 0)  # the room asked by itself
        assert room.sound() is not None
        still = await still_of(room, 40_000, 1000)
        assert (still.width, still.height) == (640, 480)
        psnr = [psnr_db(extract_crop(still, WHOLE), extract_crop(one, WHOLE)) for one in portrait]
        assert max(psnr[:20]) > 35
        good = {"Authorization": "Bearer secret"}
        stats = await (await http.get(base + "/stats", headers=good)).json()
        counts = stats["room"]["stills"]
        assert counts["requested"] == counts["received"] > 1
        metrics = await (await http.get(base + "/metrics", headers=good)).text()
        expected = f'receiver_stills_received_total{{room="room"}} {counts["received"]}.0'
        assert expected in metrics
        process.send_signal(signal.SIGINT)
        await until(lambda: not server.rooms)
        output, errors = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0
    assert errors.decode().strip() == f"receiver: sending to {base}/whip/room"
    figures = json.loads(output)
    assert (figures["stills"], figures["stills_refused"]) == (counts["received"], 0)
    assert figures["frames"] > 45
    assert 20 < figures["kbps"] < 120


async def test_the_end_of_a_call_by_the_server_is_reported(generator, clip):
    async with (
        serving(generator) as (server, base),
        sending(str(clip), base + "/whip/a") as process,
    ):
        await until(lambda: "a" in server.rooms and server.rooms["a"].stats.frames.received > 5)
        await server.rooms["a"].close()
        _, errors = await asyncio.wait_for(process.communicate(), 5)
    last = errors.decode().strip().splitlines()[-1]
    assert last.startswith(f"receiver: {base}/whip/a ended the call")
    assert process.returncode == 2


async def test_redirects_the_token_and_delete(clip):
    seen: list[tuple[str, str, str | None]] = []
    answerer = RTCPeerConnection(HERE)

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, request.path, request.headers.get("Authorization")))
        if request.path == "/whip":
            return web.Response(status=307, headers={"Location": "/moved/whip"})
        if request.method != "POST":
            return web.Response()
        receive_h264(answerer)
        sdp = await answer(answerer, RTCSessionDescription(await request.text(), "offer"))
        return web.Response(
            status=201, text=sdp, content_type="application/sdp", headers={"Location": "session/1"}
        )

    runner, base = await answering(handler)
    call = Sending(clip_source(clip), Encoding(kbps=60))
    async with open_publishing(base + "/whip", "secret", call.prepare) as connection:
        await until(lambda: connection.connectionState == "connected")
        assert [one.direction for one in answerer.getTransceivers()] == ["recvonly", "recvonly"]
    call.close()
    await answerer.close()
    await runner.cleanup()
    assert [entry for entry in seen if entry[0] != "OPTIONS"] == [
        ("POST", "/whip", "Bearer secret"),
        ("POST", "/moved/whip", "Bearer secret"),
        ("DELETE", "/moved/session/1", "Bearer secret"),
    ]


async def received_packets(connection: RTCPeerConnection) -> dict[str, int]:
    """RTP packets that came so far, by their kind."""
    stats = (await connection.getStats()).values()
    return {one.kind: one.packetsReceived for one in stats if one.type == "inbound-rtp"}


async def test_sound_goes_on_with_the_picture_pass_after_pass(tmp_path):
    """It stopped after the first."""
    clip = tmp_path / "clip.mp4"
    write_clip(clip, [plain_frame(64, 48)] * 45, with_audio=True)  # 1.5 s
    answerer, heard = RTCPeerConnection(HERE), []

    async def handler(request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response()
        receive_h264(answerer)
        sdp = await answer(answerer, RTCSessionDescription(await request.text(), "offer"))
        return web.Response(
            status=201, text=sdp, content_type="application/sdp", headers={"Location": "/session"}
        )

    def listen(track: MediaStreamTrack) -> None:
        tasks.append(asyncio.ensure_future(read_to_the_end(track, taken[track.kind])))

    taken = {"video": lambda frame: None, "audio": heard.append}
    tasks: list[asyncio.Task[None]] = []
    answerer.on("track", listen)
    runner, base = await answering(handler)
    async with sending(str(clip), base + "/whip"):
        await until(lambda: len(heard) >= 90)  # the first pass is over
        before = await received_packets(answerer)
        await until(lambda: len(heard) >= 290, 60)  # and so are two more
        after = await received_packets(answerer)
    await answerer.close()
    await asyncio.gather(*tasks)
    await runner.cleanup()
    came = {kind: after[kind] - before[kind] for kind in after}
    assert came["video"] / came["audio"] == pytest.approx(30 / 50, rel=0.25)
    loud = [np.abs(piece.to_ndarray()).max() > 1000 for piece in heard[10:]]
    assert np.mean(loud) > 0.95


@pytest.mark.parametrize(
    ("status", "error", "sentence"),
    [
        (401, InputError, "does not accept the token"),
        (404, SessionError, "answers 404: no such room"),
        (405, InputError, "is not a WHIP endpoint"),
        (409, SessionError, "answers 409: no such room"),
        (201, InputError, "cannot be used"),
    ],
)
async def test_a_refusal_is_reported(clip, status, error, sentence):
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, text="no such room")

    runner, base = await answering(handler)
    with pytest.raises(error, match=sentence):
        await send(clip_source(clip), 60, base + "/whip", None, lambda said: None)
    await runner.cleanup()


async def test_key_frames_come_only_when_asked(portrait):
    """Though the source has a hard cut every ten frames."""
    pictures = [portrait[0], plain_frame(640, 480)]

    def frames() -> Iterator[av.VideoFrame]:
        cuts = (pictures[count // 10 % 2] for count in itertools.count())
        return evenly(cuts, Fraction(120))

    source = Source(frames, 640, 480, Fraction(120))
    call = Sending(source, Encoding(kbps=300, keyframe_every=ON_REQUEST))
    call.begin()
    keyframes = []
    for count in range(70):
        if count == 55:
            call.video.request_keyframe()
        if (await call.video.recv()).is_keyframe:
            keyframes.append(count)
    call.close()
    assert keyframes == [0, 55]


async def test_an_endpoint_without_data_channels(generator, clip):
    async with serving(generator) as (server, base):
        calling = asyncio.ensure_future(
            send(clip_source(clip), 100, base + "/whip/a", None, lambda said: None, stills=False)
        )
        await until(lambda: "a" in server.rooms and server.rooms["a"].stats.frames.received > 10)
        assert server.rooms["a"].requester.stills is None
        stats = room_stats(server.rooms["a"])
        assert stats["stills"] is None
        calling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await calling


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://127.0.0.1:9/whip/a"], ["got 1 argument: give", "CLIP URL"]),
        (
            ["a.mp4", "http://127.0.0.1:9/whip/a", "--camera", "0"],
            ["got 2 arguments: give", "--camera N"],
        ),
        (["no.mp4", "http://127.0.0.1:9/whip/a"], ["there is no file no.mp4"]),
        (["--camera", "97", "http://127.0.0.1:9/whip/a"], ["camera 97 gives no picture", "a clip"]),
        (["CLIP", "http://127.0.0.1:9/whip/a"], ["does not answer", "check the address"]),
        (["CLIP", "ftp://127.0.0.1/whip"], ["ftp://127.0.0.1/whip is not an address to send to"]),
        (["--kbps", "19", "CLIP", "http://127.0.0.1:9/"], ["--kbps", "'19'", "from 20 to 5000"]),
        (["CLIP", "http:///", "--kbps", "20"], ["http:///", "does not answer"]),
    ],
)
def test_invalid_input_is_reported_in_one_sentence(clip, arguments, words):
    arguments = [str(clip) if argument == "CLIP" else argument for argument in arguments]
    assert_one_sentence(run("send", *arguments), *words)


def test_help_says_what_it_takes():
    said = " ".join(run("send", "--help").stdout.split())
    for words in ("send [options] CLIP URL", "--camera N URL", "docs/stills.md", "Ctrl-C ends it"):
        assert words in said
