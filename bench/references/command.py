"""What references are worth in a call: `python -m bench references CLIPS`.

Each clip is framed as a call frames it (640x480 around the face), sent through an encoder as a
browser or a camera uses it, and restored by the same generator with references that came in five
ways: none, the stream's I-frames (the paper's rule in a call), what the stream brought in good
quality (`quality`), stills asked for and paid for (`stills`), raw frames, one a second and free
(the paper's protocol, `raw`). Every face is judged against the original's.
"""

import argparse
from pathlib import Path

from bench.common.framing import call_view
from bench.references.figures import Judged, judge, shares, worst
from bench.references.report import plot, table, write
from bench.references.restoring import MIN_TURNED, face_height, restore_clip
from bench.references.scenarios import scenarios
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.media.files.reading import ENDINGS

PLOT = Path("bench-output/references.png")


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench references",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("clips", type=Path, help="folder of clips that nothing was trained on")
    parser.add_argument("--model", default="lite", help="name or ONNX file (default lite)")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each clip (default 12)")
    parser.add_argument("--min-face", type=float, default=110.0, help="height in px (default 110)")
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="scenarios whose name holds TEXT"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--plot", type=Path, default=PLOT, help=f"default {PLOT}")
    args = parser.parse_args(arguments)
    paths = sorted(path for path in args.clips.glob("*") if path.suffix.lower() in ENDINGS)
    if not paths:
        parser.error(f"no videos in {args.clips}")
    chosen = [one for one in scenarios(args.seconds) if args.only in one.name]
    if not chosen:
        parser.error(f"no scenario's name holds {args.only!r}")
    generator = Generator(args.model, "cpu")
    results: list[Judged] = []
    screen = console()
    with progress_bar() as bar:
        for path in paths:
            longest = max(sum(seconds for _, seconds in one.parts) for one in chosen)
            frames, rate = call_view(path, longest)
            if not frames or face_height(frames) < args.min_face:
                continue
            for scenario in chosen:
                seconds = sum(part for _, part in scenario.parts)
                task = bar.add_task(f"{path.stem}, {scenario.name}", total=round(seconds * rate))
                advance = lambda task=task: bar.advance(task)  # noqa: E731
                seen = restore_clip(frames, rate, scenario, generator, advance)
                bar.remove_task(task)
                if scenario.turning and len(seen["landmarks"].pictures) < MIN_TURNED:
                    continue
                results += judge(seen, scenario, path.stem, seconds)
                if args.json:
                    write(args.json, args.model, results)
    if not results:
        parser.error(f"no face of {args.min_face:g} px in {args.clips}")
    screen.print(table(results))
    for name, by_way in shares(results).items():
        screen.print(f"share of the raw references' gain, {name}: {by_way}")
    for result, figure in zip(worst(results), ("psnr_db", "vmaf_neg"), strict=True):
        screen.print(f"worst against its input by {figure}: {result}")
    plot(results, args.plot)
    screen.print(f"plot: {args.plot}")
