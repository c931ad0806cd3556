"""Where the time goes: `python -m bench latency`.

Sends the demo's own clip (or --clip) through x264 and the decoder, on every provider of this
machine: one frame after the other, stage by stage, and then in calls at 30 frames a second, from a
packet's arrival to its frame's leaving. Sizes, faces and calls are all combined.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from aiortc.jitterbuffer import JitterFrame
from rich.progress import track as progress
from rich.table import Table

from bench import paper_way
from bench.paced import FPS, TimedEnhancer, composed, encode, run_calls, times
from receiver.commands.terminal import console
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.stage import TIMED
from receiver.enhance.faces.tracking import MAX_FACES
from receiver.errors import InputError
from receiver.inference.devices import Device, ExecutionDevice, device_problem
from receiver.media.frame import DecodedFrame
from receiver.sending.sources import Source, clip_source, portrait_source
from receiver.transport.aiortc_hooks import ObservingDecoder

STAGES = ("decode", *TIMED, "output")
"""In the order in which a frame meets them; the rest of the time is in none of them. `output` is
from the enhancer's last work in its thread to the frame's being where it is used."""
PER_FACE = ("choose", "warp")
"""Stages that are timed for each face, not for all of a frame."""
SIZES = {"360p": (640, 360), "480p": (640, 480), "720p": (1280, 720), "1080p": (1920, 1080)}
MOST_CALLS = 16
WARM_UP = 30
"""Frames before timing begins."""
KBPS_AT_480P = 100.0
"""Bitrate at 640x480; at other sizes in proportion to the pixels."""
COLD_RUNS = 3
PERCENTILES = ("median", "p95", "p99")

IMPORT = "import time; began = time.perf_counter(); from receiver import EnhancedVideoTrack; " + (
    "print(time.perf_counter() - began)"
)
FIRST_FRAME = """
import sys
import av
from receiver import Enhancer, Generator
from receiver.media.frame import DecodedFrame
clip, model, device = sys.argv[1:]
enhancer = Enhancer(Generator(model, device))
for video in av.open(clip).decode(video=0):
    if enhancer.enhance(DecodedFrame.from_video(video)) is not video:
        print(open("/proc/self/status").read())
        break
"""
"""A program that ends with its first restored frame and tells the kernel's figures of itself."""


@dataclass(frozen=True)
class Scene:
    """What is sent: the clip's face so many times in frames of one size."""

    width: int
    height: int
    faces: int

    @property
    def size(self) -> str:
        """The size's name where it has one."""
        named = {pixels: name for name, pixels in SIZES.items()}
        return named.get((self.width, self.height), f"{self.width}x{self.height}")

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.size}, {self.faces} face{'s' * (self.faces > 1)}"

    @property
    def kbps(self) -> float:
        """The bitrate at which it is sent."""
        return KBPS_AT_480P * self.width * self.height / (640 * 480)


def measure(packets: list[JitterFrame], generator: Generator) -> dict[str, Any]:
    """Milliseconds a stage, and frames a second of the whole, without waiting between frames.

    `interrupted` in what is returned tells whether Ctrl-C ended it before its last frame.
    """
    decoder, enhancer = ObservingDecoder(), TimedEnhancer(generator)
    stats, interrupted = enhancer.stats, False
    with ThreadPoolExecutor(1) as worker, ThreadPoolExecutor(1) as beside:
        enhancer.set_executor(beside)  # as in a call
        try:
            for index, packet in enumerate(progress(packets, "one after the other")):
                if index == WARM_UP:
                    stats.forget_timings()
                began = time.perf_counter()
                with stats.stage("decode"):
                    video: Any = decoder.decode(packet)[0]
                worker.submit(enhancer.enhance, DecodedFrame.from_video(video)).result()
                ended = time.perf_counter()
                stats.add("output", ended - enhancer.ended)
                stats.add("whole frame", ended - began)
                stats.add("without decoding", ended - began - stats.timings("decode").last())
                enhancer.between_frames()
        except KeyboardInterrupt:
            interrupted = True
    wholes, without = stats.seconds("whole frame"), stats.seconds("without decoding")
    return {
        "device": generator.device,
        "model": generator.model.name,
        "threads": generator.threads,
        "frames": len(wholes),
        "fps": len(wholes) / sum(wholes) if wholes else None,
        "fps_without_decoding": len(without) / sum(without) if without else None,
        "without_decoding_ms": times(stats, "without decoding"),
        "stages_ms": {name: times(stats, name) for name in (*STAGES, "whole frame")},
        "interrupted": interrupted,
    }


