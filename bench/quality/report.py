"""Tables, plot and contact sheets of the quality bench."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from bench.common.jobs import Job
from bench.common.judging import left_out
from bench.common.result_cache import ResultCache
from bench.common.sequences import RECEIVED
from bench.common.tables import markdown, terminal_table, with_interval
from bench.metrics.people import bootstrap_interval
from bench.quality.figures import (
    METRICS,
    REGIONS,
    Mean,
    Region,
    Row,
    bit_ratios,
    by_person,
    encoder_of,
    means_of,
    rows_of,
)
from receiver.errors import InputError
from receiver.text import escaped

SHOWN: dict[Region, tuple[str, ...]] = {
    "face": ("vmaf_neg", "psnr", "st_lpips", "identity", "flicker"),
    "frame": ("vmaf_neg", "psnr"),
}
"""Metrics of each region that the terminal shows; the files have all."""
IN_BITS = ("vmaf_neg", "psnr")
"""Metrics for which the report converts the gain into bits."""
BEYOND = """A person without a rate that is as good is left out: at the lowest rate those who lost,
at the highest those who gained. There the mean of the others says little."""
"""Stands before the tables of what restoring is worth in bits."""
AREA = cv2.INTER_AREA
STRIPS = "strips"
"""Folder of the strips within that of the results."""
SHEET_WIDTH = 1800
"""Largest width of a contact sheet in pixels."""
ABOUT = """# Quality by rung of the ladder

Means over people with 95 % bootstrap intervals over people, then the worst person's value. A gain
is over the received frame, enlarged by bicubic interpolation; then follow the worst person's gain
and the number of people whose value is better than received. `none` has no references, `call` those
that a call has, `paper` raw frames (free, one a second, none within half a second).
"""


def table(means: list[Mean], region: Region, metric: str, *, gains: bool) -> list[list[str]]:
    """Returns a table: a row for each encoding, a column for each way to show the frames."""
    found = {
        (one.encoding, one.way): one
        for one in means
        if (one.region, one.metric) == (region, metric)
    }
    ways = list(dict.fromkeys(way for _, way in found if not (gains and way == RECEIVED)))
    rows = [[METRICS[metric].title, *ways]]
    for encoding in dict.fromkeys(encoding for encoding, _ in found):
        cells = (found.get((encoding, way)) for way in ways)
        draw = _gain if gains else _value
        rows.append([encoding, *("" if one is None else draw(one) for one in cells)])
    return rows


def _value(one: Mean) -> str:
    form = METRICS[one.metric].form
    return f"{with_interval(one.mean, one.interval, form)}, worst {one.worst:{form}}"


def _gain(one: Mean) -> str:
    form = f"+{METRICS[one.metric].form}"
    shown = with_interval(one.gain, one.gain_interval, form)
    return f"{shown}, worst {one.least:{form}}, {one.improved} of {one.people}"


def sent_table(rows: list[Row]) -> list[list[str]]:
    """Returns what was sent: a row for each encoding, with sizes, QP and bitrates."""
    table = [["encoding", "people", "sizes sent", "QP", "way", "kb/s"]]
    for encoding in dict.fromkeys(row.encoding for row in rows):
        for way in dict.fromkeys(row.way for row in rows):
            chosen = [r for r in rows if (r.encoding, r.way, r.region) == (encoding, way, "frame")]
            if not chosen:
                continue
            sizes = dict.fromkeys(f"{width}x{height}" for width, height in (r.sent for r in chosen))
            known = [row.qp for row in chosen if row.qp is not None]
            table.append(
                [
                    encoding,
                    f"{len(chosen)}",
                    ", ".join(sizes),
                    f"{np.mean(known):.1f}" if known else "unknown",
                    way,
                    f"{np.mean([row.kbps for row in chosen]):.0f}",
                ]
            )
    return table


def bits_table(rows: list[Row], region: Region, metric: str) -> list[list[str]]:
    """Returns what restoring is worth in bits: a row for each encoding, see `bit_ratios`."""
    ways = [way for way in dict.fromkeys(row.way for row in rows) if way != RECEIVED]
    table = [[f"rate for the same {METRICS[metric].label}, received : sent", *ways]]
    for encoding in dict.fromkeys(row.encoding for row in rows):
        cells = []
        for way in ways:
            ratios = bit_ratios(rows, encoding, way, region, metric)
            people = sum((r.encoding, r.way, r.region) == (encoding, way, region) for r in rows)
            if ratios:
                mean, interval = float(np.mean(ratios)), bootstrap_interval(ratios)
                shown = with_interval(mean, interval, ".2f")
                cells.append(f"{shown}, {len(ratios)} of {people} people")
            else:
                cells.append("unknown")
        table.append([encoding, *cells])
    return table


def person_table(rows: list[Row], region: Region) -> list[list[str]]:
    """Returns every person's figures: a row for each person, encoding and way."""
    measured = [name for name in METRICS if any(row.figures.get(name) is not None for row in rows)]
    table = [["person", "encoding", "way", *(METRICS[name].label for name in measured)]]
    for row in (one for one in rows if one.region == region):
        cells = [
            "" if (value := row.figures.get(name)) is None else f"{value:{METRICS[name].form}}"
            for name in measured
        ]
        table.append([row.person, row.encoding, row.way, *cells])
    return table


