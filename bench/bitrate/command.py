"""What restoring is worth in bits: `python -m bench bitrate CLIPS`, after SuperVEGAN's method.

Each clip is sent at a grid of bitrates and restored as a receiver does it, stills included. Which
bitrate would the picture as received need to be as good? That, divided by the rate that was really
sent (the stream's and the stills'), is the ratio: 2 means half the bits.

Ctrl-C keeps what is finished, and the same command goes on from there. What depends on the code is
not noticed: after a change to it, delete results.jsonl or give another --out.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.bitrate.figures import METRICS, Point, means_of
from bench.bitrate.report import cells, clip_figures, plot
from bench.common.arguments import kbps_of, min_face_of, seconds_of
from bench.common.encodings import encoding_of
from bench.common.framing import clips_in, framed
from bench.common.metrics import psnr, vmaf_neg
from bench.common.result_cache import Finished
from bench.common.sequences import Seen, watch
from bench.common.tables import markdown, shown
from bench.quality.command import sha256
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError

GRID = (30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 450.0, 700.0, 1000.0)
"""Target bitrates in kbit/s."""
OUT = Path("bench-output/bitrate")


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