def cold_start(packets: list[JitterFrame], model: str, device: Device) -> dict[str, Any]:
    """What fresh processes take until they restore: medians of `COLD_RUNS`.

    Cold is the process; the files that it reads lie in the operating system's cache.
    """
    imports, starts, peaks = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.h264"
        clip.write_bytes(b"".join(packet.data for packet in packets))
        for _ in progress(range(COLD_RUNS), "fresh processes"):
            imports.append(float(_told_by(IMPORT)))
            began = time.perf_counter()
            told = _told_by(FIRST_FRAME, str(clip), model, device)
            starts.append(time.perf_counter() - began)
            if not told:
                raise InputError("no frame of the clip was restored: give one that shows a face")
            # The kernel's own figure: a child's getrusage() may hold its parent's peak.
            (peak,) = (line.split()[1] for line in told.splitlines() if line.startswith("VmHWM"))
            peaks.append(int(peak) * 1024 / 1e6)
    return {
        "device": device,
        "import_s": statistics.median(imports),
        "first_restored_s": statistics.median(starts),
        "peak_rss_mb": statistics.median(peaks),
        "runs": COLD_RUNS,
    }


def _told_by(program: str, *arguments: str) -> str:
    """What a fresh Python process prints. Raises InputError if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"a fresh process of the receiver failed ({reason}): run receiver doctor")
    return done.stdout


class Report:
    """Everything measured so far, printed as it comes; Ctrl-C leaves what there is.

    Attributes:
        figures: ready for JSON.
    """

    def __init__(self, source: Source, json_file: Path | None, plot_file: Path) -> None:
        self.figures: dict[str, Any] = {
            "machine": {"cpu": cpu_name(), "cores": os.cpu_count()},
            "size": {"width": source.width, "height": source.height},
            "runs": [],
            "cold": [],
            "paper": [],
        }
        self._json_file, self._plot_file = json_file, plot_file
        self._console = console()

    def add_run(self, run: dict[str, Any]) -> None:
        """Takes a scene's frames one after the other. Raises KeyboardInterrupt if cut short."""
        self.figures["runs"].append(run)
        self._console.print(stage_table(run))
        self._go_on(run)

    def add_calls(self, run: dict[str, Any], calls: dict[str, Any]) -> None:
        """Takes paced calls of that run's scene. Raises KeyboardInterrupt if cut short."""
        run["paced"].append(calls)
        if len(calls["each"]) == 1:
            self._console.print(paced_table(run, calls["each"][0]))
        self._console.print(calls_table(run, calls))
        self._go_on(calls)

    def add_cold(self, cold: dict[str, Any]) -> None:
        """Takes what fresh processes took."""
        self.figures["cold"].append(cold)
        shown = Table("cold start", cold["device"], title=f"medians of {cold['runs']} processes")
        shown.add_row("import receiver", f"{cold['import_s']:.2f} s")
        shown.add_row("process to first restored frame", f"{cold['first_restored_s']:.2f} s")
        shown.add_row("its peak memory (RSS)", f"{cold['peak_rss_mb']:.0f} MB")
        self._console.print(shown)

    def add_paper(self, paper: dict[str, Any]) -> None:
        """Takes both ways of a scene. Raises KeyboardInterrupt if cut short."""
        self.figures["paper"].append(paper)
        self._console.print(paper_table(paper))
        self._go_on(paper)

    def write(self) -> None:
        """Prints the scenes side by side and writes plot and JSON, as far as there is anything."""
        runs = [run for run in self.figures["runs"] if run["fps"]]
        if len(runs) > 1:
            self._console.print(scene_table(runs))
        if runs:
            self._plot_file.parent.mkdir(parents=True, exist_ok=True)
            papers = [one for one in self.figures["paper"] if one["ratio"]]
            plot(runs, papers, self._plot_file)
            print(f"plot: {self._plot_file}")
        if self._json_file:
            self._json_file.parent.mkdir(parents=True, exist_ok=True)
            self._json_file.write_text(json.dumps(self.figures, indent=2) + "\n")

    @staticmethod
    def _go_on(measured: dict[str, Any]) -> None:
        if measured["interrupted"]:
            raise KeyboardInterrupt


