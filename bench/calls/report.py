"""Table, plot and JSON of the calls bench."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from bench.calls.figures import FREEZE
from bench.chromium.sent import SETTLING, sizes_text

TRANSPORTS = ("stock", "ours")


WIDTH = 220
"""Width of the table in characters."""


def table(results: list[dict[str, Any]], seconds: float) -> Table:
    """Returns the figures of all calls, a row each."""
    columns: dict[str, Callable[[dict[str, Any]], Any]] = {
        "fps in,\nrestored": lambda f: f"{f['received_fps']:.1f}, {f['enhanced_fps']:.1f}",
        "freezes: all,\nlongest s": lambda f: (
            f"{f['freezes']}: {f['frozen_s']:.1f}, {f['longest_freeze_s']:.2f}"
        ),
        "lag at\nend ms": lambda f: f"{f['lag_ms']:.0f}",
        "recov-\nered s": lambda f: f"{f['recovered_s']:.2f}",
        "sent\nkbit/s": lambda f: f"{f['sent_kbps']:.0f}",
        "sent as": lambda f: sizes_text(f["sent"], "\n"),
        "CPU-lim-\nited s": lambda f: f"{f['sent']['limited_s'].get('cpu', 0.0):.0f}",
        "ladder": lambda f: f["ladder"]["verdict"],
        "full\nrate s": lambda f: f"{f['full_rate_s']:.1f}",
        "limited\nkbit/s": lambda f: f"{f['limited_kbps']:.0f}",
        "queue ms,\np95": lambda f: f"{f['queue_ms']['median']:.0f}, {f['queue_ms']['p95']:.0f}",
        "lost\n%": lambda f: f"{100 * f['lost']:.1f}",
        "face dB: in,\nrestored": lambda f: (
            f"{f['face']['psnr_received']:.1f}, {f['face']['psnr_restored']:.1f}"
        ),
        "SSIM: in,\nrestored": lambda f: (
            f"{f['face']['ssim_received']:.3f}, {f['face']['ssim_restored']:.3f}"
        ),
        "starved %,\nlate ms": lambda f: f"{100 * f['starved']:.0f}, {f['relay_late_ms_p99']:.0f}",
    }
    shown = Table(
        Column("scenario", no_wrap=True),
        Column("trans-\nport", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in columns),
        title=f"calls of {seconds:g} s",
        caption="face: the crop against the sent one, every 15th restored frame; starved: share of "
        "the call during which the receiver's event loop waited for a core; late: delay of the "
        "relay, p99. Beyond 10 % or 10 ms the machine was too busy for conclusions. Sent as: size, "
        f"share of the frames and their median QP after {SETTLING:g} s; CPU-limited: how long "
        "Chromium sent less because its CPU was too slow; ladder: whether the most frequent size "
        "is the ladder's for the page's cap, if nothing else limits the bitrate.",
        box=SIMPLE_HEAD,
    )
    for result in results:
        row = []
        for show in columns.values():
            try:
                row.append(str(show(result["figures"])))
            except (KeyError, TypeError):  # the call lacks this figure
                row.append("–")
        shown.add_row(result["scenario"], result["transport"], *row)
    return shown


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Plots the gaps between frames and Chromium's target bitrate, a row per scenario."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(result["scenario"] for result in results))
    figure = Figure(figsize=(13, 0.8 + 2.2 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False, sharex="row")
    colours = dict(zip(TRANSPORTS, ("tab:red", "tab:blue"), strict=True))
    for (gaps, bitrate), name in zip(panels, names, strict=True):
        for result in (one for one in results if one["scenario"] == name):
            draw_call(gaps, bitrate, result["noted"], colours[result["transport"]])
            draw_phases(gaps, bitrate, result["phases"], result["noted"])
        gaps.axhline(1e3 * FREEZE, color="black", linewidth=0.6, linestyle=":")
        gaps.set(yscale="log", ylim=(10, None), ylabel="ms since the last", title=name)
        bitrate.set(ylabel="target kbit/s", ylim=(0, None), title=name)
    for axes in panels[-1]:
        axes.set_xlabel("seconds")
    figure.legend([Line2D([], [], color=one) for one in colours.values()], list(colours))
    figure.savefig(path, dpi=90)


def draw_call(gaps: Any, bitrate: Any, noted: dict[str, Any], colour: str) -> None:
    """Draws the lines of one call."""
    left = np.array([row[0] for row in noted["left"]] + [noted["seconds"]])
    gaps.plot(left[1:], 1e3 * np.diff(left), color=colour, linewidth=0.8, drawstyle="steps-pre")
    rows = [row for row in noted["sent"] if row.get("target_kbps") is not None]
    bitrate.plot([r["at"] for r in rows], [r["target_kbps"] for r in rows], color=colour)


def draw_phases(
    gaps: Any, bitrate: Any, phases: list[dict[str, Any]], noted: dict[str, Any]
) -> None:
    """Marks changes of the conditions and limits of the link."""
    changes = [phase["at"] for phase in phases[1:]]
    if noted["hole_at"] is not None:
        changes.append(noted["hole_at"])
    for axes, at in itertools.product((gaps, bitrate), changes):
        axes.axvline(at, color="grey", linewidth=0.8)
    for phase, end in zip(
        phases, [*(one["at"] for one in phases[1:]), noted["seconds"]], strict=True
    ):
        if limit := phase["conditions"]["kbps"]:
            bitrate.hlines(limit, phase["at"], end, color="black", linewidth=0.8, linestyle=":")


def write(folder: Path, results: list[dict[str, Any]]) -> None:
    """Writes calls.json: figures, frames that left by time, and Chromium's bitrate by time."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = ("seconds", "left", "stats", "sent", "hole_at")
    slim = [{**one, "noted": {key: one["noted"][key] for key in kept}} for one in results]
    (folder / "calls.json").write_text(json.dumps({"calls": slim}) + "\n")
