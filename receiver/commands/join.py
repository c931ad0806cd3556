"""`receiver join`: joins a call as its enhanced receiver."""

import argparse
import asyncio
import contextlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from receiver.calls.access import client_token
from receiver.calls.join import Joined, join
from receiver.calls.server import ServeConfig, Server, listening
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
from receiver.text import escaped


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "join",
        help="join a call as its enhanced receiver",
        description="Joins a call and shows it restored: a WHEP endpoint (https://…/whep), or a "
        "room of Janus' VideoRoom (janus+http://HOST:8088/janus?room=1234). Stays in the call when "
        "the connection breaks off; Ctrl-C ends it. Takes any number of outputs; without one it "
        "opens a window.",
    )
    parser.add_argument("url", metavar="URL", help="https://…, or janus+http://…?room=N")
    add_tokens(parser, "WHEP's Bearer token, or the Janus room's PIN")
    parser.add_argument("--window", action="store_true", help="show it; q ends the call")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write it: .mp4 or .mkv")
    parser.add_argument(
        "--virtual-camera", action="store_true", help="appear as a camera to other programs"
    )
    parser.add_argument(
        "--serve",
        type=number(int, 1, 65535),
        metavar="PORT",
        help="republish at http://127.0.0.1:PORT/whep/live",
    )
    parser.add_argument(
        "--keyframes",
        type=Path,
        metavar="FILE",
        help="keep the references of those seen here, pictures of their faces, for the next call",
    )
    parser.add_argument(
        "--any-peer",
        action="store_true",
        help="use references in FILE from calls at other addresses too",
    )
    add_stock_transport(parser)
    add_enhancing(parser, run)


def run(args: argparse.Namespace) -> int:
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
            stats = asyncio.run(call) if window is None else run_beside(window, call)
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
