"""What Chromium really sent: sizes, QPs, frame rate, and whether the ladder agrees with it.

Sizes and QPs are those of the frames that the receiver decoded; the rest is Chromium's own
`getStats`.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from bench.chromium.driver import Page
from bench.common.ladder import Rung
from receiver.enhance.stage import Canvas, FrameContext, Stage

OUTBOUND = """(async () => {
  const row = {};
  for (const r of (await connections[0].getStats()).values()) {
    if (r.kind !== "video") continue;
    if (r.type === "outbound-rtp") Object.assign(row, {target_kbps: r.targetBitrate / 1000,
      bytes: r.bytesSent, frames: r.framesSent, width: r.frameWidth, height: r.frameHeight,
      encoded: r.framesEncoded, qp_sum: r.qpSum, limited_by: r.qualityLimitationReason,
      limited_s: r.qualityLimitationDurations, encoder: r.encoderImplementation,
      key_frames: r.keyFramesEncoded, plis: r.pliCount, nacks: r.nackCount});
    if (r.type === "remote-inbound-rtp") row.rtt_ms = 1000 * r.roundTripTime;
  }
  return row;
})()"""
"""Reads a sample of what the page's first connection, the publisher's, has sent so far."""
SETTLING = 4.0
"""Seconds from the first frame until a browser has found the size for its bitrate."""
CAMERA = 640, 480
"""Width and height of the camera in pixels."""

Sample: TypeAlias = dict[str, Any]
"""The values of `OUTBOUND`, and when they were read: `at`, in seconds of a monotonic clock."""
REACHED = 0.9
"""Share of a rung's bitrate that the encoder has to be given for the rung to be checked."""
Verdict: TypeAlias = Literal["agrees", "disagrees", "not measurable"]
"""`not measurable`: something else than the rung's bitrate chose the size: Chromium's CPU was too
slow, or its estimate of the bandwidth was lower; or nothing was sent."""


class NotedFrame(NamedTuple):
    """A decoded frame: when it was noted (monotonic seconds), its size in pixels, its mean QP."""

    at: float
    width: int
    height: int
    qp: float | None


class FrameNotes(Stage):
    """Notes each frame that arrives, also those that are not enhanced; changes none.

    Attributes:
        frames: in order.
    """

    def __init__(self) -> None:
        self.frames: list[NotedFrame] = []

    def run(self, context: FrameContext, canvas: Canvas) -> Canvas:
        """See `Stage.run`."""
        self.observe(context)
        return canvas

    def observe(self, context: FrameContext) -> None:
        """See `Stage.observe`."""
        video = context.frame.video
        noted = NotedFrame(time.monotonic(), video.width, video.height, context.frame.qp)
        self.frames.append(noted)


async def sample(page: Page) -> Sample:
    """Reads `OUTBOUND`."""
    return {**await page.evaluate(OUTBOUND), "at": time.monotonic()}


async def sampled(page: Page, seconds: float) -> list[Sample]:
    """Returns samples from now on for `seconds`, one each second and one at the end."""
    end = time.monotonic() + seconds
    samples = [await sample(page)]
    while (left := end - time.monotonic()) > 0:
        await asyncio.sleep(min(1.0, left))
        samples.append(await sample(page))
    return samples


