"""What restoring is worth in bits: `python -m bench bitrate CLIPS`, after SuperVEGAN's method.

Each clip is sent at a grid of bitrates and restored as a receiver does it, stills included. Which
bitrate would the picture as received need to be as good? That, divided by the rate that was really
sent (the stream's and the stills'), is the ratio: 2 means half the bits.

Ctrl-C keeps what is finished, and the same command goes on from there. What depends on the code is
not noticed: after a change to it, delete results.jsonl or give another --out.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.common.clips import (
    Seen,
    clips_in,
    encoding_of,
    framed,
    kbps_of,
    min_face_of,
    seconds_of,
    watch,
)
from bench.common.metrics import bootstrap_interval, psnr, vmaf_neg
from bench.common.result_cache import Finished
from bench.quality.command import markdown, sha256, shown
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError

GRID = (30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 450.0, 700.0, 1000.0)
"""Target bitrates in kbit/s."""
TICKS = (25, 50, 100, 200, 400, 800, 1600, 3200)
METRICS = {"vmaf_neg": "VMAF-NEG", "psnr": "PSNR dB"}
OUT = Path("bench-output/bitrate")


@dataclass(frozen=True)
class Point:
    """One clip at one target; kb/s as measured, encoders miss their targets.

    Attributes:
        input_quality: means over faces of the picture as received, by metric.
        quality: of the restored picture.
    """

    clip: str
    target: float
    stream_kbps: float
    still_kbps: float
    input_quality: dict[str, float]
    quality: dict[str, float]

    @property
    def kbps(self) -> float:
        """What restoring takes in all."""
        return self.stream_kbps + self.still_kbps


def equivalent_kbps(rates: list[float], qualities: list[float], wanted: float) -> float | None:
    """The rate at which a curve reaches a quality; None beyond its ends: nothing is extrapolated.

    Linear in the rate's logarithm. Where more bits are not better, the curve stays level, and the
    lowest rate that reaches the quality counts.
    """
    curve = sorted(zip(rates, qualities, strict=True))
    x = np.log([rate for rate, _ in curve])
    y = np.maximum.accumulate([quality for _, quality in curve])
    if not y[0] <= wanted <= y[-1]:
        return None
    after = int(np.searchsorted(y, wanted))  # y[after - 1] < wanted <= y[after]
    if after == 0:
        return float(np.exp(x[0]))
    return float(np.exp(np.interp(wanted, y[after - 1 : after + 1], x[after - 1 : after + 1])))


def ratio_of(point: Point, points: list[Point], metric: str) -> float | None:
    """Of the equivalent rate of the same clip as received to the rate sent; None beyond it."""
    same = [one for one in points if one.clip == point.clip]
    rates, qualities = [p.stream_kbps for p in same], [p.input_quality[metric] for p in same]
    wanted = equivalent_kbps(rates, qualities, point.quality[metric])
    return None if wanted is None else wanted / point.kbps


@dataclass(frozen=True)
class Mean:
    """Over clips at one target. Ratios are those of the `with_ratio` clips that have one."""

    target: float
    clips: int
    stream_kbps: float
    kbps: float
    input_quality: dict[str, float]
    quality: dict[str, float]
    with_ratio: dict[str, int]
    ratio: dict[str, float | None]
    interval: dict[str, tuple[float, float] | None]


def means_of(points: list[Point]) -> list[Mean]:
    """One for each target."""
    means = []
    for target in sorted({point.target for point in points}):
        chosen = [point for point in points if point.target == target]
        ratios = {}
        for metric in METRICS:
            found = [ratio_of(point, points, metric) for point in chosen]
            ratios[metric] = [ratio for ratio in found if ratio is not None]
        mean = Mean(
            target,
            len(chosen),
            float(np.mean([point.stream_kbps for point in chosen])),
            float(np.mean([point.kbps for point in chosen])),
            {m: float(np.mean([p.input_quality[m] for p in chosen])) for m in METRICS},
            {m: float(np.mean([p.quality[m] for p in chosen])) for m in METRICS},
            {metric: len(found) for metric, found in ratios.items()},
            {m: float(np.mean(found)) if found else None for m, found in ratios.items()},
            {m: bootstrap_interval(found) if found else None for m, found in ratios.items()},
        )
        means.append(mean)
    return means


def cells(means: list[Mean], metric: str) -> list[list[str]]:
    """A table of one metric: a header, then a row for each target."""
    table = [["target kb/s", "stream", "with stills", "received", "restored", "ratio", "clips"]]
    for mean in means:
        ratio, interval = mean.ratio[metric], mean.interval[metric]
        known = ratio is not None and interval is not None
        table.append(
            [
                f"{mean.target:g}",
                f"{mean.stream_kbps:.0f}",
                f"{mean.kbps:.0f}",
                f"{mean.input_quality[metric]:.2f}",
                f"{mean.quality[metric]:.2f}",
                f"{ratio:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]" if known else "unknown",
                f"{mean.with_ratio[metric]} of {mean.clips}",
            ]
        )
    return table


def plot(means: list[Mean], path: Path) -> None:
    """Quality over rate, as received and restored; and the ratio of the rates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    rates = [rate for rate in TICKS if means[0].stream_kbps / 2 < rate < means[-1].kbps * 2]
    for (above, below), (metric, label) in zip(
        figure.subplots(2, 2, sharex=True).T, METRICS.items(), strict=True
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


def result_of(seen: Seen) -> dict[str, Any] | None:
    """What is kept of a job: a point's fields but for clip and target; None without faces."""
    if not seen.boxes:
        return None
    originals = seen.pictures["original"]
    found = {}
    for way in ("input", "call"):
        pairs = list(zip(originals, seen.pictures[way], strict=True))
        found[way] = {
            "vmaf_neg": float(np.mean(vmaf_neg(originals, seen.pictures[way]))),
            "psnr": float(np.mean([psnr(*pair) for pair in pairs])),
        }
    return {
        "stream_kbps": seen.stream_kbps,
        "still_kbps": seen.reference_kbps["call"],
        "input_quality": found["input"],
        "quality": found["call"],
    }


def measure(
    args: argparse.Namespace, clips: list[Path], finished: Finished, generator: Generator
) -> list[Point]:
    """Every clip at every target; what is finished is taken from there."""
    points = []
    with progress_bar() as bar:
        whole = bar.add_task("jobs", total=len(clips) * len(args.kbps))
        for clip in clips:
            about = {"clip": clip.name, "clip_sha256": sha256(clip)}
            about |= {"model_sha256": generator.model.sha256}
            frames = None
            for target in args.kbps:
                encoding = f"{args.encoder}-{target:g}"
                job = {**about, "seconds": args.seconds, "min_face": args.min_face}
                job["encoding"] = encoding
                if job not in finished:
                    if frames is None:
                        frames, rate = framed(clip, args.seconds)
                    task = bar.add_task(f"{clip.stem}, {encoding}", total=len(frames))
                    advance = lambda task=task: bar.advance(task)  # noqa: E731
                    sent = encoding_of(encoding)
                    seen = watch(frames, rate, sent, generator, ["call"], args.min_face, advance)
                    finished.add(job, result_of(seen))
                    bar.remove_task(task)
                bar.advance(whole)
                if finished[job] is not None:
                    points.append(Point(clip.name, target, **finished[job]))
    return points


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench bitrate",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("clips", type=Path, help="folder of clips that nothing was trained on")
    add("--encoder", choices=("openh264", "x264"), default="openh264", help="default %(default)s")
    add("--kbps", type=kbps_of, action="append", help="a target (default 30 to 1000); repeatable")
    add("--model", default="lite", help="name or ONNX file (default lite)")
    add("--seconds", type=seconds_of, default=10.0, help="of each clip (default 10)")
    add("--min-face", type=min_face_of, default=120.0, help="height in px (default 120)")
    add("--out", type=Path, default=OUT, metavar="FOLDER", help=f"default {OUT}")
    args = parser.parse_args(arguments)
    args.kbps = sorted(set(args.kbps or GRID))
    if len(args.kbps) < 2:
        parser.error(f"--kbps {args.kbps[0]:g} alone is no curve: give two or more")
    clips, generator = clips_in(args.clips), Generator(args.model, "cpu")
    finished = Finished(args.out / "results.jsonl")
    points = measure(args, clips, finished, generator)
    if not points:
        raise InputError(f"no face of {args.min_face:g} px: give a smaller --min-face")
    means = means_of(points)
    about = f"{args.encoder}, model {args.model}, {len({p.clip for p in points})} clips"
    text = f"# Bitrate for the same quality\n\n{about}\n"
    for metric, label in METRICS.items():
        console().print(shown(cells(means, metric), f"{label}: {about}"))
        text += f"\n## {label}\n\n{markdown(cells(means, metric))}"
    (args.out / "bitrate.md").write_text(text)
    figures = {"encoder": args.encoder, "model": generator.model.sha256}
    figures |= {"means": [asdict(mean) for mean in means], "clips": clip_figures(points)}
    (args.out / "bitrate.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(means, args.out / "bitrate.png")
    print(f"table, figures and plot: {args.out}")


def clip_figures(points: list[Point]) -> list[dict[str, Any]]:
    """Every point with its ratios."""
    return [
        asdict(point) | {"ratio": {metric: ratio_of(point, points, metric) for metric in METRICS}}
        for point in points
    ]
