"""What restoring is worth in bits: `python -m bench bitrate CLIPS`, by SuperVEGAN's method.

Sends each clip at several bitrates and restores it as a receiver does, stills included. Then it
asks which bitrate the received picture would need to be as good as the restored one. That bitrate
over the bitrate that was really sent (stream and stills) is the ratio: 2 means half the bits.

After Ctrl-C the same command continues with what is not finished. It does not notice changes of
the code: after one, delete results.jsonl or give another --out.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.bitrate.figures import METRICS, Point, means_of
from bench.bitrate.report import cells, clip_figures, plot
from bench.command_line import bench_parser, require
from bench.common.arguments import kbps_of, min_face_of, seconds_of
from bench.common.framing import clips_in
from bench.common.jobs import Job, key_of, run_jobs
from bench.common.result_cache import ResultCache
from bench.common.sequences import FaceSequence
from bench.common.tables import markdown, terminal_table
from bench.metrics.ffmpeg import vmaf_neg
from bench.metrics.pictures import psnr
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError

GRID = (30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 450.0, 700.0, 1000.0)
"""Target bitrates in kbit/s."""
OUT = Path("bench-output/bitrate")


def result_of(sequence: FaceSequence) -> dict[str, Any] | None:
    """Returns the fields of a `Point` except clip and target; None without a face."""
    if not sequence.boxes:
        return None
    originals = sequence.pictures["original"]
    found = {}
    for name in ("input", "call"):
        pairs = list(zip(originals, sequence.pictures[name], strict=True))
        found[name] = {
            "vmaf_neg": float(np.mean(vmaf_neg(originals, sequence.pictures[name]))),
            "psnr": float(np.mean([psnr(*pair) for pair in pairs])),
        }
    return {
        "stream_kbps": sequence.stream_kbps,
        "still_kbps": sequence.reference_kbps["call"],
        "input_quality": found["input"],
        "quality": found["call"],
    }


def measure(
    args: argparse.Namespace, clips: list[Path], results: ResultCache, generator: Generator
) -> list[Point]:
    """Returns a point for each clip with a face at each target. Finished ones are cached."""
    jobs, targets = [], []
    for clip in clips:
        for target in args.kbps:
            encoding = f"{args.encoder}-{target:g}"
            key = key_of(clip, encoding, generator, seconds=args.seconds, min_face=args.min_face)
            jobs.append(Job(clip, generator, key, f"{clip.stem}, {encoding}"))
            targets.append(target)
    run_jobs(jobs, results, ["call"], result_of)
    return [
        Point(job.clip.name, target, **results[job.key])
        for job, target in zip(jobs, targets, strict=True)
        if results[job.key] is not None
    ]


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the arguments; exits with 2 if one is invalid."""
    parser = bench_parser("bitrate", __doc__)
    add = parser.add_argument
    add("clips", type=Path, help="folder of clips that no model was trained on")
    add("--encoder", choices=("openh264", "x264"), default="openh264", help="default %(default)s")
    add("--kbps", type=kbps_of, action="append", help="a target (default 30 to 1000); repeatable")
    add("--model", default="lite", help="name or ONNX file (default lite)")
    add("--seconds", type=seconds_of, default=10.0, help="of each clip (default 10)")
    add("--min-face", type=min_face_of, default=120.0, help="height in px (default 120)")
    add("--out", type=Path, default=OUT, metavar="FOLDER", help=f"default {OUT}")
    args = parser.parse_args(arguments)
    args.kbps = sorted(set(args.kbps or GRID))
    if len(args.kbps) < 2:
        parser.error(f"--kbps {args.kbps[0]:g} alone is not a curve: give two or more")
    return args


def main(arguments: list[str]) -> None:
    """Runs the command line."""
    args = parse(arguments)
    require("bitrate", "imageio_ffmpeg", "matplotlib")
    clips, generator = clips_in(args.clips), Generator(args.model, "cpu")
    points = measure(args, clips, ResultCache(args.out / "results.jsonl"), generator)
    if not points:
        raise InputError(f"no face of {args.min_face:g} px: give a smaller --min-face")
    means = means_of(points)
    about = f"{args.encoder}, model {args.model}, {len({p.clip for p in points})} clips"
    text = f"# Bitrate for the same quality\n\n{about}\n"
    for metric, label in METRICS.items():
        console().print(terminal_table(cells(means, metric), f"{label}: {about}"))
        text += f"\n## {label}\n\n{markdown(cells(means, metric))}"
    (args.out / "bitrate.md").write_text(text)
    figures = {"encoder": args.encoder, "model": generator.model.sha256}
    figures |= {"means": [asdict(mean) for mean in means], "clips": clip_figures(points)}
    (args.out / "bitrate.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(means, args.out / "bitrate.png")
    print(f"table, figures and plot: {args.out}")
