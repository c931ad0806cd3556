"""The command `receiver`."""

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from receiver.demo import DemoResult, run_demo
from receiver.doctor import examine
from receiver.encoding import Encoding
from receiver.enhancer import Enhancer
from receiver.errors import ReceiverError
from receiver.files import enhance_file, frame_total
from receiver.generator import MODELS, Generator
from receiver.outputs import Window
from receiver.sender import Source, camera_source, clip_source, portrait_source

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it."""


def main() -> None:
    """Runs the command line and exits: 0 well, 1 something is missing, 2 bad input."""
    args = parse(sys.argv[1:])
    av.logging.set_level(av.logging.PANIC)  # FFmpeg's own words would stand between ours
    try:
        sys.exit(args.run(args))
    except ReceiverError as error:
        print(f"receiver: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("receiver: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The arguments as a namespace whose `run` does the job; exits with 2 on bad ones."""
    parser = argparse.ArgumentParser(
        prog="receiver",
        description="Receives video calls and shows the face that compression took from them.",
        epilog="receiver COMMAND --help tells what each takes.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_enhance(commands)
    _add_doctor(commands)
    return parser.parse_args(arguments)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="call yourself and see the difference",
        description="A real call on this machine: a sender encodes a clip as tightly as asked and "
        "sends it through ICE, DTLS and SRTP; the receiver restores the faces. Without a clip or "
        "a camera it plays a portrait of its own. Writes demo.mp4 (received | restored | "
        "original) and demo.png, prints the figures, and opens a window where there is a display.",
    )
    where = demo.add_mutually_exclusive_group()
    where.add_argument("--clip", type=Path, metavar="FILE", help="video to send, repeated")
    where.add_argument("--camera", type=_number(int, 0, 99), metavar="N", help="camera to send")
    demo.add_argument(
        "--bitrate",
        type=_number(float, 20, 2000),
        default=100.0,
        metavar="KBPS",
        help="kbit/s of the sender's x264, 20 to 2000 (default 100)",
    )
    demo.add_argument(
        "--seconds",
        type=_number(float, 1, 86400),
        default=10.0,
        metavar="S",
        help="length of the call, 1 to 86400 (default 10)",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="folder for demo.mp4 and demo.png (default demo-output)",
    )
    _add_common(demo, _demo)


def _add_enhance(commands: Any) -> None:
    enhance = commands.add_parser(
        "enhance",
        help="restore the faces of a video file",
        description="Writes IN to OUT with its faces restored, as a call would: the file's own key "
        "frames are the references. Frame count, timestamps, size and sound stay as they are.",
    )
    enhance.add_argument("input", type=Path, metavar="IN", help="any video file")
    enhance.add_argument("target", type=Path, metavar="OUT", help="file to write: .mp4 or .mkv")
    enhance.add_argument(
        "--strength",
        type=_number(float, 0, 1),
        default=1.0,
        metavar="0..1",
        help="how much of the restoration to use (default 1)",
    )
    enhance.add_argument(
        "--split", action="store_true", help="leave the left half of the picture as it was"
    )
    enhance.add_argument(
        "--crf",
        type=_number(float, 0, 51),
        default=12.0,
        metavar="CRF",
        help="x264's quality of OUT, 0 (lossless) to 51 (default 12)",
    )
    _add_common(enhance, _enhance)


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="see whether everything is there",
        description="Looks at the device, the models, the landmark file and the codecs; says why "
        "CUDA is or is not used. Exits with 1 if something that was asked for is missing.",
    )
    _add_common(doctor, _doctor)


def _add_common(parser: Any, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument(
        "--model",
        default="lite",
        metavar="NAME|PATH",
        help=f"generator: {', '.join(MODELS)} or an ONNX file (default lite)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cuda", "cpu"),
        default="auto",
        help="where it runs; auto takes CUDA if it is there (default auto)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object and no table")
    parser.set_defaults(run=run)


