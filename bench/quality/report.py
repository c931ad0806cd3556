"""Tables, plot and contact sheets of the quality bench."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from bench.common.jobs import Job
from bench.common.result_cache import ResultCache
from bench.common.sequences import PROTOCOLS, FaceSequence
from bench.common.tables import markdown, terminal_table, with_interval
from bench.metrics.brisque import brisque_problem
from bench.quality.figures import METRICS, Mean, Row, _mean, means_of, rows_of
from keyframes import Picture
from receiver.errors import InputError

MISSING = {"lpips": "no weights", "brisque": "not measured"}
"""Cells of metrics that were not measured."""


def strip(sequence: FaceSequence) -> Picture:
    """Returns the middle picture as sent, received and restored by each protocol, side by side."""
    middle = len(sequence.boxes) // 2
    return np.hstack([pictures[middle] for pictures in sequence.pictures.values()])


def cells(means: list[Mean], encoding: str, *, gains: bool) -> list[list[str]]:
    """Returns the table of one encoding: a row per metric, a column per model and protocol."""
    found = {(one.name, one.metric): one for one in means if one.encoding == encoding}
    names = [
        name for name in dict.fromkeys(name for name, _ in found) if name != "input" or not gains
    ]
    table = [["gain over the input" if gains else "mean over clips", *names]]
    for metric, (label, form) in METRICS.items():
        row = [label]
        for name in names:
            one = found.get((name, metric))
            row.append(MISSING[metric] if one is None else _cell(one, form, gains=gains))
        table.append(row)
    return table


def _cell(one: Mean, form: str, *, gains: bool) -> str:
    value, interval = (one.gain, one.gain_interval) if gains else (one.mean, one.interval)
    return with_interval(value, interval, f"+{form}" if gains else form)


def clip_cells(rows: list[Row]) -> list[list[str]]:
    """Returns the table of all clips: a row for each encoding, model and protocol."""
    table = [["clip", "encoding", "restored", "faces", "kb/s"]]
    table[0] += [label.split(",")[0] for label, _ in METRICS.values()]
    for row in rows:
        figures = [
            MISSING[metric] if row.figures[metric] is None else f"{row.figures[metric]:{form}}"
            for metric, (_, form) in METRICS.items()
        ]
        table.append(
            [row.clip, row.encoding, row.name, f"{row.faces}", f"{row.kbps:.0f}", *figures]
        )
    return table


def plot(rows: list[Row], path: Path) -> None:
    """Plots quality over rate: means over clips; lines join the encodings of one encoder."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(dict.fromkeys(row.name for row in rows)):
        label: str | None = name
        points: dict[str, list[tuple[float, float, str]]] = {}
        for encoding in dict.fromkeys(row.encoding for row in rows):
            chosen = [row for row in rows if (row.name, row.encoding) == (name, encoding)]
            point = _mean([r.kbps for r in chosen]), _mean([r.figures["vmaf_neg"] for r in chosen])
            points.setdefault(encoding.rstrip("0123456789."), []).append((*point, encoding))
        for joined in points.values():
            kbps, quality, names = zip(*sorted(joined), strict=True)
            axes.plot(kbps, quality, "o-", color=f"C{number}", label=label)
            label = None
            for place in zip(kbps, quality, names, strict=True) if name == "input" else ():
                axes.annotate(
                    place[2], place[:2], (0, -14), textcoords="offset points", ha="center"
                )
    axes.set_xlabel("kb/s of the stream and of what was sent in addition (the paper's is free)")
    axes.set_ylabel(f"VMAF-NEG of the face, mean over {len({row.clip for row in rows})} clips")
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def contact_sheet(strips: list[tuple[str, Picture]], path: Path) -> None:
    """Draws strips, as `strip` makes them, in rows with labels."""
    from matplotlib.figure import Figure

    columns = ["original", "received", *PROTOCOLS]
    figure = Figure(figsize=(2.6 * len(columns), 2.8 * len(strips)), layout="constrained")
    grid = figure.subplots(len(strips), len(columns), squeeze=False)
    for row, (label, picture) in zip(grid, strips, strict=True):
        row[0].set_ylabel(label)
        for axes, part in zip(row, np.hsplit(picture, len(columns)), strict=True):
            axes.imshow(part)
            axes.set(xticks=[], yticks=[])
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title)
    figure.savefig(path, dpi=100)


def report(jobs: list[Job], results: ResultCache, screen: Console) -> None:
    """Prints the tables and writes figures, tables, plot and contact sheets to the cache's folder.

    Raises InputError if no job found a face.
    """
    out = results.folder
    every = [row for job in jobs for row in rows_of(job, results[job.key])]
    rows = list({(row.clip, row.encoding, row.name): row for row in every}.values())
    if not rows:
        raise InputError(f"no face of {jobs[0].key['min_face']:g} px: give a smaller --min-face")
    means = means_of(rows)
    text = "# Quality of faces\n\nMeans with 95 % bootstrap intervals over clips.\n"
    if problem := brisque_problem():
        text += f"\nBRISQUE was not measured: {problem}.\n"
        screen.print(f"BRISQUE was not measured: {problem}")
    for encoding in dict.fromkeys(row.encoding for row in rows):
        tables = [cells(means, encoding, gains=gains) for gains in (False, True)]
        clips = len({row.clip for row in rows if row.encoding == encoding})
        for table in tables:
            screen.print(terminal_table(table, f"{encoding}, {clips} clips"))
        text += f"\n## {encoding}, {clips} clips\n\n" + "\n".join(map(markdown, tables))
    text += f"\n## Every clip\n\n{markdown(clip_cells(rows))}"
    (out / "quality.md").write_text(text)
    figures: dict[str, Any] = {"jobs": [job.key for job in jobs]}
    figures |= {"clips": [asdict(row) for row in rows], "means": [asdict(one) for one in means]}
    (out / "quality.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(rows, out / "rate-distortion.png")
    for number, generator in enumerate(dict.fromkeys(job.generator for job in jobs), 1):
        strips = [
            (f"{job.key['clip']}\n{job.key['encoding']}", _read_strip(out / result["strip"]))
            for job in jobs
            if job.generator is generator and "strip" in (result := results[job.key])
        ]
        contact_sheet(strips, out / f"contact-sheet-{number}.png")
    screen.print(f"tables, figures, plot and contact sheets: {out}")


def _read_strip(path: Path) -> Picture:
    written = cv2.imread(str(path))
    if written is None:
        raise InputError(f"{path} cannot be read: delete results.jsonl and measure again")
    picture: Picture = cv2.cvtColor(written, cv2.COLOR_BGR2RGB)
    return picture
