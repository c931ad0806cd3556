"""Table and plot of the bitrate bench."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.bitrate.figures import Mean, Point, ratio_of
from bench.common.judging import BASIC
from bench.common.tables import with_interval

TICKS = (25, 50, 100, 200, 400, 800, 1600, 3200)
"""Labelled bitrates of the plot in kbit/s."""


def cells(means: list[Mean], metric: str) -> list[list[str]]:
    """Returns the table of one metric: a header, then a row for each target."""
    table = [["target kb/s", "stream", "with stills", "received", "restored", "ratio", "people"]]
    for mean in means:
        ratio, interval = mean.ratio[metric], mean.interval[metric]
        table.append(
            [
                f"{mean.target:g}",
                f"{mean.stream_kbps:.0f}",
                f"{mean.kbps:.0f}",
                f"{mean.input_quality[metric]:.2f}",
                f"{mean.quality[metric]:.2f}",
                "unknown"
                if ratio is None or interval is None
                else with_interval(ratio, interval, ".2f"),
                f"{mean.with_ratio[metric]} of {mean.people}",
            ]
        )
    return table


def plot(means: list[Mean], path: Path) -> None:
    """Plots quality over rate, as received and restored, and the ratio of the rates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 7), layout="constrained")
    rates = [rate for rate in TICKS if means[0].stream_kbps / 2 < rate < means[-1].kbps * 2]
    for (above, below), (metric, label) in zip(
        figure.subplots(2, len(BASIC), sharex=True).T, BASIC.items(), strict=True
    ):
        received = [mean.input_quality[metric] for mean in means]
        above.plot([mean.stream_kbps for mean in means], received, "o-", label="received")
        kbps = [mean.kbps for mean in means]
        restored = [mean.quality[metric] for mean in means]
        above.plot(kbps, restored, "o-", label="restored, stills' bits included")
        above.set_ylabel(label)
        above.legend()
        known = [mean for mean in means if mean.interval[metric] is not None]
        ratios = np.array([mean.ratio[metric] for mean in known])
        ends = np.array([mean.interval[metric] for mean in known]).reshape(-1, 2)
        # The percentiles of a skewed bootstrap may lie on one side of the mean.
        bars = np.clip([ratios - ends[:, 0], ends[:, 1] - ratios], 0.0, None)
        below.errorbar([mean.kbps for mean in known], ratios, bars, fmt="o-", capsize=3)
        below.axhline(1.0, color="black", linewidth=0.8)
        below.set_ylabel(f"rate for the same {label}, received : restored")
        below.set_xlabel("kb/s")
        for axes in (above, below):
            axes.set_xscale("log")
            axes.set_xticks(rates, [f"{rate:.0f}" for rate in rates], minor=False)
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def clip_figures(points: list[Point]) -> list[dict[str, Any]]:
    """Returns every point with its ratios, ready for JSON."""
    return [
        asdict(point) | {"ratio": {metric: ratio_of(point, points, metric) for metric in BASIC}}
        for point in points
    ]
