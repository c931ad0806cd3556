"""A real Chromium on the served page: sends the camera and shows the restored video."""

import asyncio
import os
from pathlib import Path

import av
import cv2
import pytest

from bench.chromium.driver import BINARY, READY, STATS, Page, chromium, start_call, write_y4m
from bench.chromium.janus import JANUS, PUBLISH_TO_JANUS, janus
from keyframes.requests import LARGEST
from receiver.media.planes import planes
from receiver.sending.portrait import portrait_frames
from tests.calls.peer import serving, until
from tests.calls.test_join import joining

pytestmark = pytest.mark.skipif(BINARY is None, reason="needs apt install chromium")


@pytest.fixture(scope="module")
def camera(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("camera") / "camera.y4m"
    write_y4m(path, list(portrait_frames()))
    return path


async def rows_with(page: Page, frames: int) -> dict:
    """Returns the page's statistics once it has sent and decoded more than `frames`."""
    async with asyncio.timeout(20):
        while True:
            rows = await page.evaluate(STATS)
            sent = rows.get("outbound-rtp", {}).get("sent", 0)
            decoded = rows.get("inbound-rtp", {}).get("decoded", 0)
            if min(sent, decoded) > frames:
                return rows
            await asyncio.sleep(0.1)


async def test_the_page_sends_the_camera_and_shows_it_restored(generator, camera, tmp_path):
    async with (
        serving(generator) as (server, base),
        chromium(camera, tmp_path / "profile", base + "/") as page,
    ):
        await page.record_connections()
        await start_call(page)
        rows = await rows_with(page, 60)
        assert rows["outbound-rtp"]["codec"] == rows["inbound-rtp"]["codec"] == "video/H264"
        assert rows["inbound-rtp"]["width"] == 2 * rows["outbound-rtp"]["width"]
        assert await page.evaluate("document.getElementById('message').hidden")
        await page.wait_for("parseFloat(document.getElementById('fps').textContent) > 5", 10)
        assert await page.evaluate("document.getElementById('device').textContent") == "cpu"
        shot = Path(os.environ.get("SCREENSHOT", tmp_path / "page.png"))
        await page.screenshot(shot)
        assert cv2.imread(str(shot)).std() > 20
        (room,) = server.rooms.values()
        assert room.stats.frames.received > 60
        await page.evaluate("document.getElementById('start').click()")  # now says Stop
        async with asyncio.timeout(2):
            while server.rooms:
                await asyncio.sleep(0.02)


async def test_the_page_answers_a_request_for_a_still(generator, portrait, tmp_path):
    """Of a camera with four times the pixels that the page sends."""
    large = [frame.reformat(1280, 960) for frame in portrait[:15]]
    write_y4m(tmp_path / "large.y4m", large + large[::-1])
    async with (
        serving(generator) as (server, base),
        chromium(tmp_path / "large.y4m", tmp_path / "profile", base + "/") as page,
    ):
        await page.record_connections()
        await page.evaluate("document.getElementById('bitrate').value = 50")
        await start_call(page)
        (room,) = server.rooms.values()
        await until(lambda: room.stats.admitted["still"] > 0)  # the room asked by itself
        assert room.stats.admitted["nobody's"] == 0
        room.requester.consider = lambda frame: None
        await until(lambda: room.requester.stills.ready)
        asked = room.requester.stills.counts.requested
        stills: list[av.VideoFrame] = []
        room.requester.stills._on_still = lambda still: stills.append(still.picture)
        for max_bytes in (40_000, 2_000):
            before = room.stats.frames.received
            assert room.requester.stills.request(max_bytes, 200)
            await until(lambda: not room.requester.stills.waiting)
            assert room.stats.frames.received > before
        counts = room.requester.stills.counts
        assert counts.requested == counts.received == asked + 2, counts
        assert counts.bytes <= 42_000 + asked * LARGEST
        camera = await page.evaluate(
            "(({width, height}) => [width, height])(connections[0].getSenders()"
            ".find((one) => one.track?.kind === 'video').track.getSettings())"
        )
        assert [stills[0].width, stills[0].height] == camera
        assert camera[0] == 1280
        assert stills[1].width < 1280
        rows = await page.evaluate(STATS)
        assert rows["outbound-rtp"]["width"] <= 640
        assert await page.evaluate("document.getElementById('stills').textContent") == str(
            asked + 2
        )
        sent = cv2.Laplacian(planes(stills[0])[0], cv2.CV_32F).std()
        assert sent > 0.5 * cv2.Laplacian(planes(large[0])[0], cv2.CV_32F).std()
        assert (
            abs(
                stills[0].to_ndarray(format="rgb24").mean((0, 1))
                - large[0].to_ndarray(format="rgb24").mean((0, 1))
            ).max()
            < 12
        )


TRICKLE = """
(async () => {
  const stream = await navigator.mediaDevices.getUserMedia({video: {width: 640, height: 480}});
  const connection = window.publisher = new RTCPeerConnection({bundlePolicy: "max-bundle"});
  const transceiver = connection.addTransceiver(stream.getVideoTracks()[0],
    {direction: "sendonly"});
  transceiver.setCodecPreferences(RTCRtpSender.getCapabilities("video").codecs
    .filter(({mimeType}) => mimeType === "video/H264"));
  const candidates = [];
  const gathered = new Promise((done) => {
    connection.onicecandidate = ({candidate}) =>
      candidate?.candidate ? candidates.push(candidate.candidate) : done();
  });
  const offer = await connection.createOffer();
  if (offer.sdp.includes("a=candidate")) throw new Error("the offer has candidates already");
  const posted = await fetch("/whip/late", {method: "POST", body: offer.sdp,
    headers: {"Content-Type": "application/sdp"}});
  await connection.setLocalDescription(offer);
  await gathered;
  const [ufrag, pwd] = ["ice-ufrag", "ice-pwd"].map((name) =>
    offer.sdp.match(new RegExp(`a=${name}:.*`))[0]);
  const lines = [ufrag, pwd, "m=video 9 UDP/TLS/RTP/SAVPF 0", "a=mid:0",
    ...candidates.map((one) => `a=${one}`), "a=end-of-candidates", ""];
  const patched = await fetch(posted.headers.get("Location"), {method: "PATCH",
    body: lines.join("\\r\\n"), headers: {"Content-Type": "application/trickle-ice-sdpfrag",
    "If-Match": posted.headers.get("ETag")}});
  await connection.setRemoteDescription({type: "answer", sdp: await posted.text()});
  return {status: patched.status, trickles: connection.canTrickleIceCandidates, candidates};
})()
"""
"""Publishes an offer without candidates, and sends them before the answer is used."""


async def test_a_browser_trickles_its_candidates(generator, camera, tmp_path):
    async with (
        serving(generator) as (server, base),
        chromium(camera, tmp_path / "profile", base + "/") as page,
    ):
        await page.wait_for(READY, 20)
        told = await page.evaluate(TRICKLE)
        assert (told["status"], told["trickles"]) == (204, True)
        sent = {
            (words[4], int(words[5]))
            for words in (one.split() for one in told["candidates"])
            if words[2] == "udp"
        }
        room = server.rooms["late"]
        transport = room._publisher.getTransceivers()[0].receiver.transport.transport
        assert sent
        assert sent <= {(one.ip, one.port) for one in transport.getRemoteCandidates()}
        await until(lambda: room.stats.frames.received > 5)


@pytest.mark.skipif(JANUS is None, reason="needs apt install janus")
async def test_chromium_to_janus_to_join(generator, camera, tmp_path):
    folder = tmp_path / "janus"
    folder.mkdir()
    async with (
        janus(folder) as url,
        serving(generator) as (_, base),  # a secure page to publish from
        chromium(camera, tmp_path / "profile", base + "/") as page,
    ):
        await page.wait_for(READY, 20)
        await page.lift_policy()
        server = url.removeprefix("janus+").split("?")[0]
        await page.evaluate(PUBLISH_TO_JANUS.replace("SERVER", f"'{server}'"))
        await page.wait_for("window.publisher.connectionState === 'connected'", 20)
        await asyncio.sleep(1)
        async with joining(url, generator) as (joined, seen):
            await until(lambda: len(seen) > 60)
            assert joined.room.stats.keyframes >= 1
            assert joined.room.stats.frames.enhanced > 0


async def test_a_closed_tab_frees_the_room(generator, camera, tmp_path):
    async with (
        serving(generator) as (server, base),
        chromium(camera, tmp_path / "profile", base + "/") as page,
    ):
        await start_call(page)
        assert len(server.rooms) == 1
        await page.call("Page.navigate", url="about:blank")
        async with asyncio.timeout(2):
            while server.rooms:
                await asyncio.sleep(0.02)


async def test_a_page_that_asks_for_a_token_says_so(generator, camera, tmp_path):
    async with (
        serving(generator, token="secret") as (server, base),
        chromium(camera, tmp_path / "profile", base + "/") as page,
    ):
        await page.wait_for(READY, 20)
        await page.evaluate("document.getElementById('start').click()")
        await page.wait_for("!document.getElementById('message').hidden", 10)
        said = await page.evaluate("document.getElementById('message').textContent")
        assert "asks for a token" in said
        await page.evaluate("document.getElementById('token').value = 'secret'")
        await page.evaluate("document.getElementById('start').click()")
        await page.wait_for("document.getElementById('restored').videoWidth > 0", 20)
        assert len(server.rooms) == 1


async def said(page, seconds: float = 20) -> str:
    """The page's message, once there is one."""
    await page.wait_for("!document.getElementById('message').hidden", seconds)
    return await page.evaluate("document.getElementById('message').textContent")


async def test_the_policy_blocks_nothing_of_the_page_and_everything_else(
    generator, camera, tmp_path
):
    async with (
        serving(generator) as (_, base),
        chromium(camera, tmp_path / "profile", "about:blank") as page,
    ):
        await page.call("Log.enable")
        await page.call("Page.navigate", url=base + "/")
        await start_call(page)
        await page.wait_for("parseFloat(document.getElementById('fps').textContent) > 5", 10)
        await page.evaluate("document.getElementById('divider').value = 20")
        assert await page.complaints() == []
        run = "window.ran = true"
        for kind in ("textContent", "src"):
            value = run if kind == "textContent" else f"data:text/javascript,{run}"
            await page.evaluate(
                "document.body.append(Object.assign(document.createElement('script'), "
                f"{{{kind}: {value!r}}}))"
            )
        await page.evaluate("fetch('http://127.0.0.2/').catch(() => {})")
        await page.evaluate(f"document.body.innerHTML += '<iframe src=\"{base}/\"></iframe>'")
        assert not await page.evaluate("window.ran === true")
        said = " ".join(await page.complaints())
        for directive in ("script-src", "connect-src", "frame-src"):
            assert directive in said


async def test_the_token_leaves_the_address_and_stays_with_the_tab(generator, camera, tmp_path):
    token = "ünter & über+50%"
    address = "/#token=%C3%BCnter%20%26%20%C3%BCber+50%25&room=studio%201"
    async with (
        serving(generator, tokens=[f"all@studio%201:{token}"]) as (server, base),
        chromium(camera, tmp_path / "profile", base + address) as page,
    ):
        await start_call(page)
        assert await page.evaluate("location.href") == f"{base}/#room=studio%201"
        assert set(server.rooms) == {"studio 1"}
        await page.wait_for("parseFloat(document.getElementById('fps').textContent) > 5", 10)
        await page.call("Page.reload")
        await until(lambda: not server.rooms)
        await start_call(page)
        assert set(server.rooms) == {"studio 1"}
        assert await page.evaluate("sessionStorage.length") == 1
        # An address that is changed in the same tab counts as well, and is cleaned as well.
        await page.evaluate("location.hash = '#token=wrong'")
        await page.wait_for(f"location.href === '{base}/'", 5)
        await page.wait_for("document.getElementById('start').textContent === 'Start'", 5)
        await page.evaluate("document.getElementById('start').click()")
        assert "asks for a token" in await said(page)
        assert await page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize(
    ("roles", "sentence"),
    [
        ("watch,stats", "this token may not publish to page-"),
        ("publish", "this token may not watch page-"),
        ("publish,watch", "this token may not read figures"),
        ("all@other", "this token may not publish to page-"),
    ],
)
async def test_a_token_that_allows_less_is_reported(generator, camera, tmp_path, roles, sentence):
    async with (
        serving(generator, tokens=[f"{roles}:secret"]) as (server, base),
        chromium(camera, tmp_path / "profile", base + "/#token=secret") as page,
    ):
        await page.wait_for(READY, 20)
        await page.evaluate("document.getElementById('start').click()")
        assert sentence in await said(page)
        hidden = await page.evaluate("document.getElementById('token-field').hidden")
        assert hidden == (roles == "publish,watch")
        if roles == "publish,watch":
            assert await page.evaluate("document.getElementById('restored').videoWidth > 0")
        else:
            await until(lambda: not server.rooms)


async def test_a_denied_camera_is_reported(generator, camera, tmp_path):
    deny = "--deny-permission-prompts"
    async with (
        serving(generator) as (_, base),
        chromium(camera, tmp_path / "profile", base + "/", deny) as page,
    ):
        await page.wait_for(READY, 20)
        await page.evaluate(
            "navigator.mediaDevices.getUserMedia = async () => "
            "{ throw new DOMException('no', 'NotAllowedError'); }"
        )
        await page.evaluate("document.getElementById('start').click()")
        await page.wait_for("!document.getElementById('message').hidden", 10)
        said = await page.evaluate("document.getElementById('message').textContent")
        assert said.startswith("The browser denies the camera")
