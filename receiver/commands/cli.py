"""The command `receiver`."""

# Before PyAV: both bring an X client library, and OpenCV's windows hang if PyAV's came first.
import cv2  # noqa: F401

# isort: split
import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import av
from rich.table import Table
from rich.text import Text

from receiver.calls.access import TOKEN_VARIABLE, client_token, server_tokens
from receiver.calls.join import Joined, join
from receiver.calls.server import ServeConfig, Server, listening, serve
from receiver.commands import enhance, terminal
from receiver.commands.demo import DemoResult, run_demo
from receiver.commands.doctor import examine
from receiver.commands.options import (
    Parser,
    add_common,
    add_enhancing,
    add_json,
    new_enhancer,
    number,
)
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console, json_line, say
from receiver.commands.verdict import why_not_restored
from receiver.enhance.capacity import calls_carried, cores_here, in_words, measure
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.album import Album, check_album_path, load_album, peer_of, save_album
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.enhance.quality import Quality
from receiver.errors import InputError, ReceiverError
from receiver.media.encoding import Encoding
from receiver.media.files.writing import format_of
from receiver.media.outputs import FileOutput, VirtualCamera, Window
from receiver.sending.publishing import send
from receiver.sending.sources import Source, camera_source, clip_source, portrait_source
from receiver.text import escaped

Result = TypeVar("Result")


