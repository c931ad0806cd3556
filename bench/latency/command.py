"""Where the time goes: `python -m bench latency`.

Sends the demo's own clip (or --clip) through x264 and the decoder, on every provider of this
machine: one frame after the other, stage by stage, and then in calls at 30 frames a second, from a
packet's arrival to its frame's leaving. Sizes, faces and calls are all combined.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from aiortc.jitterbuffer import JitterFrame

from bench.latency import paper_way
from bench.latency.cold import cold_start
from bench.latency.composition import composed, encode
from bench.latency.paced import run_calls
from bench.latency.report import Report
from bench.latency.scenes import SIZES, Scene, sizes_of
from bench.latency.sequential import measure
from bench.latency.stages import STAGES, WARM_UP
from receiver.enhance.faces.generator import Device, ExecutionDevice, Generator, device_problem
from receiver.enhance.faces.tracking import MAX_FACES
from receiver.errors import InputError
from receiver.sending.tracks import clip_source, portrait_source

MOST_CALLS = 16


def numbers_of(text: str, option: str, most: int) -> list[int]:
    """Numbers with commas between them. Raises InputError for one outside 1 to `most`."""
    return list(dict.fromkeys(number_of(part, option, most) for part in text.split(",")))


def number_of(text: str, option: str, most: int) -> int:
    """A whole number. Raises InputError for one outside 1 to `most`."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise InputError(f"{text!r} in {option} is no number to use: give 1 to {most}")
    return int(text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments. Raises InputError for a bad value."""
    parser = argparse.ArgumentParser(
        prog="python -m bench latency",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("--clip", type=Path, metavar="FILE", help="instead of the demo's own clip")
    add("--model", default="lite", help="name or ONNX file (default lite)")
    add("--frames", default="600", metavar="N", help="frames timed (default 600)")
    add("--sizes", metavar="LIST", help=f"any of {','.join(SIZES)} (default the clip's own)")
    add("--faces", default="1", metavar="LIST", help=f"1 to {MAX_FACES}, as 1,2,4 (default 1)")
    add("--calls", default="1", metavar="LIST", help="calls at once, as 1,2 (default 1)")
    add(
        "--threads",
        metavar="N",
        help="of the generator on a CPU (default half of the cores, as in a call;\n"
        "receiver enhance takes all)",
    )
    add("--cold", action="store_true", help="also what fresh processes take until they restore")
    add("--against", metavar="paper", help="paper: also the published way, on the same frames")
    add("--paper-frames", default="12", metavar="N", help="frames of it (default 12)")
    add("--json", type=Path, metavar="FILE", help="write the figures here too")
    add("--plot", type=Path, default=Path("bench-output/latency.png"), help="default %(default)s")
    args = parser.parse_args(arguments)
    args.frames = number_of(args.frames, "--frames", 3000)
    args.threads = number_of(args.threads, "--threads", 256) if args.threads else None
    args.paper_frames = number_of(args.paper_frames, "--paper-frames", 1000)
    args.sizes = sizes_of(args.sizes) if args.sizes is not None else None
    args.faces = numbers_of(args.faces, "--faces", MAX_FACES)
    args.calls = numbers_of(args.calls, "--calls", MOST_CALLS)
    if args.against not in (None, "paper"):
        raise InputError(f"{args.against!r} in --against is unknown: give paper, or leave it out")
    if args.cold and not Path("/proc/self/status").exists():
        raise InputError("--cold reads /proc: run it on Linux, or leave it out")
    return args


def main(arguments: list[str]) -> None:
    """The command line."""
    args = parse(arguments)
    source = clip_source(args.clip) if args.clip else portrait_source()
    devices: list[Device] = [
        place for place in get_args(ExecutionDevice) if not device_problem(place)
    ]
    generators = [Generator(args.model, device, args.threads) for device in devices]
    report = Report(source, args.json, args.plot)
    sizes = args.sizes or [(source.width, source.height)]
    scenes = [Scene(width, height, faces) for width, height in sizes for faces in args.faces]
    try:
        for scene in scenes:
            sent = composed(source, scene.width, scene.height, scene.faces)
            packets = encode(sent, scene.kbps, args.frames + WARM_UP)
            for generator in generators:
                measure_scene(report, scene, packets, generator, args.calls)
                if args.against:
                    blocks = math.ceil(args.paper_frames / paper_way.PAPER_BLOCK)
                    again = encode(sent, scene.kbps, (blocks + 1) * paper_way.BLOCK)
                    compare(report, scene, again, generator, blocks)
        if args.cold:
            scene = Scene(source.width, source.height, 1)
            for device in devices:
                report.add_cold(cold_start(encode(source, scene.kbps, 30), args.model, device))
    finally:
        report.write()


def measure_scene(
    report: Report,
    scene: Scene,
    packets: list[JitterFrame],
    generator: Generator,
    counts: list[int],
) -> None:
    """One scene, alone and in so many calls at once. Raises KeyboardInterrupt if cut short."""
    generator.warm_up()
    described = {"scene": scene.name, "size": scene.size, "faces": scene.faces, "kbps": scene.kbps}
    described |= {"width": scene.width, "height": scene.height, "paced": []}
    run = described | measure(packets, generator)
    report.add_run(run)
    for calls in counts:
        report.add_calls(run, run_calls(packets, generator, calls, WARM_UP, STAGES))


def compare(
    report: Report,
    scene: Scene,
    packets: list[JitterFrame],
    generator: Generator,
    blocks: int,
) -> None:
    """One scene by both ways. Raises KeyboardInterrupt if cut short."""
    comparison = paper_way.Comparison(generator, paper_way.Vgg19Network(generator.device))
    interrupted = comparison.run(packets, blocks)
    # The paper's way copies what ours copies while the generator runs.
    stages = [*(name for name in STAGES if name != "output"), "copy"]
    described = {"scene": scene.name, "size": scene.size, "faces": scene.faces}
    report.add_paper(described | comparison.figures(stages) | {"interrupted": interrupted})