def plot(means: list[Mean], rows: list[Row], path: Path) -> None:
    """Plots VMAF-NEG over rate for face and whole frame; lines join the rungs of one encoder."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    kbps = {
        (row.encoding, row.way): float(
            np.mean([r.kbps for r in rows if (r.encoding, r.way) == (row.encoding, row.way)])
        )
        for row in rows
    }
    ways = list(dict.fromkeys(row.way for row in rows))
    for axes, region in zip(figure.subplots(1, 2), REGIONS, strict=True):
        for number, way in enumerate(ways):
            lines: dict[str, list[tuple[float, float]]] = {}
            for one in means:
                if (one.region, one.way, one.metric) == (region, way, "vmaf_neg"):
                    lines.setdefault(encoder_of(one.encoding), []).append(
                        (kbps[one.encoding, way], one.mean)
                    )
            for style, (encoder, points) in zip(("o-", "s--", "^:"), lines.items(), strict=False):
                label = f"{way}, {encoder}"
                axes.plot(
                    *zip(*sorted(points), strict=True), style, color=f"C{number}", label=label
                )
        axes.set(xlabel="kb/s of the stream and of stills", ylabel="VMAF-NEG")
        people = max((one.people for one in means if one.region == region), default=0)
        axes.set_title(f"{REGIONS[region]}, mean over {people} people")
        axes.set_xscale("log")
        axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=110)


def contact_sheets(jobs: list[Job], results: ResultCache, out: Path) -> None:
    """Joins the strips of each encoding to a sheet: a row for each clip.

    From left to right: captured, received, restored by each protocol, and rivals.
    """
    for encoding in dict.fromkeys(job.key["encoding"] for job in jobs):
        names = [
            results[job.key]["strip"]
            for job in jobs
            if job.key["encoding"] == encoding and results[job.key]["ways"]
        ]
        read = (cv2.imread(str(out / STRIPS / name)) for name in names)
        strips = [one for one in read if one is not None]
        width = min([SHEET_WIDTH, *(one.shape[1] for one in strips)])
        rows = [
            cv2.resize(one, (width, one.shape[0] * width // one.shape[1]), interpolation=AREA)
            for one in strips
        ]
        if rows:
            cv2.imwrite(str(out / f"sheet-{encoding}.png"), np.vstack(rows))


def report(jobs: list[Job], results: ResultCache, screen: Console) -> None:
    """Prints the tables and writes figures, tables, plot and contact sheets to the cache's folder.

    Raises InputError if no job found a face.
    """
    out = results.folder
    rows = by_person(row for job in jobs for row in rows_of(job, results[job.key]))
    if not rows:
        raise InputError(f"no face of {jobs[0].key['min_face']:g} px: give a smaller --min-face")
    means, sent = means_of(rows), sent_table(rows)
    screen.print(terminal_table(sent, "what was sent"))
    text = f"{ABOUT}\n## What was sent\n\n{markdown(sent)}"
    if without := left_out(job for job in jobs if not results[job.key]["ways"]):
        screen.print(without)
        text += f"\n{escaped(without)}\n"
    for region, place in REGIONS.items():
        text += f"\n## {place.capitalize()}\n"
        for metric in METRICS:
            for gains in (False, True):
                drawn = table(means, region, metric, gains=gains)
                if len(drawn) > 1:
                    title = f"{place}: {'gain in ' if gains else ''}{drawn[0][0]}"
                    text += f"\n{title}\n\n{markdown(drawn)}"
                    if metric in SHOWN[region]:
                        screen.print(terminal_table(drawn, title))
    for region, place in REGIONS.items():
        for metric in IN_BITS:
            drawn = bits_table(rows, region, metric)
            text += f"\n## In bits, {place}\n\n{BEYOND}\n\n{markdown(drawn)}"
            screen.print(terminal_table(drawn, f"{place}: what restoring is worth in bits"))
    for region, place in REGIONS.items():
        text += f"\n## Every person, {place}\n\n{markdown(person_table(rows, region))}"
    (out / "quality.md").write_text(text, encoding="utf-8")
    figures: dict[str, Any] = {"jobs": [job.key for job in jobs]}
    figures |= {"people": [asdict(row) for row in rows], "means": [asdict(one) for one in means]}
    (out / "quality.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(means, rows, out / "rate-distortion.png")
    contact_sheets(jobs, results, out)
    screen.print(f"tables, figures, plot and contact sheets: {out}")
