"""How much better the faces get: `python -m bench quality CLIPS`.

Each clip is framed as a call frames it (640x480 around the face), sent through encoders, and its
faces restored by one or more generators with references from nowhere (`none`), as a receiver gets
them (`call`: the stream's good pictures, and stills asked and paid for) and as in the paper
(`paper`: raw frames, one a second and free). All are compared with the original's faces.

Ctrl-C keeps what is finished, and the same command goes on from there. What depends on the code is
not noticed: after a change to it, delete results.jsonl or give another --out.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.common.clips import (
    PROTOCOLS,
    Seen,
    clips_in,
    encoding_of,
    framed,
    min_face_of,
    seconds_of,
    watch,
)
from bench.common.learned import LPIPS, brisque, brisque_problem
from bench.common.metrics import (
    bootstrap_interval,
    find_landmarks,
    flicker,
    identity,
    landmark_jitter,
    psnr,
    ssim,
    vmaf_family,
)
from bench.common.result_cache import Finished
from keyframes import Picture
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError

METRICS = {
    "psnr": ("PSNR dB, up", ".2f"),
    "ssim": ("SSIM, up", ".3f"),
    "ms_ssim": ("MS-SSIM, up", ".4f"),
    "vmaf": ("VMAF, up", ".1f"),
    "vmaf_neg": ("VMAF-NEG, up", ".1f"),
    "brisque": ("BRISQUE, down", ".1f"),
    "identity": ("identity distance, down", ".3f"),
    "jitter": ("landmark jitter px, down", ".2f"),
    "flicker": ("flicker, 1 is the original's", ".2f"),
    "lpips": ("LPIPS, down", ".3f"),
}
"""Label and format of each figure of a row."""
MISSING = {"lpips": "no weights", "brisque": "not measured"}
SSIM_EVERY, IDENTITY_EVERY, LEARNED_EVERY = 3, 30, 6
"""Faces judged by what is slow: every how manyth; by all else, each."""
OUT = Path("bench-output/quality")

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Row:
    """Means over the faces of one clip; `model` is '' and `way` 'input' for them as received."""

    clip: str
    encoding: str
    model: str
    way: str
    faces: int
    kbps: float  # of the stream and of what was sent beside it
    figures: Figures

    @property
    def name(self) -> str:
        """Whose pictures they are: a table's column."""
        return f"{self.model} {self.way}".strip()


def judge(seen: Seen, way: str, lpips: LPIPS | None) -> Figures:
    """The faces of one way ('input' or a protocol) against the original's."""
    originals, pictures = seen.pictures["original"], seen.pictures[way]
    pairs = list(zip(originals, pictures, strict=True))
    found = [
        [find_landmarks(*one) for one in zip(those, seen.boxes, strict=True)]
        for those in (originals, pictures)
    ]
    apart = [
        np.linalg.norm(identity(a, points) - identity(b, points))
        for (a, b), points in list(zip(pairs, seen.landmarks, strict=True))[::IDENTITY_EVERY]
    ]
    some = pairs[::LEARNED_EVERY]
    family = vmaf_family(originals, pictures)
    return {
        "psnr": _mean([psnr(*pair) for pair in pairs]),
        "ssim": _mean([ssim(*pair) for pair in pairs[::SSIM_EVERY]]),
        **{name: _mean(values) for name, values in family.items()},
        "brisque": None if brisque_problem() else _mean([brisque(one) for _, one in some]),
        "identity": _mean(apart),
        "jitter": landmark_jitter(*found, seen.cuts),
        "flicker": flicker(originals, pictures, seen.cuts),
        "lpips": _mean([lpips.between(*pair) for pair in some]) if lpips else None,
    }


def _mean(values: Any) -> float:
    return float(np.mean(values))


def result_of(seen: Seen, lpips: LPIPS | None) -> dict[str, Any]:
    """What is kept of a job: its faces' number, and kb/s and figures by way."""
    faces = len(seen.boxes)
    ways = {}
    for way in ("input", *PROTOCOLS) if faces else ():
        kbps = seen.stream_kbps + seen.reference_kbps.get(way, 0.0)
        ways[way] = {"kbps": kbps, "figures": judge(seen, way, lpips)}
    return {"faces": faces, "ways": ways}