def _number(kind: type, low: float, high: float) -> Callable[[str], Any]:
    """A parser for numbers within a range, which says the range."""

    def parse_number(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
        return value

    return parse_number


def _demo(args: argparse.Namespace) -> int:
    enhancer = Enhancer(Generator(args.model, args.device))
    source = _source(args)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReceiverError(f"{args.output} cannot be a folder: {error.strerror}") from error
    window = Window("receiver demo: q ends it") if Window.possible() and not args.json else None
    with _progress(args) as bar:
        task = bar.add_task("calling", total=args.seconds)
        call = run_demo(
            source,
            Encoding(kbps=args.bitrate),
            enhancer,
            args.seconds,
            args.output,
            lambda seconds: bar.update(task, completed=seconds),
            window.put if window else None,
        )
        result = asyncio.run(call) if window is None else _run_beside(window, call)
    _print_demo(args, result)
    return 0


def _run_beside(window: Window, call: Coroutine[Any, Any, DemoResult]) -> DemoResult:
    """Runs the call in a thread, so that the window has the main one."""
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(asyncio.run, call)
        window.run(result.done)
        return result.result()


def _source(args: argparse.Namespace) -> Source:
    if args.clip is not None:
        return clip_source(args.clip)
    if args.camera is not None:
        return camera_source(args.camera)
    return portrait_source()


def _print_demo(args: argparse.Namespace, result: DemoResult) -> None:
    if args.json:
        print(json.dumps(_without_nan(asdict(result))))
        return
    psnr, frames = result.face_psnr_db, result.frames
    rows = {
        "frames a second": f"{result.fps:.2f}",
        "added latency": f"{result.added_latency_ms['median']:.1f} ms median, "
        f"{result.added_latency_ms['p95']:.1f} ms p95",
        "frames": ", ".join(f"{count} {name}" for name, count in frames.items())
        + f", {result.written} written",
        "bitrate": f"{result.kbps:.0f} kbit/s",
        "face PSNR": f"{psnr['received']:.2f} dB received, {psnr['restored']:.2f} dB restored",
        "keyframes held": f"{result.keyframes}",
        "model": f"{result.model} on {result.device}",
    }
    for name, times in result.stages_ms.items():
        if name != "added latency":
            rows[f"  {name}"] = f"{times['median']:.2f} ms median, {times['p95']:.2f} ms p95"
    _print_rows("demo", rows)
    print(_verdict(frames["enhanced"], result.skipped, frames["received"]))
    print(f"See {args.output / 'demo.png'} and demo.mp4 beside it.")


def _verdict(enhanced: int, skipped: int, received: int) -> str:
    """What the demo's counts mean."""
    if skipped > enhanced:
        return (
            f"The call worked, but this machine was too busy: {skipped} of {received} frames went "
            "out untouched, because restoring them would have delayed them."
        )
    if not enhanced:
        return "The call worked, but no face was found in it: try another clip or the camera."
    return f"It works: {enhanced} of {received} frames came through a real call and were restored."


def _enhance(args: argparse.Namespace) -> int:
    total = frame_total(args.input)
    enhancer = Enhancer(Generator(args.model, args.device), strength=args.strength)
    with _progress(args) as bar:
        task = bar.add_task("enhancing", total=total)
        result = enhance_file(
            args.input,
            args.target,
            enhancer,
            split=args.split,
            crf=args.crf,
            progress=lambda frames: bar.update(task, completed=frames),
        )
    if args.json:
        print(json.dumps(asdict(result) | {"output": str(args.target)}))
    else:
        frames = result.frames
        print(
            f"{args.target}: {frames['received']} frames, {frames['enhanced']} enhanced, "
            f"{frames['passed']} without a face, by {result.model} on {result.device}"
        )
    return 0


def _doctor(args: argparse.Namespace) -> int:
    findings = examine(args.model, args.device)
    fine = all(finding.fine or not finding.needed for finding in findings)
    if args.json:
        print(json.dumps({"fine": fine, "findings": [asdict(finding) for finding in findings]}))
        return 0 if fine else 1
    table = Table(title="receiver doctor", show_header=False)
    for finding in findings:
        mark = "[green]yes" if finding.fine else "[red]no" if finding.needed else "[yellow]no"
        table.add_row(mark, finding.name, finding.says)
    Console().print(table)
    print("Everything that was asked for is there." if fine else "Something is missing: see above.")
    return 0 if fine else 1


def _progress(args: argparse.Namespace) -> Progress:
    """A progress bar on standard error, so that standard output stays clean."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=args.json)


def _print_rows(title: str, rows: dict[str, str]) -> None:
    table = Table(title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def _without_nan(value: Any) -> Any:
    """NaN, which JSON does not know, as null."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
