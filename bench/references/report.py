"""Table, plot and JSON of the references bench."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.table import Table

from bench.common.call import WAYS
from bench.references.figures import FIGURES, Judged, mean


def table(results: list[Judged], clip: str | None = None) -> Table:
    """One row a scenario and way: gains over the input, of one clip or the mean over clips."""
    shown = Table(title=clip or "mean over clips: gains over the input")
    for column in ("scenario", "way", "PSNR dB", "SSIM", "VMAF-NEG", "identity", "refs kb/s"):
        shown.add_column(column, justify="left" if column in ("scenario", "way") else "right")
    for scenario in dict.fromkeys(result.scenario for result in results):
        for way in ("input", *WAYS):
            cells = [r for r in results if (r.scenario, r.way) == (scenario, way)]
            values = [mean(cells, name) for name in FIGURES]
            if way != "input":
                inputs = [r for r in results if (r.scenario, r.way) == (scenario, "input")]
                values = [v - mean(inputs, n) for v, n in zip(values, FIGURES, strict=True)]
            sign = "" if way == "input" else "+"
            formats = (".2f", ".3f", ".1f", ".3f")
            texts = [f"{value:{sign}{form}}" for value, form in zip(values, formats, strict=True)]
            kbps = f"{np.mean([r.reference_kbps for r in cells]):.1f}"
            shown.add_row(scenario if way == "input" else "", way, *texts, kbps)
        shown.add_section()
    return shown


def plot(results: list[Judged], path: Path) -> None:
    """Gains over the input, in groups of bars, a panel a figure."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(result.scenario for result in results))
    figure = Figure(figsize=(11, 7), layout="constrained")
    labels = {"psnr_db": "PSNR gain, dB", "vmaf_neg": "VMAF-NEG gain"}
    for axes, (name, label) in zip(figure.subplots(2, sharex=True), labels.items(), strict=True):
        for number, way in enumerate(WAYS):
            gains = []
            for scenario in names:
                of = [
                    mean([r for r in results if (r.scenario, r.way) == (scenario, w)], name)
                    for w in (way, "input")
                ]
                gains.append(of[0] - of[1])
            axes.bar(np.arange(len(names)) + 0.16 * (number - 2), gains, 0.15, label=way)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_ylabel(label)
        axes.grid(axis="y", alpha=0.3)
    axes.set_xticks(range(len(names)), names)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(WAYS))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def write(path: Path, model: str, results: list[Judged]) -> None:
    """The figures as JSON."""
    path.write_text(json.dumps({"model": model, "clips": [asdict(r) for r in results]}, indent=1))
