"""A headless Chromium whose camera is a clip, driven over its DevTools protocol."""

import asyncio
import base64
import contextlib
import itertools
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import av

BINARY = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    # A .local candidate costs a second where there is no multicast.
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--window-size=420,900",
    "--remote-debugging-port=0",
]

STATS = """
(async () => {
  const rows = {};
  for (const connection of window.connections)
    for (const r of (await connection.getStats()).values()) {
      if (r.kind !== "video" || !/^(in|out)bound-rtp$/.test(r.type)) continue;
      const codec = (await connection.getStats()).get(r.codecId);
      rows[r.type] = {codec: codec?.mimeType, fmtp: codec?.sdpFmtpLine,
        decoded: r.framesDecoded, sent: r.framesSent, freezes: r.freezeCount,
        width: r.frameWidth, encoder: r.encoderImplementation, fps: r.framesPerSecond};
    }
  return rows;
})()
"""
"""Reads the figures of the page's received and sent video from its recorded connections."""
RECORD_CONNECTIONS = """
window.connections = [];
const Original = RTCPeerConnection;
window.RTCPeerConnection = class extends Original {
  constructor(...options) { super(...options); window.connections.push(this); }
};
"""


def write_y4m(path: Path, frames: list[av.VideoFrame], rate: int | Fraction = 30) -> None:
    """Frames as the raw video that Chromium takes for a camera."""
    with path.open("wb") as file:
        size = f"W{frames[0].width} H{frames[0].height}"
        per_second = f"F{rate.numerator}:{rate.denominator}"
        file.write(f"YUV4MPEG2 {size} {per_second} Ip A1:1 C420mpeg2\n".encode())
        for frame in frames:
            file.write(b"FRAME\n")
            file.write(frame.to_ndarray(format="yuv420p").tobytes())


READY = "document.readyState === 'complete' && location.href !== 'about:blank'"
"""Whether the page that was asked for is there: `about:blank` is complete too."""


class Page:
    """One page of the browser.

    Attributes:
        events: what the browser reported by itself, of the domains that were enabled.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol."""
        number = next(self._ids)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async for message in self._socket:
            answer = message.json()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)
        raise ConnectionError("Chromium has gone")

    async def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        result = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def wait_for(self, script: str, seconds: float) -> None:
        """Waits until the expression is true."""
        async with asyncio.timeout(seconds):
            while not await self.evaluate(script):
                await asyncio.sleep(0.1)

    async def lift_policy(self) -> None:
        """Reloads the page without its policy, so that it may contact other servers."""
        await self.call("Page.setBypassCSP", enabled=True)
        await self.evaluate("window.isOld = true")
        await self.call("Page.reload")
        await self.wait_for(f"!window.isOld && {READY}", 20)

    async def complaints(self) -> list[str]:
        """Returns the warnings and errors of the console; enable the domain Log before."""
        await self.evaluate("1")  # events that were reported before its answer have arrived now
        entries = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        return [f"{e['text']} {e.get('url', '')}" for e in entries if e["level"] != "verbose"]

    async def record_connections(self) -> None:
        """Makes the page keep its peer connections in `window.connections`."""
        await self.wait_for(READY, 20)
        await self.evaluate(RECORD_CONNECTIONS)

    async def screenshot(self, path: Path) -> None:
        """Writes a screenshot of the page."""
        result = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(result["data"]))


PUBLISH = """(() => {
  const ask = window.fetch;
  window.fetch = (url, how) => `${url}`.startsWith("/whep") ? new Promise(() => {}) : ask(url, how);
  const slider = document.getElementById("bitrate");
  slider.min = slider.step = 1;
  slider.max = slider.value = KBPS;
  document.getElementById("start").click();
})()"""
"""Presses Start, but never plays the result: encoding it would use the call's cores."""


async def publish(page: Page, cap_kbps: int) -> None:
    """Presses Start on the served page, which publishes at most `cap_kbps` and plays nothing."""
    await page.record_connections()
    await page.evaluate(PUBLISH.replace("KBPS", str(cap_kbps)))


async def start_call(page: Page) -> None:
    """Presses Start on the served page and waits until the restored video is shown."""
    await page.wait_for(READY, 20)
    await page.evaluate("document.getElementById('start').click()")
    await page.wait_for("document.getElementById('restored').videoWidth > 0", 20)


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Waits until the condition holds. Raises TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def devtools_port(profile: Path) -> int:
    """Waits for the file with Chromium's port: two lines, created empty and written later."""
    told = profile / "DevToolsActivePort"
    while not told.exists() or len(told.read_text().splitlines()) < 2:
        await asyncio.sleep(0.1)
    return int(told.read_text().splitlines()[0])


@contextlib.asynccontextmanager
async def chromium(camera: Path, profile: Path, url: str, *flags: str) -> AsyncIterator[Page]:
    """Opens `url` in a fresh browser whose camera is the y4m file `camera`."""
    command = [
        str(BINARY),
        *FLAGS,
        *flags,
        f"--use-file-for-fake-video-capture={camera}",
        f"--user-data-dir={profile}",
        url,
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            async with aiohttp.ClientSession() as http:
                async with asyncio.timeout(60):
                    port = await devtools_port(profile)
                    targets: list[dict[str, str]] = []
                    while not targets:
                        response = await http.get(f"http://127.0.0.1:{port}/json")
                        targets = [t for t in await response.json() if t["type"] == "page"]
                        await asyncio.sleep(0.1)
                async with http.ws_connect(
                    targets[0]["webSocketDebuggerUrl"], max_msg_size=1 << 28
                ) as socket:
                    yield Page(socket)
        finally:
            process.kill()