def main() -> None:
    """Runs the command line and exits; `receiver.__main__.main` handles Ctrl-C earlier."""
    terminal.run("receiver", lambda: lambda: run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs the command line; returns 0, or 1 if something is missing or one of many failed.

    Raises ReceiverError for bad input.
    """
    args = parse(arguments)
    # FFmpeg's own words would stand between ours. Any level but None hands them to Python, where a
    # decoder's thread that says something while the decoder is freed waits for ever.
    av.logging.set_level(None)
    code: int = args.run(args)
    return code


def parse(arguments: list[str]) -> argparse.Namespace:
    """The arguments as a namespace whose `run` does the job; exits with 2 on bad ones."""
    parser = Parser(
        prog="receiver",
        description="Receives video calls and shows the face that compression took from them.",
        epilog="receiver COMMAND --help tells what each takes.",
    )
    parser.add_argument("--version", action="version", version=version("keyframe-receiver"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    enhance.add(commands)
    _add_serve(commands)
    _add_join(commands)
    _add_send(commands)
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
    where.add_argument("--camera", type=number(int, 0, 99), metavar="N", help="camera to send")
    demo.add_argument(
        "--bitrate",
        type=number(float, 20, 2000),
        default=100.0,
        metavar="KBPS",
        help="kbit/s of the sender's x264, 20 to 2000 (default 100)",
    )
    demo.add_argument(
        "--seconds",
        type=number(float, 1, 86400),
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
    add_enhancing(demo, _demo)


def _add_serve(commands: Any) -> None:
    server = commands.add_parser(
        "serve",
        help="a page to see yourself restored, WHIP in and WHEP out",
        description="Serves a page that sends your camera and shows it restored; publishers of any "
        "kind (OBS too) send to /whip/NAME, players watch /whep/NAME. Figures are at /stats and "
        "/metrics. Browsers give the camera to https pages or to localhost alone.",
    )
    server.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    server.add_argument(
        "--port", type=number(int, 0, 65535), default=8080, help="port (default 8080)"
    )
    _add_tokens(
        server,
        "Bearer token, any number of times, or ROLES[@ROOM]:SECRET to allow less: roles are "
        "publish, watch and stats with commas between, or all; needed for any but a loopback "
        "address, with 16 characters or more",
        many=True,
    )
    server.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate for https")
    server.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    server.add_argument("--cors", action="store_true", help="let pages of other origins use it")
    server.add_argument(
        "--calls",
        type=_calls,
        default="auto",
        metavar="N|auto",
        help="publishers at once, 1 to 64; auto is as many as this machine is measured to carry "
        "at the start (default auto)",
    )
    _add_stock_transport(server)
    add_enhancing(server, _serve)


def _add_join(commands: Any) -> None:
    join = commands.add_parser(
        "join",
        help="join a call as its enhanced receiver",
        description="Joins a call and shows it restored: a WHEP endpoint (https://…/whep), or a "
        "room of Janus' VideoRoom (janus+http://HOST:8088/janus?room=1234). Stays in the call when "
        "the connection breaks off; Ctrl-C ends it. Takes any number of outputs; without one it "
        "opens a window.",
    )
    join.add_argument("url", metavar="URL", help="https://…, or janus+http://…?room=N")
    _add_tokens(join, "WHEP's Bearer token, or the Janus room's PIN")
    join.add_argument("--window", action="store_true", help="show it; q ends the call")
    join.add_argument("--record", type=Path, metavar="FILE", help="write it: .mp4 or .mkv")
    join.add_argument("--virtual-camera", action="store_true", help="be a camera to other programs")
    join.add_argument(
        "--serve",
        type=number(int, 1, 65535),
        metavar="PORT",
        help="republish at http://127.0.0.1:PORT/whep/live",
    )
    join.add_argument(
        "--keyframes",
        type=Path,
        metavar="FILE",
        help="keep the references of those seen here, pictures of their faces, for the next call",
    )
    join.add_argument(
        "--any-peer",
        action="store_true",
        help="use references in FILE from calls at other addresses too",
    )
    _add_stock_transport(join)
    add_enhancing(join, _join)


def _add_send(commands: Any) -> None:
    sender = commands.add_parser(
        "send",
        help="publish a clip or your camera, and answer requests for stills",
        usage="receiver send [options] CLIP URL\n       receiver send [options] --camera N URL",
        description="Sends a clip (repeated, with its sound) or a camera to a WHIP endpoint, such "
        "as /whip/NAME of receiver serve: H.264 by x264 in real-time settings, key frames only "
        "when the receiver asks. A receiver that asks for stills (docs/stills.md) gets the newest "
        "frame in full detail. Ctrl-C ends it.",
    )
    sender.add_argument(
        "places",
        nargs="+",
        metavar="CLIP URL",
        help="video to send, and where: https://…/whip/NAME",
    )
    sender.add_argument(
        "--camera", type=number(int, 0, 99), metavar="N", help="camera to send instead of a clip"
    )
    sender.add_argument(
        "--kbps",
        type=number(float, 20, 5000),
        default=150.0,
        metavar="KBPS",
        help="kbit/s of the video, 20 to 5000 (default 150)",
    )
    _add_tokens(sender, "the endpoint's Bearer token")
    sender.add_argument(
        "--no-stills", action="store_true", help="for endpoints that refuse data channels"
    )
    add_json(sender, _send)


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="see whether everything is there",
        description="Looks at the device, the models, the landmark file and the codecs; says why "
        "CUDA and TensorRT can or cannot be used. Exits with 1 if something that was asked for is "
        "missing.",
    )
    add_common(doctor, _doctor)


def _add_tokens(parser: Any, about: str, *, many: bool = False) -> None:
    """`--token` and `--token-file`, which exclude each other where one token is needed."""
    options = parser if many else parser.add_mutually_exclusive_group()
    options.add_argument(
        "--token",
        action="append" if many else "store",
        default=[] if many else None,
        metavar="TOKEN",
        help=f"{about}; other users of this computer see it in the list of processes",
    )
    options.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"file that holds {'tokens, one a line' if many else 'the token'}; without either, "
        f"the environment variable {TOKEN_VARIABLE} is used",
    )


def _add_stock_transport(parser: Any) -> None:
    parser.add_argument(
        "--stock-transport",
        action="store_true",
        help="receive by aiortc's own jitter buffer, NACKs and REMB, to compare with",
    )


def _quality(args: argparse.Namespace, generator: Generator) -> Quality:
    """The generator at the quality that was asked for."""
    measured = measure(generator) if args.quality == "auto" else None
    return Quality(generator, args.quality, measured)


def _calls(text: str) -> Any:
    """A number of calls, or `auto`."""
    return text if text == "auto" else number(int, 1, 64)(text)


def _demo(args: argparse.Namespace) -> int:
    generator = Generator(args.model, args.device)
    source = _source(args)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReceiverError(f"{args.output} cannot be a folder: {error.strerror}") from error
    quality = _quality(args, generator)
    enhancer = quality.watch(new_enhancer(args, generator))
    window = Window("receiver demo: q ends it") if Window.possible() and not args.json else None
    with progress_bar(quiet=args.json) as bar:
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
        watched = quality.beside(call)
        result = asyncio.run(watched) if window is None else _run_beside(window, watched)
    _print_demo(args, result, quality)
    return 0


def _run_beside(window: Window, call: Coroutine[Any, Any, Result]) -> Result:
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


def _print_demo(args: argparse.Namespace, result: DemoResult, quality: Quality) -> None:
    if args.json:
        print(json_line(asdict(result) | {"quality": quality.snapshot()}))
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
        "references": f"{result.keyframes} held, {result.stills} stills at "
        f"{result.stills_kbps:.0f} kbit/s",
        "model": f"{result.model} on {result.device}, {quality.level.name} quality",
    }
    for name, times in result.stages_ms.items():
        if name != "added latency":
            rows[f"  {name}"] = f"{times['median']:.2f} ms median, {times['p95']:.2f} ms p95"
    _print_rows("demo", rows)
    print(
        _verdict(frames["enhanced"], result.skipped, result.high_quality_inputs, frames["received"])
    )
    print(f"See {escaped(args.output / 'demo.png')} and demo.mp4 beside it.")


ADVICE = {
    "high quality": ": give a lower --bitrate",
    "no face": " in it: try another clip or the camera",
}
"""What helps a demo that restored too little, by the kind of reason."""


def _verdict(enhanced: int, skipped: int, high_quality_inputs: int, received: int) -> str:
    """What the demo's counts mean."""
    reason = why_not_restored(received, enhanced, high_quality_inputs, skipped)
    if reason is not None:
        return f"The call worked, but {reason.clause}{ADVICE.get(reason.kind, '')}."
    return f"It works: {enhanced} of {received} frames came through a real call and were restored."


def _serve(args: argparse.Namespace) -> int:
    config = ServeConfig(
        host=args.host,
        port=args.port,
        tokens=server_tokens(args.token, args.token_file, say),
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        cors=args.cors,
        stock_transport=args.stock_transport,
    )
    generator = Generator(args.model, args.device)
    # By the cheaper generator where there are two: more calls go before better ones.
    measured = measure(generator) if args.quality == "auto" else None
    quality = Quality(generator, args.quality, measured)
    measured = measured or measure(generator)
    generator.batch = measured.batch
    carried = calls_carried(measured, cores_here())
    is_measured = args.calls == "auto"
    calls = carried if is_measured else args.calls

    def ready(url: str) -> None:
        if args.json:
            said = {"url": url, "device": generator.device, "calls": calls, "carries": carried}
            print(json_line(said | {"quality": quality.level.name}), flush=True)
        else:
            print(f"Open {url} ({generator.model.name} on {generator.device}; Ctrl-C ends it)")
            print(f"This machine carries {in_words(measured, cores_here())}.", flush=True)

    server = Server(
        replace(config, rooms=calls, is_measured=is_measured),
        lambda: quality.watch(new_enhancer(args, generator)),
        quality,
    )
    asyncio.run(quality.beside(serve(server, ready)))
    return 0


def _join(args: argparse.Namespace) -> int:
    if not (args.window or args.record or args.virtual_camera or args.serve):
        if not Window.possible():
            raise InputError(
                "there is no display for a window: give --record, --serve or --virtual-camera"
            )
        args.window = True
    if args.window and not Window.possible():
        raise InputError("there is no display for --window: leave it out")
    if args.record is not None:
        format_of(args.record)
    token = client_token(args.token, args.token_file, say)
    generator = Generator(args.model, args.device)
    quality = _quality(args, generator)
    enhancer = quality.watch(new_enhancer(args, generator))
    peer, album = peer_of(args.url), Album([], [])
    if args.keyframes is not None:
        check_album_path(args.keyframes)
        album = load_album(
            enhancer.people, args.keyframes, shared_recogniser(), peer, any_peer=args.any_peer
        )
        _say_unused(args.keyframes, album)
    enhancer.warm_up()
    window = Window("receiver join: q ends it") if args.window else None
    try:
        with contextlib.ExitStack() as outputs:
            call = quality.beside(_joining(args, token, enhancer, window, outputs))
            stats = asyncio.run(call) if window is None else _run_beside(window, call)
    finally:  # however the call ends: those seen in it are known in the next one
        seen = any(len(person.keyframes) for person in enhancer.people)
        if args.keyframes is not None and (seen or args.keyframes.is_file()):
            save_album(enhancer.people, album.others, args.keyframes, peer)
    if args.json:
        print(json_line(stats | {"quality": quality.snapshot()}))
    else:
        print(_outcome(stats))
        if args.record is not None:
            shown = stats["frames"]["enhanced"] + stats["frames"]["passed"]
            print(f"Recorded in {escaped(args.record)}." if shown else "Nothing was recorded.")
    return 0


def _outcome(stats: dict[str, Any]) -> str:
    """What became of a call's frames, and why if too few were restored."""
    counts = stats["frames"]
    received, enhanced = counts["received"], counts["enhanced"]
    reason = why_not_restored(
        received, enhanced, stats["well_received"], counts["skipped"], counts["failed"]
    )
    why = f": {reason.clause}" if reason is not None else ""
    return f"{received} frames received, {enhanced} restored{why}"


def _say_unused(path: Path, album: Album) -> None:
    if album.others:
        say(
            f"references in {path} from calls at other addresses are not used: --any-peer uses them"
        )


async def _joining(
    args: argparse.Namespace,
    token: str | None,
    enhancer: Enhancer,
    window: Window | None,
    outputs: contextlib.ExitStack,
) -> dict[str, Any]:
    """The call itself; returns its figures. What it writes to is closed with `outputs`."""
    shows: list[Callable[[av.VideoFrame], Any]] = []
    file = camera = None
    if args.record is not None:
        file = FileOutput(args.record, Fraction(30), has_sound=True, say=say)
        outputs.callback(file.close)
    if args.virtual_camera:
        camera = VirtualCamera()
        outputs.callback(camera.close)
        shows.append(camera.put)

    joined = Joined(
        args.url,
        token,
        enhancer,
        say=say,
        shows=shows,
        file=file,
        stock_transport=args.stock_transport,
    )
    watching = None
    if window is not None:
        joined.room.outputs.append(window.put)
        # The person may close it, or press Ctrl-C, while no frame comes.
        watching = asyncio.ensure_future(_stop_when_closed(window, joined))
    if args.serve is None:
        await join(joined)
    else:
        config = ServeConfig(port=args.serve)
        server = Server(config, lambda: enhancer)
        server.rooms[joined.room.name] = joined.room
        async with listening(server):
            say(f"republished at {config.url}whep/{joined.room.name}")
            await join(joined)
    if watching is not None:
        watching.cancel()
    return joined.room.stats.snapshot() | {
        "sessions": joined.sessions,
        "first_restored_s": joined.first_restored_s,
    }


async def _stop_when_closed(window: Window, joined: Joined) -> None:
    while not window.closed:
        await asyncio.sleep(0.1)
    joined.stop()


def _send(args: argparse.Namespace) -> int:
    *clips, url = args.places
    if len(clips) != (args.camera is None):
        raise InputError(
            f"{len(args.places)} places were given: give CLIP URL, or --camera N and a URL alone"
        )
    token = client_token(args.token, args.token_file, say)
    source = clip_source(Path(clips[0])) if clips else camera_source(args.camera, "a clip")
    result = asyncio.run(send(source, args.kbps, url, token, say, stills=not args.no_stills))
    if args.json:
        print(json_line(asdict(result)))
    else:
        print(
            f"{result.frames} frames sent in {result.seconds:.1f} s at {result.kbps:.0f} kbit/s, "
            f"and {result.stills} stills"
        )
    return 0


def _doctor(args: argparse.Namespace) -> int:
    findings = examine(args.model, args.device)
    fine = all(finding.fine or not finding.needed for finding in findings)
    if args.json:
        print(json_line({"fine": fine, "findings": [asdict(finding) for finding in findings]}))
        return 0 if fine else 1
    table = Table(title="receiver doctor", show_header=False)
    for finding in findings:
        style = "green" if finding.fine else "red" if finding.needed else "yellow"
        table.add_row(Text("yes" if finding.fine else "no", style), finding.name, finding.says)
    console().print(table)
    print("Everything that was asked for is there." if fine else "Something is missing: see above.")
    return 0 if fine else 1


def _print_rows(title: str, rows: dict[str, str]) -> None:
    table = Table(title=title, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    console().print(table)