def cpu_name() -> str:
    """Of this machine's processor, as far as the system tells."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _shown(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _cells(measured: dict[str, float | None]) -> list[str]:
    return [_shown(measured[name]) for name in PERCENTILES]


def stage_table(run: dict[str, Any]) -> Table:
    """A row a stage."""
    shown = Table("stage", "median ms", "p95 ms", "p99 ms")
    shown.title = (
        f"{run['scene']}: {run['model']} on {run['device']}, {run['threads']} threads, "
        f"one after the other: {_shown(run['fps'], 1)} frames a second"
    )
    for name, measured in run["stages_ms"].items():
        if name == "whole frame":
            shown.add_section()
        shown.add_row(name + " (a face)" * (name in PER_FACE), *_cells(measured))
    shown.add_row("without decoding", *_cells(run["without_decoding_ms"]))
    return shown


def paced_table(run: dict[str, Any], call: dict[str, Any]) -> Table:
    """A single call's stages, and what it added to its frames."""
    shown = Table("stage", "median ms", "p95 ms", "p99 ms")
    shown.title = f"{run['scene']} on {run['device']}, paced at {FPS} frames a second"
    for name in STAGES:
        shown.add_row(name + " (a face)" * (name in PER_FACE), *_cells(call["stages_ms"][name]))
    shown.add_section()
    shown.add_row("added, from the decoder on", *_cells(call["added_latency_ms"]))
    shown.add_row("end to end, from the packet on", *_cells(call["end_to_end_ms"]))
    shown.add_row("  of restored frames", *_cells(call["restored_end_to_end_ms"]))
    return shown


def calls_table(run: dict[str, Any], calls: dict[str, Any]) -> Table:
    """A row a call: what became of its frames, and when they left."""
    columns = ("call", "fps", "restored", "skipped", "dropped", *PERCENTILES)
    shown = Table(*columns, title=f"{run['scene']} on {run['device']}, calls: {calls['calls']}")
    shown.caption = "restored frames a second; ms from a packet's arrival to its frame's leaving"
    for number, call in enumerate(calls["each"], 1):
        shown.add_row(
            str(number),
            f"{call['restored_fps']:.1f}",
            f"{call['restored']} of {call['frames']}",
            str(call["skipped"]),
            str(call["dropped"]),
            *_cells(call["end_to_end_ms"]),
        )
    return shown


def scene_table(runs: list[dict[str, Any]]) -> Table:
    """A row a scene, with the ratio of its time without decoding to 480p's of as many faces."""
    columns = ("scene", "device", "frames/s", "without decoding", "ms", "to 480p's")
    shown = Table(*columns, title="one frame after the other")
    for run in runs:
        base = next(
            (
                other["without_decoding_ms"]["median"]
                for other in runs
                if other["size"] == "480p"
                and (other["faces"], other["device"]) == (run["faces"], run["device"])
            ),
            None,
        )
        median = run["without_decoding_ms"]["median"]
        shown.add_row(
            run["scene"],
            run["device"],
            _shown(run["fps"], 1),
            _shown(run["fps_without_decoding"], 1),
            _shown(median),
            _shown(base and median / base),
        )
    return shown


def paper_table(paper: dict[str, Any]) -> Table:
    """Both ways' stages side by side where they correspond."""
    ours, theirs = paper["ours"], paper["paper"]
    shown = Table("stage", "ours: median ms", "p95 ms", "paper: median ms", "p95 ms", "times")
    shown.title = (
        f"{paper['scene']}: ours on {ours['device']} {_shown(ours['fps'], 1)} frames a second, the "
        f"paper's way on {theirs['device']} {_shown(theirs['fps'])}: {_shown(paper['ratio'], 1)} "
        "times as many"
    )
    for name, mine in ours["stages_ms"].items():
        other = theirs["stages_ms"][name]
        if name == paper_way.WHOLE:
            shown.add_section()
        label = {"copy": "copy / RGB and back", paper_way.WHOLE: "whole, decoded"}.get(name, name)
        both = (mine["median"], mine["p95"], other["median"], other["p95"])
        times_as_long = mine["median"] and other["median"] and other["median"] / mine["median"]
        shown.add_row(label, *map(_shown, both), _shown(times_as_long, 1))
    shown.caption = (
        f"restored {ours['restored']} of {ours['frames']} and {theirs['restored']} of "
        f"{theirs['frames']} frames, in blocks that alternate. "
        "The paper's VGG-19 generator is not trained: it is timed, not judged."
    )
    return shown