def strip(seen: Seen) -> Picture:
    """The middle picture as sent, received and restored by each protocol, side by side."""
    middle = len(seen.boxes) // 2
    return np.hstack([pictures[middle] for pictures in seen.pictures.values()])


def rows_of(job: dict[str, Any], model: str, result: dict[str, Any]) -> list[Row]:
    """A finished job's rows; the input's is alike for every model."""
    return [
        Row(
            job["clip"],
            job["encoding"],
            "" if way == "input" else model,
            way,
            result["faces"],
            found["kbps"],
            found["figures"],
        )
        for way, found in result["ways"].items()
    ]


@dataclass(frozen=True)
class Mean:
    """Over the clips of one encoding, one metric: with 95 % interval, and as gain of each clip."""

    encoding: str
    name: str
    metric: str
    clips: int
    mean: float
    interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]


def means_of(rows: list[Row]) -> list[Mean]:
    """Of each encoding, way and metric that was measured; intervals resample the clips."""
    inputs = {(row.encoding, row.clip): row for row in rows if row.way == "input"}
    means = []
    for encoding, name in dict.fromkeys((row.encoding, row.name) for row in rows):
        chosen = [row for row in rows if (row.encoding, row.name) == (encoding, name)]
        for metric in METRICS:
            values = [row.figures[metric] for row in chosen]
            if None in values:
                continue
            before = [inputs[encoding, row.clip].figures[metric] for row in chosen]
            gains = np.subtract(values, before)
            summary = _mean(values), bootstrap_interval(values), _mean(gains)
            summary = (*summary, bootstrap_interval(gains))
            means.append(Mean(encoding, name, metric, len(chosen), *summary))
    return means


def cells(means: list[Mean], encoding: str, *, gains: bool) -> list[list[str]]:
    """A table of one encoding: a header, then a row a metric with a cell for each way."""
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
    sign = "+" if gains else ""
    low, high = interval
    return f"{value:{sign}{form}} [{low:{sign}{form}}, {high:{sign}{form}}]"


def clip_cells(rows: list[Row]) -> list[list[str]]:
    """A table of every clip: a header, then a row for each encoding and way."""
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


