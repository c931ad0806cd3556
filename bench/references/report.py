"""Tables, plot and JSON of the references bench."""

from pathlib import Path

import numpy as np

from bench.common.sequences import RECEIVED
from bench.common.tables import with_interval
from bench.metrics.people import bootstrap_interval
from bench.references.figures import FIGURES, Judged, gains_of, values_of

FORMATS = (".1f", ".2f", ".1f", ".2f", ".3f")
"""Formats of `FIGURES`."""


def table(results: list[Judged], scenario: str) -> list[list[str]]:
    """Returns a scenario's means over people: the received figures, and gains of each way.

    The gains have 95 % intervals over people, the worst person's gain and the number of people who
    gained.
    """
    rows = [["way", *FIGURES.values(), "references kb/s"]]
    for way in dict.fromkeys(one.way for one in results):
        cells = []
        for name, form in zip(FIGURES, FORMATS, strict=True):
            values = values_of(results, scenario, way, name)
            cells.append(f"{np.mean(values):{form}}" if way == RECEIVED else "")
            if way != RECEIVED:
                cells[-1] = _gain(gains_of(results, scenario, way, name), name, form)
        kbps = np.mean(values_of(results, scenario, way, "reference_kbps"))
        rows.append([way, *cells, f"{kbps:.1f}"])
    return rows


def _gain(gains: list[float], name: str, form: str) -> str:
    sign = -1 if name == "identity" else 1  # a distance is better if it is smaller
    worst = min(gains, key=lambda gain: sign * gain)
    improved = sum(sign * gain > 0 for gain in gains)
    shown = with_interval(float(np.mean(gains)), bootstrap_interval(gains), f"+{form}")
    return f"{shown}, worst {worst:+{form}}, {improved} of {len(gains)}"


def plot(results: list[Judged], path: Path) -> None:
    """Plots the gains over the received frames: a panel for each figure, bars by scenario."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(result.scenario for result in results))
    ways = [way for way in dict.fromkeys(one.way for one in results) if way != RECEIVED]
    drawn = Figure(figsize=(12, 8), layout="constrained")
    width = 0.8 / len(ways)
    shown = ("face_vmaf_neg", "frame_vmaf_neg")
    for axes, figure in zip(drawn.subplots(2, sharex=True), shown, strict=True):
        for number, way in enumerate(ways):
            gains = [float(np.mean(gains_of(results, name, way, figure))) for name in names]
            places = np.arange(len(names)) + width * (number - (len(ways) - 1) / 2)
            axes.bar(places, gains, 0.9 * width, label=way)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylabel(f"gain in {FIGURES[figure]}")
        axes.grid(axis="y", alpha=0.3)
    people = [len({r.person for r in results if r.scenario == name}) for name in names]
    labels = [f"{name}\n{count} people" for name, count in zip(names, people, strict=True)]
    axes.set_xticks(range(len(names)), labels)
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    drawn.savefig(path, dpi=110)