def sent_figures(samples: Iterable[Sample], frames: Iterable[NotedFrame]) -> dict[str, Any]:
    """Returns what was sent from the first sample to the last.

    The result is empty without two samples and some time between them. It has:

    - `fps`, `kbps`: frames a second and kbit/s.
    - `target_kbps`: the median bitrate that the encoder was given.
    - `encoder_qp`: the encoder's mean QP.
    - `limited_s`: seconds by `qualityLimitationReason`.
    - `sizes`: of each size, the most frequent one first, its share of the received frames, their
      median `qp`, and `encoder_qp` of the seconds during which the size did not change.

    Unknown bitrates and QPs are None.
    """
    known = [one for one in samples if "bytes" in one]
    if len(known) < 2 or known[-1]["at"] <= known[0]["at"]:
        return {}
    first, last = known[0], known[-1]
    took = last["at"] - first["at"]
    within = [frame for frame in frames if first["at"] <= frame.at <= last["at"]]
    targets = [one["target_kbps"] for one in known if one.get("target_kbps") is not None]
    before, after = (one.get("limited_s", {}) for one in (first, last))
    return {
        "fps": (last["frames"] - first["frames"]) / took,
        "kbps": 8e-3 * (last["bytes"] - first["bytes"]) / took,
        "target_kbps": float(np.median(targets)) if targets else None,
        "encoder_qp": _mean_qp([(first, last)]),
        "limited_s": {
            reason: seconds - before.get(reason, 0.0)
            for reason, seconds in after.items()
            if seconds > before.get(reason, 0.0)
        },
        "sizes": _sizes(within, list(pairwise(known))),
    }


def _sizes(
    frames: list[NotedFrame], intervals: list[tuple[Sample, Sample]]
) -> list[dict[str, Any]]:
    """Returns the figures of each size, the most frequent one first."""
    qps: dict[tuple[int, int], list[float | None]] = defaultdict(list)
    for frame in frames:
        qps[frame.width, frame.height].append(frame.qp)
    found = []
    for size, all_qps in sorted(qps.items(), key=lambda one: -len(one[1])):
        steady = [pair for pair in intervals if _size(pair[0]) == _size(pair[1]) == size]
        known = [qp for qp in all_qps if qp is not None]
        figures = {
            "width": size[0],
            "height": size[1],
            "share": len(all_qps) / len(frames),
            "qp": float(np.median(known)) if known else None,
            "encoder_qp": _mean_qp(steady),
        }
        found.append(figures)
    return found


def _size(one: Sample) -> tuple[int | None, int | None]:
    return one.get("width"), one.get("height")


def _mean_qp(intervals: list[tuple[Sample, Sample]]) -> float | None:
    """Returns the encoder's mean QP over the frames that it encoded in the intervals."""
    known = [pair for pair in intervals if "qp_sum" in pair[0] and "qp_sum" in pair[1]]
    encoded = sum(after["encoded"] - before["encoded"] for before, after in known)
    total = sum(after["qp_sum"] - before["qp_sum"] for before, after in known)
    return float(total / encoded) if encoded else None


def ladder_check(sent: dict[str, Any], rung: Rung) -> dict[str, Any]:
    """Returns the bitrate of a rung, the size that it says for `CAMERA`, and the `Verdict`.

    Args:
        sent: see `sent_figures`. The most frequent size counts.
    """
    width, height = rung.size_of(*CAMERA)
    verdict: Verdict = "not measurable"
    if is_limited_by_rate(sent, rung.kbps):
        most = sent["sizes"][0]
        is_same = (most["width"], most["height"]) == (width, height)
        verdict = "agrees" if is_same else "disagrees"
    return {"kbps": rung.kbps, "width": width, "height": height, "verdict": verdict}


def is_limited_by_rate(sent: dict[str, Any], kbps: float) -> bool:
    """Returns whether frames were sent, and nothing but the bitrate `kbps` limited them."""
    if not sent.get("sizes") or sent["limited_s"].get("cpu", 0.0) > 0:
        return False
    target: float | None = sent["target_kbps"]
    return target is None or target >= REACHED * kbps


def sizes_text(sent: dict[str, Any], separator: str = ", ") -> str:
    """Returns the sizes, their shares and QPs such as `320x240 97 % QP 38.5`; a dash for none."""
    texts = []
    for one in sent.get("sizes", []):
        qp = "–" if one["qp"] is None else f"{one['qp']:.1f}"
        texts.append(f"{one['width']}x{one['height']} {100 * one['share']:.0f} % QP {qp}")
    return separator.join(texts) or "–"


def limits_text(sent: dict[str, Any]) -> str:
    """Returns what limited the quality, and for how long, such as `bandwidth 8 s`."""
    limits = sent.get("limited_s", {}).items()
    return ", ".join(f"{reason} {seconds:.0f} s" for reason, seconds in limits) or "–"