def markdown(table: list[list[str]]) -> str:
    """A table whose first row is its header."""
    header, *body = table
    lines = [header, ["---"] * len(header), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def shown(table: list[list[str]], title: str) -> Table:
    """The same for a terminal."""
    header, *body = table
    drawn = Table(title=title)
    for name in header:
        drawn.add_column(name, justify="left" if name == header[0] else "right")
    for line in body:
        drawn.add_row(*(cell.replace(" [", "\n[", 1).replace("[", r"\[") for cell in line))
    return drawn


def plot(rows: list[Row], path: Path) -> None:
    """Rate and distortion: means over clips, the encodings of one encoder joined."""
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
    axes.set_xlabel("kb/s of the stream and of what was sent beside it (the paper's is free)")
    axes.set_ylabel(f"VMAF-NEG of the face, mean over {len({row.clip for row in rows})} clips")
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def contact_sheet(strips: list[tuple[str, Picture]], path: Path) -> None:
    """A row for each clip and encoding; strips as `strip` makes them."""
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


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def jobs_of(args: argparse.Namespace, clips: list[Path], models: dict[str, Generator]) -> list[Any]:
    """What is to be measured: clip, name of the model, and all that the result depends on."""
    jobs = []
    for clip in clips:
        about = {"clip": clip.name, "clip_sha256": sha256(clip)}
        for encoding in args.encoding:
            for name, generator in models.items():
                job = {**about, "encoding": encoding, "model_sha256": generator.model.sha256}
                job |= {"seconds": args.seconds, "min_face": args.min_face}
                job |= {"lpips": args.lpips_weights and str(args.lpips_weights.resolve())}
                jobs.append((clip, name, job | {"brisque": brisque_problem() is None}))
    return jobs


def run(
    jobs: list[Any],
    models: dict[str, Generator],
    finished: Finished,
    lpips: LPIPS | None,
    bar: Progress,
) -> None:
    """Measures what is not finished yet."""
    whole = bar.add_task("jobs", total=len(jobs))
    loaded: tuple[Path | None, Any] = (None, None)
    for clip, name, job in jobs:
        if job not in finished:
            if loaded[0] != clip:
                loaded = clip, framed(clip, job["seconds"])
            frames, rate = loaded[1]
            task = bar.add_task(f"{clip.stem}, {job['encoding']}, {name}", total=len(frames))
            advance: Callable[[], None] = lambda task=task: bar.advance(task)  # noqa: E731
            encoding, generator = encoding_of(job["encoding"]), models[name]
            seen = watch(frames, rate, encoding, generator, PROTOCOLS, job["min_face"], advance)
            result = result_of(seen, lpips)
            if seen.boxes:
                result["strip"] = _keep_strip(seen, finished.folder, len(finished))
            finished.add(job, result)
            bar.remove_task(task)
        bar.advance(whole)


def _keep_strip(seen: Seen, folder: Path, number: int) -> str:
    name = f"strip-{number}.png"
    cv2.imwrite(str(folder / name), cv2.cvtColor(strip(seen), cv2.COLOR_RGB2BGR))
    return name


def report(jobs: list[Any], finished: Finished, screen: Console) -> None:
    """Writes figures, tables, plot and contact sheets, and prints the tables."""
    out = finished.folder
    found = [(name, job, finished[job]) for _, name, job in jobs]
    every = [row for name, job, result in found for row in rows_of(job, name, result)]
    rows = list({(row.clip, row.encoding, row.name): row for row in every}.values())
    if not rows:
        raise InputError(f"no face of {jobs[0][2]['min_face']:g} px: give a smaller --min-face")
    means = means_of(rows)
    text = "# Quality of faces\n\nMeans with 95 % bootstrap intervals over clips.\n"
    if problem := brisque_problem():
        text += f"\nBRISQUE was not measured: {problem}.\n"
        screen.print(f"BRISQUE was not measured: {problem}")
    for encoding in dict.fromkeys(row.encoding for row in rows):
        tables = [cells(means, encoding, gains=gains) for gains in (False, True)]
        clips = len({row.clip for row in rows if row.encoding == encoding})
        for table in tables:
            screen.print(shown(table, f"{encoding}, {clips} clips"))
        text += f"\n## {encoding}, {clips} clips\n\n" + "\n".join(map(markdown, tables))
    text += f"\n## Every clip\n\n{markdown(clip_cells(rows))}"
    (out / "quality.md").write_text(text)
    figures = {"jobs": [job for _, _, job in jobs]}
    figures |= {"clips": [asdict(row) for row in rows], "means": [asdict(one) for one in means]}
    (out / "quality.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(rows, out / "rate-distortion.png")
    for number, model in enumerate(dict.fromkeys(name for name, _, _ in found), 1):
        strips = [
            (f"{job['clip']}\n{job['encoding']}", _read_strip(out / result["strip"]))
            for name, job, result in found
            if name == model and "strip" in result
        ]
        contact_sheet(strips, out / f"contact-sheet-{number}.png")
    screen.print(f"tables, figures, plot and contact sheets: {out}")


def _read_strip(path: Path) -> Picture:
    picture: Picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    return picture


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench quality",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("clips", type=Path, help="folder of clips that nothing was trained on")
    add("--encoding", action="append", help="crf42, openh264-100 (both by default), x264-150, ...")
    add("--model", action="append", help="name or ONNX file (default lite); repeatable")
    add("--seconds", type=seconds_of, default=10.0, help="of each clip (default 10)")
    add("--min-face", type=min_face_of, default=120.0, help="height in px (default 120)")
    add("--lpips-weights", type=Path, metavar="FOLDER|FILE", help="AlexNet's and LPIPS' own")
    add("--out", type=Path, default=OUT, metavar="FOLDER", help=f"default {OUT}")
    args = parser.parse_args(arguments)
    args.encoding = list(dict.fromkeys(args.encoding or ["crf42", "openh264-100"]))
    for name in args.encoding:
        encoding_of(name)
    clips = clips_in(args.clips)
    opened = [Generator(name, "cpu") for name in dict.fromkeys(args.model or ["lite"])]
    models = {generator.model.name: generator for generator in opened}
    if len(models) < len(opened):
        parser.error(f"two of the models have one name: {', '.join(args.model)}; rename a file")
    lpips = LPIPS(args.lpips_weights) if args.lpips_weights else None
    finished = Finished(args.out / "results.jsonl")
    jobs = jobs_of(args, clips, models)
    screen = console()
    with progress_bar() as bar:
        run(jobs, models, finished, lpips, bar)
    report(jobs, finished, screen)
