"""Figures of a call: freezes, lag, recovery, bitrates and queues."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.calls.link import Conditions
from bench.calls.numbered import mean_quality
from bench.calls.scenarios import Scenario
from bench.chromium.sent import SETTLING, NotedFrame, ladder_check, sent_figures
from bench.common.ladder import rung_at

Times = NDArray[np.float64]


FREEZE = 0.2
"""Seconds without a frame that count as a freeze."""


SETTLED = 1.0
"""Seconds without a freeze that show that a call has recovered."""


CLIMBED_KBPS = 1500
"""Chromium's target bitrate in kbit/s that counts as full rate."""


def freezes(left: Times, end: float) -> Times:
    """Returns the seconds of each freeze between the times at which frames left, and the end."""
    gaps = np.diff(np.append(left, end))
    return gaps[gaps > FREEZE]


def lag_ms(left: Times, taken: Times) -> float:
    """Returns how much later than the fastest frame the last ten left, by the frames' own time."""
    delays = left - taken
    return float(1e3 * (np.median(delays[-10:]) - delays.min()))


def recovered_s(left: Times, enhanced: NDArray[np.bool_], event: float, end: float) -> float | None:
    """Returns the seconds from an event to the first enhanced frame without a freeze after it.

    None if no frame is followed by `SETTLED` seconds without a freeze before the call ends.
    """
    for moment in left[enhanced & (left >= event)]:
        after = left[(left >= moment) & (left <= moment + SETTLED)]
        if moment + SETTLED <= end and not freezes(after, moment + SETTLED).size:
            return float(moment - event)
    return None


def figures(noted: dict[str, Any], scenario: Scenario) -> dict[str, Any]:
    """Returns the figures of one call, as the table shows them."""
    seconds = noted["seconds"]
    left, taken, received, enhanced = np.array(noted["left"], np.float64).reshape(-1, 4).T
    if left.size < 2:
        return {"received_fps": 0.0}
    frozen = freezes(left, seconds)
    event = scenario.event_s if noted["hole_at"] is None else noted["hole_at"]
    is_enhanced = np.diff(enhanced, prepend=enhanced[0]) > 0
    return {
        "received_fps": (received[-1] - received[0]) / seconds,
        "enhanced_fps": (enhanced[-1] - enhanced[0]) / seconds,
        "freezes": int(frozen.size),
        "frozen_s": float(frozen.sum()),
        "longest_freeze_s": float(frozen.max(initial=0.0)),
        "lag_ms": lag_ms(left, taken),
        "recovered_s": None if event is None else recovered_s(left, is_enhanced, event, seconds),
        **rates(noted["sent"]),
        **sizes(noted, scenario),
        **passage_figures(noted["passages"], scenario, seconds),
        "face": mean_quality(noted["faces"]),
        "starved": starved(noted["stats"]),
        "relay_late_ms_p99": 1e3 * float(np.percentile(noted["late"] or [0.0], 99)),
    }


def starved(stats: list[list[Any]]) -> float:
    """Returns the share of the call during which the receiver's event loop waited for a core."""
    return float((stats[-1][2] - stats[0][2]) / max(stats[-1][0] - stats[0][0], 1e-3))


def rates(sent: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns Chromium's bitrate in kbit/s, and when its target reached full rate (or None)."""
    within = [row for row in sent if "bytes" in row]
    if not within:
        return {}
    took = within[-1]["at"] - within[0]["at"]
    climbed = (row["at"] for row in within if (row.get("target_kbps") or 0) >= CLIMBED_KBPS)
    return {
        "sent_kbps": 8e-3 * (within[-1]["bytes"] - within[0]["bytes"]) / max(took, 1e-3),
        "full_rate_s": next(climbed, None),
    }


def sizes(noted: dict[str, Any], scenario: Scenario) -> dict[str, Any]:
    """Returns what Chromium `sent` once it had settled, see `sent_figures`.

    If the network does nothing but delay packets, the result of the `ladder` check is there too:
    then the page's cap alone limits the bitrate.
    """
    settled = [one for one in noted["sent"] if one["at"] >= SETTLING]
    sent = sent_figures(settled, (NotedFrame(*row) for row in noted["decoded"]))
    if any(replace(phase.conditions, delay_ms=0.0) != Conditions() for phase in scenario.phases):
        return {"sent": sent}
    return {"sent": sent, "ladder": ladder_check(sent, rung_at(scenario.cap_kbps))}


def passage_figures(
    passages: list[list[Any]], scenario: Scenario, seconds: float
) -> dict[str, Any]:
    """Returns the share of lost packets; at a limited rate also kbit/s and queueing time in ms."""
    lost = [one for one in passages if one[2] is None]
    found: dict[str, Any] = {"lost": len(lost) / max(1, len(passages))}
    ends = [phase.at for phase in scenario.phases[1:]] + [seconds]
    for phase, end in zip(scenario.phases, ends, strict=True):
        if phase.conditions.kbps is not None:
            within = [one for one in passages if phase.at <= one[0] < end and one[2] is not None]
            waits = [one[2] for one in within] or [0.0]
            found["limited_kbps"] = 8e-3 * sum(one[1] for one in within) / (end - phase.at)
            found["queue_ms"] = {
                "median": 1e3 * float(np.median(waits)),
                "p95": 1e3 * float(np.percentile(waits, 95)),
            }
    return found
