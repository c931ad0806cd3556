"""Where a frame's time goes: `python -m bench latency`.

Encodes the demo's own clip (or --clip) with x264, decodes and enhances it on every execution device
of this machine: one frame after the other, stage by stage, and then in calls at 30 frames a second,
from a packet's arrival to the frame's leaving. Combines all sizes, faces and calls.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from aiortc.jitterbuffer import JitterFrame

from bench.command_line import bench_parser, require
from bench.latency import comparison
from bench.latency.cold import cold_start
from bench.latency.comparison import Comparison, Enlarging, Method
from bench.latency.composition import composed, encode
from bench.latency.paced import run_calls
from bench.latency.paper_method import PaperMethod
from bench.latency.report import Report
from bench.latency.scenes import SIZES, Scene, sizes_of
from bench.latency.sequential import measure
from bench.latency.stages import STAGES
from bench.rivals.contract import Rival
from bench.rivals.naming import CHOICE, is_rival, rivals_of
from bench.rivals.paper_networks import FORMS, Network, network_of
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.tracking import MAX_FACES
from receiver.errors import InputError
from receiver.inference.devices import Device, ExecutionDevice, device_problem
from receiver.sending.sources import clip_source, portrait_source

MOST_CALLS = 16
WARM_UP_FRAMES = 30
"""Frames before timing begins."""
COLD_RUNS = 3
"""Fresh processes of a cold start."""
COLD_FRAMES = 30
"""Length of the clip that fresh processes restore."""


def numbers_of(text: str, option: str, most: int) -> list[int]:
    """Parses numbers separated by commas. Raises InputError if one is outside 1 to `most`."""
    return list(dict.fromkeys(number_of(part, option, most) for part in text.split(",")))


def number_of(text: str, option: str, most: int) -> int:
    """Parses a whole number. Raises InputError if it is outside 1 to `most`."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise InputError(f"{text!r} in {option} is not a valid number: give 1 to {most}")
    return int(text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the arguments. Raises InputError for an invalid value."""
    parser = bench_parser("latency", __doc__)
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
        help="threads of the generator on a CPU (default half of the cores, as in a call;\n"
        "receiver enhance uses all)",
    )
    add(
        "--cold",
        action="store_true",
        help="time fresh processes up to their first restored frame too",
    )
    add(
        "--against",
        action="append",
        default=[],
        metavar="LIST",
        help="time other methods too, on the same frames: any of\n"
        f"{', '.join(FORMS)}\n(the published method: VGG-19 in eager PyTorch, MobileNetV3 in "
        f"ONNX Runtime),\n{CHOICE}; repeatable",
    )
    add("--rival-frames", default="24", metavar="N", help="frames of each of them (default 24)")
    add("--json", type=Path, metavar="FILE", help="write the figures here too")
    add("--plot", type=Path, default=Path("bench-output/latency.png"), help="default %(default)s")
    args = parser.parse_args(arguments)
    args.frames = number_of(args.frames, "--frames", 3000)
    args.threads = number_of(args.threads, "--threads", 256) if args.threads else None
    args.rival_frames = number_of(args.rival_frames, "--rival-frames", 1000)
    args.sizes = sizes_of(args.sizes) if args.sizes is not None else None
    args.faces = numbers_of(args.faces, "--faces", MAX_FACES)
    args.calls = numbers_of(args.calls, "--calls", MOST_CALLS)
    args.against = list(dict.fromkeys(",".join(args.against).split(","))) if args.against else []
    for name in args.against:
        if name not in FORMS and not is_rival(name):
            raise InputError(
                f"{name!r} in --against is unknown: give any of {', '.join(FORMS)}, {CHOICE}, "
                "with commas between them"
            )
    if args.cold and not Path("/proc/self/status").exists():
        raise InputError("--cold reads /proc: run it on Linux, or leave it out")
    return args


def main(arguments: list[str]) -> None:
    """Runs the command line. Raises InputError for bad input."""
    args = parse(arguments)
    forms = [name for name in args.against if name in FORMS]
    for form in forms:
        require(f"latency --against {form}", "torch", *("onnx", "onnxscript") * (form != "paper"))
    source = clip_source(args.clip) if args.clip else portrait_source()
    devices: list[Device] = [
        place for place in get_args(ExecutionDevice) if not device_problem(place)
    ]
    generators = [Generator(args.model, device, args.threads) for device in devices]
    rivals = rivals_of([name for name in args.against if name not in FORMS], generators[0].threads)
    networks = {
        generator: {form: network_of(form, generator.device, generator.threads) for form in forms}
        for generator in generators
    }
    report = Report(source, args.json, args.plot)
    sizes = args.sizes or [(source.width, source.height)]
    scenes = [Scene(width, height, faces) for width, height in sizes for faces in args.faces]
    try:
        for scene in scenes:
            sent = composed(source, scene.width, scene.height, scene.faces)
            packets = encode(sent, scene.kbps, args.frames + WARM_UP_FRAMES)
            for generator in generators:
                measure_scene(report, scene, packets, generator, args.calls)
                if args.against:
                    blocks = math.ceil(args.rival_frames / comparison.RIVAL_BLOCK)
                    again = encode(sent, scene.kbps, (blocks + 1) * comparison.BLOCK)
                    others = methods_of(args.against, networks[generator], rivals)
                    compare(report, scene, again, Comparison(generator, others), blocks)
        if args.cold:
            scene = Scene(source.width, source.height, 1)
            for device in devices:
                packets = encode(source, scene.kbps, COLD_FRAMES)
                report.add_cold(cold_start(packets, args.model, device, COLD_RUNS))
    finally:
        report.write()


def measure_scene(
    report: Report,
    scene: Scene,
    packets: list[JitterFrame],
    generator: Generator,
    counts: list[int],
) -> None:
    """Times a scene frame by frame, then in each number of calls at once.

    Raises KeyboardInterrupt if Ctrl-C cut it short.
    """
    generator.warm_up()
    described = {"scene": scene.name, "size": scene.size, "faces": scene.faces, "kbps": scene.kbps}
    described |= {"width": scene.width, "height": scene.height, "paced": []}
    run = described | measure(packets, generator, WARM_UP_FRAMES)
    report.add_run(run)
    for calls in counts:
        report.add_calls(run, run_calls(packets, generator, calls, WARM_UP_FRAMES, STAGES))


def methods_of(
    names: list[str], networks: dict[str, Network], rivals: list[Rival]
) -> dict[str, Method]:
    """Returns the methods of --against by name, in its order."""
    remaining = iter(rivals)
    methods: dict[str, Method] = {}
    for name in names:
        if name in networks:
            methods[name] = PaperMethod(networks[name])
        else:
            rival = next(remaining)
            methods[rival.name] = Enlarging(rival)
    return methods


def compare(
    report: Report,
    scene: Scene,
    packets: list[JitterFrame],
    compared: Comparison,
    blocks: int,
) -> None:
    """Times a scene with all methods. Raises KeyboardInterrupt if Ctrl-C cut it short."""
    interrupted = compared.run(packets, blocks)
    # Ours copies the frame while the generator runs; the paper's method copies it before and after.
    stages = [*(name for name in STAGES if name != "output"), "copy"]
    described = {"scene": scene.name, "size": scene.size, "faces": scene.faces}
    report.add_comparison(described | compared.figures(stages) | {"interrupted": interrupted})
