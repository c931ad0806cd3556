"""What references are worth in a call: `python -m bench references CLIPS`.

Frames each clip as a call does (640x480 around the face), sends it through an encoder as browsers
and cameras use it, and restores it with references of five origins: `none`; the stream's I-frames
(`i-frames`, the paper's rule in a call); the stream's good faces (`quality`); stills that are
requested and paid for (`stills`); and raw frames, one a second and free (`raw`, the paper's
protocol). Compares every face with the original's.
"""

import argparse
from functools import partial
from pathlib import Path

from bench.command_line import bench_parser, require
from bench.common.framing import clips_in, framed
from bench.references.figures import Judged, judge, shares, worst
from bench.references.report import plot, table, write
from bench.references.restoring import MIN_TURNED, face_height, restore_clip
from bench.references.scenarios import Scenario, scenarios
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError

PLOT = Path("bench-output/references.png")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the arguments; exits with 2 if one is invalid."""
    parser = bench_parser("references", __doc__)
    add = parser.add_argument
    add("clips", type=Path, help="folder of clips that no model was trained on")
    add("--model", default="lite", help="name or ONNX file (default lite)")
    add("--seconds", type=float, default=12.0, help="of each clip (default 12)")
    add("--min-face", type=float, default=110.0, help="height in px (default 110)")
    add("--only", metavar="TEXT", default="", help="scenarios whose name contains TEXT")
    add("--json", type=Path, metavar="FILE", help="write the figures here too")
    add("--plot", type=Path, default=PLOT, help=f"default {PLOT}")
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace, clips: list[Path], chosen: list[Scenario]) -> list[Judged]:
    """Sends the clips with a large enough face through the scenarios; writes JSON after each."""
    generator = Generator(args.model, "cpu")
    longest = max(scenario.seconds for scenario in chosen)
    results: list[Judged] = []
    with progress_bar() as bar:
        for clip in clips:
            frames, rate = framed(clip, longest)
            if not frames or face_height(frames) < args.min_face:
                continue
            for scenario in chosen:
                title = f"{clip.stem}, {scenario.name}"
                task = bar.add_task(title, total=round(scenario.seconds * rate))
                advance = partial(bar.advance, task)
                sequence = restore_clip(frames, rate, scenario, generator, advance)
                bar.remove_task(task)
                if scenario.turning and len(sequence.landmarks) < MIN_TURNED:
                    continue
                results += judge(sequence, scenario.name, clip.stem)
                if args.json:
                    write(args.json, args.model, results)
    return results


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
            f"no face of {args.min_face:g} px in {args.clips}: give a smaller --min-face"
        )
    screen = console()
    screen.print(table(results))
    for name, by_origin in shares(results).items():
        screen.print(f"share of the raw references' gain, {name}: {by_origin}")
    for result, figure in zip(worst(results), ("psnr_db", "vmaf_neg"), strict=True):
        screen.print(f"worst against its input by {figure}: {result}")
    plot(results, args.plot)
    screen.print(f"plot: {args.plot}")
