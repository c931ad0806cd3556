"""What restoring is worth in bits: `python -m bench bitrate CLIPS`, by SuperVEGAN's method.

Sends each clip at several bitrates, in the sizes in which a browser sends them, and restores it as
a receiver does, stills included. Then it asks which bitrate the received frames would need to be as
good as the restored ones, in the camera's size. That bitrate over the bitrate that was really sent
(stream and stills) is the ratio: 2 means half the bits. Each person counts once.

After Ctrl-C the same command continues with what is not finished. It does not notice changes of
the code: after one, delete results.jsonl or give another --out.
"""

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench.bitrate.figures import Point, means_of
from bench.bitrate.report import cells, clip_figures, plot
from bench.command_line import bench_parser, require
from bench.common.arguments import kbps_of, min_face_of, seconds_of
from bench.common.call import Call
from bench.common.framing import clips_in
from bench.common.jobs import Captured, Job, generator, key_of, run_jobs
from bench.common.judging import BASIC, basic_figures, left_out
from bench.common.ladder import LADDER
from bench.common.people import people_of
from bench.common.result_cache import ResultCache
from bench.common.senders import sender_of
from bench.common.sequences import RECEIVED, watch
from bench.common.tables import markdown, terminal_table
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError

GRID = (30.0, *(rung.kbps for rung in LADDER), 1000.0)
"""Target bitrates in kbit/s: the ladder's, and one beyond each end, so that its own are known."""
RESTORED = "restored"
OUT = Path("bench-output/bitrate")


def run(
    encoding: str, model: str, min_face: float, clip: Captured, folder: Path
) -> dict[str, Any] | None:
    """Returns a `Point`'s fields but for person, clip and target; None without a face."""
    if not clip.frames or clip.face_height < min_face:
        return None
    sent = sender_of(encoding).send(clip.frames, clip.rate)
    calls = {RESTORED: Call("stills", generator(model))}
    sequence = watch(sent, clip.rate, clip.faces, calls, folder)
    return {
        "stream_kbps": sequence.stream_kbps,
        "still_kbps": sequence.reference_kbps[RESTORED],
        "input_quality": basic_figures(sequence, RECEIVED),
        "quality": basic_figures(sequence, RESTORED),
    }


def measure(
    args: argparse.Namespace, clips: list[Path], results: ResultCache, opened: Generator
) -> list[Point]:
    """Returns a point for each clip with a face at each target. Finished ones are cached."""
    jobs, targets, people = [], [], people_of(clips)
    for clip in clips:
        for target in args.kbps:
            encoding = f"{args.encoder}-{target:g}"
            key = key_of(clip, opened, seconds=args.seconds, min_face=args.min_face)
            key |= {"encoding": encoding}
            work = partial(run, encoding, args.model, args.min_face)
            title = f"{clip.stem}, {encoding}"
            jobs.append(Job(clip, people[clip], args.seconds, work, key, title))
            targets.append(target)
    run_jobs(jobs, results)
    if without := left_out(job for job in jobs if results[job.key] is None):
        print(without)
    return [
        Point(job.person, job.clip.name, target, **results[job.key])
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
    add("--seconds", type=seconds_of, default=10.0, help="of each clip at most (default 10)")
    add("--min-face", type=min_face_of, default=60.0, help="height in px (default 60)")
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
    clips, opened = clips_in(args.clips), Generator(args.model, "cpu")
    points = measure(args, clips, ResultCache(args.out / "results.jsonl"), opened)
    if not points:
        raise InputError(f"no face of {args.min_face:g} px: give a smaller --min-face")
    means = means_of(points)
    about = f"{args.encoder}, model {args.model}, {len({p.person for p in points})} people"
    text = f"# Bitrate for the same quality\n\n{about}\n"
    for metric, label in BASIC.items():
        console().print(terminal_table(cells(means, metric), f"{label}: {about}"))
        text += f"\n## {label}\n\n{markdown(cells(means, metric))}"
    (args.out / "bitrate.md").write_text(text, encoding="utf-8")
    figures = {"encoder": args.encoder, "model": opened.model.sha256}
    figures |= {"means": [asdict(mean) for mean in means], "clips": clip_figures(points)}
    (args.out / "bitrate.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(means, args.out / "bitrate.png")
    print(f"table, figures and plot: {args.out}")
