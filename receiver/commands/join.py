"""`receiver join`: joins a call and shows it with restored faces."""

import argparse
import asyncio
import contextlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from receiver.calls.access import client_token
from receiver.calls.config import ServeConfig
from receiver.calls.join import Joined, join
from receiver.calls.server import Server, listening
from receiver.commands.options import (
    add_enhancing,
    add_stock_transport,
    add_tokens,
    new_enhancer,
    new_quality,
    number,
)
from receiver.commands.terminal import json_line, say
from receiver.commands.verdict import why_not_restored
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.album import Album, check_album_path, load_album, peer_of, save_album
from receiver.enhance.faces.generator import Generator
from receiver.enhance.faces.recognition import shared_recogniser
from receiver.errors import InputError
from receiver.media.files.recording import FileOutput
from receiver.media.files.writing import format_of
from receiver.media.outputs import VirtualCamera, Window, run_beside
from receiver.stats import Stats
from receiver.text import escaped


def add(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser = commands.add_parser(
        "join",
        help="join a call and show it with restored faces",
        description="Joins a call and shows it with restored faces: a WHEP endpoint "
        "(https://…/whep), or a room of Janus' VideoRoom (janus+http://HOST:8088/janus?room=1234). "
        "Reconnects if the connection is lost; Ctrl-C ends it. Outputs can be combined; without "
        "any, a window opens.",
    )
    parser.add_argument("url", metavar="URL", help="https://…, or janus+http://…?room=N")
    add_tokens(parser, "Bearer token for WHEP, or PIN of the Janus room")
    parser.add_argument("--window", action="store_true", help="show the call; q ends it")
    parser.add_argument("--record", type=Path, metavar="FILE", help="record the call: .mp4 or .mkv")
    parser.add_argument(
        "--virtual-camera", action="store_true", help="appear as a camera to other programs"
    )
    parser.add_argument(
        "--serve",
        type=number(int, 1, 65535),
        metavar="PORT",
        help="republish the call at http://127.0.0.1:PORT/whep/live",
    )
    parser.add_argument(
        "--keyframes",
        type=Path,
        metavar="FILE",
        help="keep the references (pictures of the faces in the call) for the next call",
    )
    parser.add_argument(
        "--any-peer",
        action="store_true",
        help="also use references in FILE from calls at other addresses",
    )
    add_stock_transport(parser)
    add_enhancing(parser, run)


def run(args: argparse.Namespace) -> int:
    """Stays in the call until Ctrl-C or until the window is closed, and prints the outcome."""
    _check_outputs(args)
    token = client_token(args.token, args.token_file, say)
    generator = Generator(args.model, args.device)
    quality = new_quality(args, generator)
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
            joined = asyncio.run(call) if window is None else run_beside(window, call)
    finally:  # even after an error: the next call can use the references of this one
        seen = any(len(person.keyframes) for person in enhancer.people)
        if args.keyframes is not None and (seen or args.keyframes.is_file()):
            save_album(enhancer.people, album.others, args.keyframes, peer)
    stats = joined.room.stats
    if args.json:
        call_figures = {"sessions": joined.sessions, "first_restored_s": joined.first_restored_s}
        print(json_line(stats.snapshot() | call_figures | {"quality": quality.snapshot()}))
    else:
        print(_outcome(stats))
        if args.record is not None:
            shown = stats.frames.enhanced + stats.frames.passed
            print(f"Recorded in {escaped(args.record)}." if shown else "Nothing was recorded.")
    return 0


def _check_outputs(args: argparse.Namespace) -> None:
    """Selects the window if no output was given. Raises InputError for an impossible output."""
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


def _outcome(stats: Stats) -> str:
    """Returns how many frames were restored, and why if these are too few."""
    frames = stats.frames
    reason = why_not_restored(
        frames.received, frames.enhanced, stats.high_quality_inputs, frames.skipped, frames.failed
    )
    why = f": {reason.clause}" if reason is not None else ""
    return f"{frames.received} frames received, {frames.enhanced} restored{why}"


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
) -> Joined:
    """Runs the call itself; returns it when it has ended.

    Args:
        outputs: gets the callbacks that close the file and the virtual camera.
    """
    shows: list[Callable[[av.VideoFrame], Any]] = []
    file = None
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
        # The user may close it, or press Ctrl-C, while no frame arrives.
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
    return joined


async def _stop_when_closed(window: Window, joined: Joined) -> None:
    while not window.closed:
        await asyncio.sleep(0.1)
    joined.stop()
