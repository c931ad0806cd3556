"""The plot of the latency bench."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from bench.latency.comparison import OURS
from bench.latency.paced import FPS
from bench.latency.stages import PER_FACE, STAGES


def plot(runs: list[dict[str, Any]], compared: list[dict[str, Any]], path: Path) -> None:
    """Plots the stages' medians of each scene, and comparisons with the paper's method.

    Args:
        compared: those in which a form of it was timed.
    """
    from matplotlib.figure import Figure

    heights = [1.6 + 0.75 * len(runs), *(4.6 for _ in compared)]
    figure = Figure(figsize=(9.5, sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    plot_scenes(panels[0], runs)
    for axes, one in zip(panels[1:], compared, strict=True):
        plot_fastest(axes, one)
    figure.savefig(path, dpi=120)


def plot_scenes(axes: Any, runs: list[dict[str, Any]]) -> None:
    """Draws a stacked bar of medians for each scene, and marks for its paced call."""
    from matplotlib import colormaps

    left = np.zeros(len(runs))
    for number, stage in enumerate(STAGES):
        medians = [run["stages_ms"][stage]["median"] or 0.0 for run in runs]
        faces = [run["faces"] if stage in PER_FACE else 1 for run in runs]
        widths = np.array(medians) * faces
        colour = colormaps["tab20"](number / 20)
        axes.barh(range(len(runs)), widths, left=left, label=stage, height=0.55, color=colour)
        left += widths
    for mark, name in (("D", "median"), ("|", "p95")):
        ends = [(place, end) for place, run in enumerate(runs) if (end := _end_to_end(run, name))]
        label = f"restored in a paced call,\nend to end: {name}"
        places, values = [place for place, _ in ends], [end for _, end in ends]
        axes.plot(
            values, places, mark, color="black", markersize=5 if mark == "D" else 16, label=label
        )
    axes.axvline(1000 / FPS, color="black", linestyle=":", label=f"one frame at {FPS} fps")
    axes.set_yticks(range(len(runs)), [f"{run['scene']}\n{run['device']}" for run in runs])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds per frame, medians of the stages")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)


def _end_to_end(run: dict[str, Any], name: str) -> float | None:
    """Returns a percentile of the run's single paced call; None without such a call."""
    singles = [calls["each"] for calls in run["paced"] if calls["calls"] == 1 and calls["each"]]
    return singles[0][0]["restored_end_to_end_ms"][name] if singles else None


def plot_fastest(axes: Any, compared: dict[str, Any]) -> None:
    """Draws the medians of ours and of the paper's fastest form by stage, on a logarithmic axis."""
    fastest = compared["fastest"]
    us, them = compared["methods"][OURS], compared["methods"][fastest]
    ours, theirs = us["stages_ms"], them["stages_ms"]
    names = [name for name in ours if ours[name]["median"] or theirs[name]["median"]]
    places = np.arange(len(names))
    for shift, way, label, colour in (
        (-0.2, ours, f"ours: {us['fps']:.1f} frames a second", "tab:blue"),
        (0.2, theirs, f"{fastest}: {them['fps']:.2f}", "tab:orange"),
    ):
        medians = [way[name]["median"] or math.nan for name in names]
        bars = axes.barh(places + shift, medians, height=0.38, label=label, color=colour)
        labels = [f"{value:.0f}" if value >= 100 else f"{value:.2g}" for value in medians]
        axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_title(
        f"{compared['scene']}: {them['factor']:.0f} times as many frames a second as the "
        "fastest published form",
        fontsize=10,
    )
    axes.set_xlabel("ms per frame, medians, logarithmic (the paper's network is untrained)")
    axes.legend(loc="upper right", fontsize=8)