def plot(runs: list[dict[str, Any]], papers: list[dict[str, Any]], path: Path) -> None:
    """Bars of the stages' medians, a bar a scene, and the paper's way beside ours."""
    from matplotlib.figure import Figure

    heights = [1.6 + 0.75 * len(runs), *(4.6 for _ in papers)]
    figure = Figure(figsize=(9.5, sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    plot_scenes(panels[0], runs)
    for axes, paper in zip(panels[1:], papers, strict=True):
        plot_paper(axes, paper)
    figure.savefig(path, dpi=120)


def plot_scenes(axes: Any, runs: list[dict[str, Any]]) -> None:
    """Stacked bars of the medians, one frame after the other; marks for a paced call."""
    from matplotlib import colormaps

    left = np.zeros(len(runs))
    for number, stage in enumerate(STAGES):
        medians = [run["stages_ms"][stage]["median"] or 0.0 for run in runs]
        faces = [run["faces"] if stage in PER_FACE else 1 for run in runs]
        widths = np.array(medians) * faces
        colour = colormaps["tab20"](number / 20)
        axes.barh(range(len(runs)), widths, left=left, label=stage, height=0.55, color=colour)
        left += widths
    for mark, name in (("D", "median"), ("|", "p95")):
        ends = [(place, end) for place, run in enumerate(runs) if (end := _end_to_end(run, name))]
        label = f"restored in a paced call,\nend to end: {name}"
        places, values = [place for place, _ in ends], [end for _, end in ends]
        axes.plot(
            values, places, mark, color="black", markersize=5 if mark == "D" else 16, label=label
        )
    axes.axvline(1000 / FPS, color="black", linestyle=":", label=f"one frame at {FPS} fps")
    axes.set_yticks(range(len(runs)), [f"{run['scene']}\n{run['device']}" for run in runs])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds a frame, medians of the stages")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)


def _end_to_end(run: dict[str, Any], name: str) -> float | None:
    """Of the run's single paced call; None where there is none."""
    singles = [calls["each"] for calls in run["paced"] if calls["calls"] == 1 and calls["each"]]
    return singles[0][0]["restored_end_to_end_ms"][name] if singles else None


def plot_paper(axes: Any, paper: dict[str, Any]) -> None:
    """Both ways' medians stage by stage, on a logarithmic axis: they differ by up to thousands."""
    ours, theirs = paper["ours"]["stages_ms"], paper["paper"]["stages_ms"]
    names = [name for name in ours if ours[name]["median"] or theirs[name]["median"]]
    places = np.arange(len(names))
    for shift, way, label, colour in (
        (-0.2, ours, f"ours: {paper['ours']['fps']:.1f} frames a second", "tab:blue"),
        (0.2, theirs, f"the paper's way: {paper['paper']['fps']:.2f}", "tab:orange"),
    ):
        medians = [way[name]["median"] or math.nan for name in names]
        bars = axes.barh(places + shift, medians, height=0.38, label=label, color=colour)
        labels = [f"{value:.0f}" if value >= 100 else f"{value:.2g}" for value in medians]
        axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_title(
        f"{paper['scene']}: {paper['ratio']:.0f} times as many frames a second", fontsize=10
    )
    axes.set_xlabel("milliseconds a frame, medians, logarithmic (the paper's network is untrained)")
    axes.legend(loc="upper right", fontsize=8)


def sizes_of(text: str) -> list[tuple[int, int]]:
    """The argument --sizes. Raises InputError for a size that there is not."""
    for name in text.split(","):
        if name not in SIZES:
            raise InputError(
                f"{name!r} in --sizes is no size: give any of {', '.join(SIZES)}, "
                "with commas between them"
            )
    return [SIZES[name] for name in dict.fromkeys(text.split(","))]


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
