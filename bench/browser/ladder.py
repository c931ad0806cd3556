"""Whether Chromium still sends the sizes of the ladder: a call for each rung."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track as progress

from bench.chromium.driver import chromium, publish, until
from bench.chromium.sent import (
    SETTLING,
    FrameNotes,
    ladder_check,
    limits_text,
    sampled,
    sent_figures,
    sizes_text,
)
from bench.common.ladder import LADDER, Rung
from receiver.calls.config import ServeConfig
from receiver.calls.server import Server, listening
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError

FIRST_FRAME_SECONDS = 30.0
"""Longest wait for the first frame of a call."""


async def measure_ladder(
    camera: Path,
    folder: Path,
    generator: Generator,
    seconds: float,
    rungs: Sequence[Rung] = LADDER,
) -> dict[str, Any]:
    """Returns `sent` and the `ladder` check of each of the `rungs`, and Chromium's version.

    Args:
        camera: a y4m file.
        folder: for the browser's profiles.
        seconds: how long each call is measured after it has settled.

    Raises InputError if Chromium sends nothing.
    """
    results = []
    version = ""
    for rung in progress(rungs, "calling"):
        sent, version = await measure_rung(camera, folder, generator, rung, seconds)
        results.append({"sent": sent, "ladder": ladder_check(sent, rung)})
    return {"chromium": version, "seconds": seconds, "rungs": results}


async def measure_rung(
    camera: Path,
    folder: Path,
    generator: Generator,
    rung: Rung,
    seconds: float,
    settling: float = SETTLING,
) -> tuple[dict[str, Any], str]:
    """Returns what Chromium sends at the rung's bitrate (`sent_figures`), and its version.

    It sends for `settling` seconds before it is measured for `seconds`.

    The receiver decodes and restores nothing, and the page plays nothing, so that they use as
    little of the encoder's CPU as possible.
    """
    notes, enhancer = FrameNotes(), Enhancer(generator)
    enhancer.stages[:] = [notes]
    profile = folder / f"profile-{rung.kbps:g}"
    async with (
        listening(Server(ServeConfig(port=0), lambda: enhancer)) as url,
        chromium(camera, profile, url) as page,
    ):
        await publish(page, round(rung.kbps))
        try:
            await until(lambda: bool(notes.frames), FIRST_FRAME_SECONDS)
        except TimeoutError:
            sentence = f"Chromium sent no frame at {rung.kbps:g} kbit/s in"
            raise InputError(f"{sentence} {FIRST_FRAME_SECONDS:g} s: try again") from None
        await asyncio.sleep(settling)
        samples = await sampled(page, seconds)
        agent = await page.evaluate("navigator.userAgent")
    return sent_figures(samples, notes.frames), version_of(agent)


def version_of(agent: str) -> str:
    """Returns the version in Chromium's `navigator.userAgent`."""
    found = re.search(r"Chrome/(\d+)", agent)
    return found[1] if found else "unknown"


def ladder_table(results: list[dict[str, Any]]) -> list[list[str]]:
    """Returns a row for each rung, after the header."""
    rows = [["cap kbit/s", "sent as", "fps", "kbit/s", "target", "limited by", "ladder", "verdict"]]
    for result in results:
        sent, ladder = result["sent"], result["ladder"]
        rows.append(
            [
                f"{ladder['kbps']:g}",
                sizes_text(sent, "\n"),
                f"{sent['fps']:.1f}" if sent else "–",
                f"{sent['kbps']:.0f}" if sent else "–",
                f"{sent['target_kbps']:.0f}" if sent and sent["target_kbps"] is not None else "–",
                limits_text(sent),
                f"{ladder['width']}x{ladder['height']}",
                ladder["verdict"],
            ]
        )
    return rows


def disagreement(results: list[dict[str, Any]]) -> str | None:
    """Returns a sentence that names the rungs that disagree, or None if all agree."""
    wrong = []
    for result in results:
        sent, ladder = result["sent"], result["ladder"]
        if ladder["verdict"] == "disagrees":
            rung = f"{ladder['width']}x{ladder['height']} at {ladder['kbps']:g} kbit/s"
            most = sent["sizes"][0]
            wrong.append(f"{rung}, but Chromium sends {most['width']}x{most['height']}")
    return f"the ladder says {'; '.join(wrong)}" if wrong else None
