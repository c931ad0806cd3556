"""A browser's call: `python -m bench browser`.

Headless Chromium sends the demo's own clip with sound to `receiver serve` and plays what comes
back, both on this machine; with --janus also through a Janus room to `receiver join`.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.progress import track as progress
from rich.table import Table

from receiver.commands.terminal import console
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.sending.portrait import portrait_frames
from tests.calls.chromium import BINARY, READY, chromium, start_call, write_y4m
from tests.calls.peer import serving
from tests.calls.test_browser import PUBLISH_TO_JANUS, STATS
from tests.calls.test_join import JANUS, janus, joining, until

CAP = """(() => {
  const slider = document.getElementById("bitrate");
  slider.value = KBPS;
  slider.dispatchEvent(new Event("input"));
})()"""
"""Moves the page's slider."""
WARM_UP = 5
"""Seconds before the figures begin."""


async def measure(
    camera: Path, folder: Path, generator: Generator, seconds: int, kbps: int | None
) -> dict[str, Any]:
    """The page's call for `seconds`, after a warm-up, capped at `kbps` kbit/s."""
    async with (
        serving(generator) as (server, base),
        chromium(camera, folder / "profile", base + "/") as page,
    ):
        await page.record_connections()
        await start_call(page)
        if kbps is not None:
            await page.evaluate(CAP.replace("KBPS", str(kbps)))
        (room,) = server.rooms.values()
        for _ in progress(range(WARM_UP), "warm-up"):
            await asyncio.sleep(1)
        before, counts = await page.evaluate(STATS), room.stats.snapshot()["frames"]
        room.stats.forget_timings()
        began = asyncio.get_running_loop().time()
        received: list[tuple[float, int]] = []
        for _ in progress(range(seconds), "calling"):
            received.append((asyncio.get_running_loop().time(), room.stats.frames.received))
            await asyncio.sleep(1)
        after, later = await page.evaluate(STATS), room.stats.snapshot()["frames"]
        took = asyncio.get_running_loop().time() - began
        median, p95 = room.stats.milliseconds("added latency", 50, 95)
        played = after["inbound-rtp"]["decoded"] - before["inbound-rtp"]["decoded"]
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
        }


async def measure_janus(camera: Path, folder: Path, generator: Generator) -> dict[str, Any]:
    """Seconds from joining a Janus room to the first restored frame."""
    (folder / "janus").mkdir()
    async with (
        janus(folder / "janus") as url,
        serving(generator) as (_, base),
        chromium(camera, folder / "profile-janus", base + "/") as page,
    ):
        await page.wait_for(READY, 20)
        server = url.removeprefix("janus+").split("?")[0]
        await page.lift_policy()
        await page.evaluate(PUBLISH_TO_JANUS.replace("SERVER", f"'{server}'"))
        await page.wait_for("window.publisher.connectionState === 'connected'", 20)
        await asyncio.sleep(WARM_UP)
        async with joining(url, generator) as (joined, _):
            await until(lambda: joined.room.stats.first_restored_s is not None)
        return {"janus_first_restored_s": joined.first_restored_s}


def table(figures: dict[str, Any]) -> Table:
    """A row a figure."""
    shown = Table("figure", "value", title="Chromium to receiver to Chromium, 640x480")
    for name, value in figures.items():
        text = value
        if isinstance(value, dict):
            text = ", ".join(f"{key} {number:.1f}" for key, number in value.items())
        shown.add_row(name, f"{text:.2f}" if isinstance(text, float) else str(text))
    return shown


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench browser",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--seconds", type=int, default=60, help="length (default 60)")
    parser.add_argument("--kbps", type=int, help="the page's cap in kbit/s (default the page's)")
    parser.add_argument("--janus", action="store_true", help="measure joining Janus too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args(arguments)
    if BINARY is None:
        parser.error("there is no Chromium: apt install chromium")
    if args.janus and JANUS is None:
        parser.error("there is no Janus: apt install janus")
    generator = Generator("lite", "cpu")
    Enhancer(generator).warm_up()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_y4m(folder / "camera.y4m", list(portrait_frames()))
        figures = asyncio.run(
            measure(folder / "camera.y4m", folder, generator, args.seconds, args.kbps)
        )
        if args.janus:
            figures |= asyncio.run(measure_janus(folder / "camera.y4m", folder, generator))
    console().print(table(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
