"""Table, plot and JSON of the references bench."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.table import Table

from bench.common.call import ORIGINS
from bench.references.figures import FIGURES, Judged, mean

FORMATS = (".2f", ".3f", ".1f", ".3f")
"""Formats of `FIGURES`."""


def table(results: list[Judged]) -> Table:
    """Returns a table of the means over clips: the input's figures, and gains of each origin."""
    shown = Table(title="mean over clips: gains over the input")
    for column in ("scenario", "way", "PSNR dB", "SSIM", "VMAF-NEG", "identity", "refs kb/s"):
        shown.add_column(column, justify="left" if column in ("scenario", "way") else "right")
    for scenario in dict.fromkeys(result.scenario for result in results):
        inputs = [mean(results, scenario, "input", name) for name in FIGURES]
        for way in ("input", *ORIGINS):
            values, sign = inputs, ""
            if way != "input":
                means = (mean(results, scenario, way, name) for name in FIGURES)
                values, sign = [a - b for a, b in zip(means, inputs, strict=True)], "+"
            texts = [f"{value:{sign}{form}}" for value, form in zip(values, FORMATS, strict=True)]
            kbps = f"{mean(results, scenario, way, 'reference_kbps'):.1f}"
            shown.add_row(scenario if way == "input" else "", way, *texts, kbps)
        shown.add_section()
    return shown


def plot(results: list[Judged], path: Path) -> None:
    """Plots the gains over the input: a panel for each figure, bars grouped by scenario."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(result.scenario for result in results))
    drawn = Figure(figsize=(11, 7), layout="constrained")
    labels = {"psnr_db": "PSNR gain, dB", "vmaf_neg": "VMAF-NEG gain"}
    for axes, (figure, label) in zip(drawn.subplots(2, sharex=True), labels.items(), strict=True):
        for number, origin in enumerate(ORIGINS):
            gains = [
                mean(results, name, origin, figure) - mean(results, name, "input", figure)
                for name in names
            ]
            axes.bar(np.arange(len(names)) + 0.16 * (number - 2), gains, 0.15, label=origin)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylabel(label)
        axes.grid(axis="y", alpha=0.3)
    axes.set_xticks(range(len(names)), names)
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(ORIGINS))
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=110)


def write(path: Path, model: str, results: list[Judged]) -> None:
    """Writes the figures of all clips as JSON."""
    path.write_text(json.dumps({"model": model, "clips": [asdict(r) for r in results]}, indent=1))
