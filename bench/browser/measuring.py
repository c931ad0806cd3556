"""Calls of a headless Chromium that are restored."""

import asyncio
from pathlib import Path
from typing import Any

from rich.progress import track as progress

from bench.chromium.driver import READY, STATS, chromium, start_call, until
from bench.chromium.janus import PUBLISH_TO_JANUS, janus
from bench.chromium.sent import FrameNotes, Sample, ladder_check, sample, sent_figures
from bench.common.ladder import rung_at
from receiver.calls.config import ServeConfig
from receiver.calls.join import Joined
from receiver.calls.server import Server, listening
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator

CAP = """(() => {
  const slider = document.getElementById("bitrate");
  slider.value = KBPS;
  slider.dispatchEvent(new Event("input"));
})()"""
"""Moves the page's bitrate slider."""
WARM_UP_SECONDS = 5
"""Seconds before measuring begins."""
RESTORED_SECONDS = 15.0
"""Longest wait for the first restored frame of a Janus room."""


async def measure(
    camera: Path, folder: Path, generator: Generator, seconds: int, kbps: int | None
) -> dict[str, Any]:
    """Returns the figures of the page's call for `seconds` after a warm-up.

    Args:
        kbps: the page's cap in kbit/s; None for the page's default.
    """
    notes, enhancer = FrameNotes(), Enhancer(generator)
    enhancer.stages.insert(0, notes)
    server = Server(ServeConfig(port=0), lambda: enhancer)
    async with (
        listening(server) as url,
        chromium(camera, folder / "profile", url) as page,
    ):
        await page.record_connections()
        await start_call(page)
        if kbps is not None:
            await page.evaluate(CAP.replace("KBPS", str(kbps)))
        (room,) = server.rooms.values()
        for _ in progress(range(WARM_UP_SECONDS), "warm-up"):
            await asyncio.sleep(1)
        cap_kbps = int(await page.evaluate("document.getElementById('bitrate').value"))
        before, counts = await page.evaluate(STATS), room.stats.snapshot()["frames"]
        room.stats.forget_timings()
        began = asyncio.get_running_loop().time()
        received: list[tuple[float, int]] = []
        samples: list[Sample] = []
        for _ in progress(range(seconds), "calling"):
            received.append((asyncio.get_running_loop().time(), room.stats.frames.received))
            samples.append(await sample(page))
            await asyncio.sleep(1)
        samples.append(await sample(page))
        after, later = await page.evaluate(STATS), room.stats.snapshot()["frames"]
        took = asyncio.get_running_loop().time() - began
        median, p95 = room.stats.milliseconds("added latency", 50, 95)
        played = after["inbound-rtp"]["decoded"] - before["inbound-rtp"]["decoded"]
        sent = sent_figures(samples, notes.frames)
        return {
            "seconds": round(took, 1),
            "sent_fps": (after["outbound-rtp"]["sent"] - before["outbound-rtp"]["sent"]) / took,
            "received_fps": (later["received"] - counts["received"]) / took,
            "received_fps_lowest_of_2_s": min(
                (b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(received, received[2:], strict=False)
            ),
            "enhanced_fps": (later["enhanced"] - counts["enhanced"]) / took,
            "played_fps": played / took,
            "freezes": after["inbound-rtp"]["freezes"] - before["inbound-rtp"]["freezes"],
            "added_latency_ms": {"median": median, "p95": p95},
            "skew_ms_p99": room.stats.milliseconds("skew", 99)[0],
            "first_restored_s": room.stats.first_restored_s,
            "stills": room.stats.admitted["still"],
            "sent": sent,
            "ladder": ladder_check(sent, rung_at(cap_kbps)),
        }


async def measure_janus(camera: Path, folder: Path, generator: Generator) -> dict[str, Any]:
    """Returns the seconds from joining a Janus room to the first restored frame."""
    (folder / "janus").mkdir()
    async with (
        janus(folder / "janus") as url,
        listening(Server(ServeConfig(port=0), lambda: Enhancer(generator))) as secure_page,
        chromium(camera, folder / "profile-janus", secure_page) as page,
    ):
        await page.wait_for(READY, 20)
        server = url.removeprefix("janus+").split("?")[0]
        await page.lift_policy()
        await page.evaluate(PUBLISH_TO_JANUS.replace("SERVER", f"'{server}'"))
        await page.wait_for("window.publisher.connectionState === 'connected'", 20)
        await asyncio.sleep(WARM_UP_SECONDS)
        joined = Joined(url, None, Enhancer(generator), say=lambda _: None, shows=[])
        running = asyncio.ensure_future(joined.run())
        try:
            await until(lambda: joined.room.stats.first_restored_s is not None, RESTORED_SECONDS)
        finally:
            joined.stop()
            await running
        return {"janus_first_restored_s": joined.first_restored_s}
