"""What references are worth in a call: `python -m bench references CLIPS`.

Captures each clip at 640x480 around the face, sends it as browsers and cameras do, in the sizes of
the ladder, and restores it with references of five origins: `none`; the stream's I-frames
(`i-frames`, the paper's rule in a call); the stream's good faces (`quality`); stills that are
requested and paid for (`stills`); and raw frames, one a second and free (`raw`, the paper's
protocol). Compares faces and whole frames with the captured ones, in the camera's size.

No clip is played twice: one that is too short for a scenario is left out of it. Each person counts
once. After Ctrl-C the same command continues with what is not finished.
"""

import argparse
import itertools
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import get_args

from bench.command_line import bench_parser, require
from bench.common.arguments import capacity_of, min_face_of, seconds_of
from bench.common.framing import clips_in
from bench.common.jobs import Job, key_of, run_jobs
from bench.common.judging import left_out
from bench.common.people import people_of
from bench.common.result_cache import ResultCache
from bench.common.tables import markdown, terminal_table
from bench.references.figures import Judged, by_person, shares
from bench.references.report import plot, table
from bench.references.restoring import restore
from bench.references.scenarios import Scenario, scenarios
from keyframes import Policy
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError

OUT = Path("bench-output/references")
CAPACITY = 10
"""Keyframes of a reference set, unless --capacity says otherwise."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the arguments; exits with 2 if one is invalid."""
    parser = bench_parser("references", __doc__)
    add = parser.add_argument
    add("clips", type=Path, help="folder of clips that no model was trained on")
    add("--model", default="lite", help="name or ONNX file (default lite)")
    add("--seconds", type=seconds_of, default=4.0, help="judged of each clip (default 4)")
    add("--min-face", type=min_face_of, default=60.0, help="height in px (default 60)")
    add("--only", metavar="TEXT", default="", help="scenarios whose name contains TEXT")
    add(
        "--policy",
        action="append",
        choices=get_args(Policy),
        help="which keyframe is evicted (default lfu); repeatable",
    )
    add(
        "--capacity",
        action="append",
        type=capacity_of,
        help=f"keyframes of a reference set (default {CAPACITY}); repeatable",
    )
    add("--out", type=Path, default=OUT, metavar="FOLDER", help=f"default {OUT}")
    args = parser.parse_args(arguments)
    args.policy = list(dict.fromkeys(args.policy or ["lfu"]))
    args.capacity = list(dict.fromkeys(args.capacity or [CAPACITY]))
    return args


def measure(args: argparse.Namespace, clips: list[Path], chosen: list[Scenario]) -> list[Judged]:
    """Sends the clips that are long enough through the scenarios. Finished jobs are cached."""
    opened, people = Generator(args.model, "cpu"), people_of(clips)
    sets = tuple(itertools.product(args.policy, args.capacity))
    longest = max(scenario.seconds for scenario in chosen)
    jobs = []
    for clip in clips:
        for scenario in chosen:
            key = key_of(clip, opened, seconds=args.seconds, min_face=args.min_face)
            key |= {"scenario": scenario.name, "sets": sets}
            work = partial(restore, scenario.name, args.seconds, args.model, sets, args.min_face)
            title = f"{clip.stem}, {scenario.name}"
            jobs.append(Job(clip, people[clip], longest, work, key, title))
    results = ResultCache(args.out / "results.jsonl")
    run_jobs(jobs, results)
    for scenario in chosen:
        of_it = [job for job in jobs if job.key["scenario"] == scenario.name]
        empty = [job for job in of_it if results[job.key] is None]
        if without := left_out(empty, f" of {scenario.name}"):
            print(without)
    return by_person(
        Judged(job.key["scenario"], job.person, way, figures)
        for job in jobs
        for way, figures in (results[job.key] or {}).items()
    )


def main(arguments: list[str]) -> None:
    """Runs the command line. Raises InputError for bad input."""
    args = parse(arguments)
    require("references", "imageio_ffmpeg", "matplotlib", "skimage")
    clips = clips_in(args.clips)
    chosen = [one for one in scenarios(args.seconds) if args.only in one.name]
    if not chosen:
        raise InputError(f"no scenario's name contains {args.only!r}: leave --only out to see all")
    results = measure(args, clips, chosen)
    if not results:
        raise InputError(
            f"no clip in {args.clips} has {args.seconds:g} s of a face of {args.min_face:g} px: "
            "give a smaller --seconds or --min-face"
        )
    screen, text = console(), "# What references are worth\n"
    for name in dict.fromkeys(one.scenario for one in results):
        people = len({one.person for one in results if one.scenario == name})
        drawn, title = table(results, name), f"{name}, {people} people: gains over received"
        screen.print(terminal_table(drawn, title))
        text += f"\n## {title}\n\n{markdown(drawn)}"
    for name, by_way in shares(results).items():
        line = ", ".join(f"{way} {share:g}" for way, share in by_way.items())
        screen.print(f"share of what raw references add, {name}: {line}")
        text += f"\nShare of what raw references add, {name}: {line}.\n"
    (args.out / "references.md").write_text(text, encoding="utf-8")
    figures = {"model": args.model, "people": [asdict(one) for one in results]}
    (args.out / "references.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(results, args.out / "references.png")
    screen.print(f"tables, figures and plot: {args.out}")
