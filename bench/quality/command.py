"""How much better the faces get: `python -m bench quality CLIPS`.

Frames each clip as a call does (640x480 around the face), sends it through encoders, and restores
its faces with one or more generators and by three protocols: without references (`none`), with
those of a call (`call`: good frames of the stream, and stills that are requested and paid for),
and with those of the paper (`paper`: raw frames, one a second and free). Compares all faces with
the original's.

After Ctrl-C the same command continues with what is not finished. It does not notice changes of
the code: after one, delete results.jsonl or give another --out.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from bench.command_line import bench_parser, require
from bench.common.arguments import min_face_of, seconds_of
from bench.common.encodings import encoding_of
from bench.common.framing import clips_in
from bench.common.jobs import Job, key_of, run_jobs
from bench.common.result_cache import ResultCache
from bench.common.sequences import PROTOCOLS, FaceSequence
from bench.metrics.brisque import brisque_problem
from bench.quality.figures import result_of
from bench.quality.report import report, strip
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError

if TYPE_CHECKING:
    from bench.metrics.lpips import LPIPS

OUT = Path("bench-output/quality")


def jobs_of(
    args: argparse.Namespace, clips: list[Path], generators: dict[str, Generator]
) -> list[Job]:
    """Returns a job for each clip, encoding and generator; generators are given by name."""
    lpips = args.lpips_weights and str(args.lpips_weights.resolve())
    learned = {"lpips": lpips, "brisque": brisque_problem() is None}
    jobs = []
    for clip in clips:
        for encoding in args.encoding:
            for name, generator in generators.items():
                key = key_of(
                    clip, encoding, generator, seconds=args.seconds, min_face=args.min_face
                )
                title = f"{clip.stem}, {encoding}, {name}"
                jobs.append(Job(clip, generator, key | learned, title))
    return jobs


def measure(results: ResultCache, lpips: "LPIPS | None", sequence: FaceSequence) -> dict[str, Any]:
    """Returns a job's result and writes a strip of its pictures to the cache's folder."""
    result = result_of(sequence, lpips)
    if sequence.boxes:
        result["strip"] = f"strip-{len(results)}.png"
        picture = cv2.cvtColor(strip(sequence), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(results.folder / result["strip"]), picture)
    return result


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the arguments; exits with 2 if one is invalid."""
    parser = bench_parser("quality", __doc__)
    add = parser.add_argument
    add("clips", type=Path, help="folder of clips that no model was trained on")
    add("--encoding", action="append", help="crf42, openh264-100 (both by default), x264-150, ...")
    add("--model", action="append", help="name or ONNX file (default lite); repeatable")
    add("--seconds", type=seconds_of, default=10.0, help="of each clip (default 10)")
    add("--min-face", type=min_face_of, default=120.0, help="height in px (default 120)")
    add("--lpips-weights", type=Path, metavar="FOLDER|FILE", help="AlexNet's and LPIPS' own")
    add("--out", type=Path, default=OUT, metavar="FOLDER", help=f"default {OUT}")
    args = parser.parse_args(arguments)
    args.encoding = list(dict.fromkeys(args.encoding or ["crf42", "openh264-100"]))
    args.model = list(dict.fromkeys(args.model or ["lite"]))
    return args


def main(arguments: list[str]) -> None:
    """Runs the command line. Raises InputError for bad input."""
    args = parse(arguments)
    require("quality", "imageio_ffmpeg", "matplotlib", "skimage")
    for name in args.encoding:
        encoding_of(name)
    clips = clips_in(args.clips)
    generators: dict[str, Generator] = {}
    for opened in (Generator(name, "cpu") for name in args.model):
        if opened.model.name in generators:
            raise InputError(f"two models are called {opened.model.name}: rename one of the files")
        generators[opened.model.name] = opened
    lpips = None
    if args.lpips_weights:
        require("quality --lpips-weights", "torch")
        from bench.metrics.lpips import LPIPS

        lpips = LPIPS(args.lpips_weights)
    results = ResultCache(args.out / "results.jsonl")
    jobs = jobs_of(args, clips, generators)
    run_jobs(jobs, results, PROTOCOLS, partial(measure, results, lpips))
    report(jobs, results, console())
