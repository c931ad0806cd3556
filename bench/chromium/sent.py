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
Verdict: TypeAlias = Literal["agrees", "disagrees", "not measurable"]
"""`not measurable`: Chromium reduced the size because its CPU was too slow, or sent nothing."""


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

    The result has the frames a second that were sent (`fps`), `kbps`, the mean QP of the encoder
    (`encoder_qp`, None if it is unknown), the seconds by `qualityLimitationReason` (`limited_s`),
    and `sizes`: for each size, the most frequent one first, its share of the received frames, their
    median QP (`qp`) and the encoder's mean QP during the seconds in which the size did not change;
    both None if unknown. Without two samples and some time between them the result is empty.
    """
    known = [one for one in samples if "bytes" in one]
    if len(known) < 2 or known[-1]["at"] <= known[0]["at"]:
        return {}
    first, last = known[0], known[-1]
    took = last["at"] - first["at"]
    within = [frame for frame in frames if first["at"] <= frame.at <= last["at"]]
    before, after = (one.get("limited_s", {}) for one in (first, last))
    return {
        "fps": (last["frames"] - first["frames"]) / took,
        "kbps": 8e-3 * (last["bytes"] - first["bytes"]) / took,
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
    verdict: Verdict = "disagrees"
    if not sent.get("sizes") or sent["limited_s"].get("cpu", 0.0) > 0:
        verdict = "not measurable"
    elif (sent["sizes"][0]["width"], sent["sizes"][0]["height"]) == (width, height):
        verdict = "agrees"
    return {"kbps": rung.kbps, "width": width, "height": height, "verdict": verdict}


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
