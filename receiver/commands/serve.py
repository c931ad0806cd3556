"""`receiver serve`: a web page and endpoints for publishers and viewers."""

import argparse
import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from receiver.calls.access import server_tokens
from receiver.calls.config import ServeConfig
from receiver.calls.server import Server, serve
from receiver.commands.options import (
    add_enhancing,
    add_stock_transport,
    add_tokens,
    new_enhancer,
    number,
)
from receiver.commands.terminal import json_line, say
from receiver.cores import usable_cores
from receiver.enhance.capacity import calls_carried, in_words, measure
from receiver.enhance.faces.generator import Generator
from receiver.enhance.quality import Quality


def add(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    server = commands.add_parser(
        "serve",
        help="serve a page that shows your restored video, with WHIP in and WHEP out",
        description="Serves a page that sends your camera and shows it with restored faces. "
        "Any WHIP publisher (OBS too) can send to /whip/NAME, and players watch /whep/NAME. "
        "Figures are at /stats and /metrics. Browsers allow camera access only on https pages and "
        "on localhost.",
    )
    server.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    server.add_argument(
        "--port", type=number(int, 0, 65535), default=8080, help="port (default 8080)"
    )
    add_tokens(
        server,
        "Bearer token; can be repeated. ROLES[@ROOM]:SECRET limits what it allows: roles are "
        "publish, watch and stats, separated by commas, or all. Required for addresses other than "
        "loopback, with at least 16 characters",
        many=True,
    )
    server.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate for https")
    server.add_argument("--tls-key", type=Path, metavar="PEM", help="private key for https")
    server.add_argument("--cors", action="store_true", help="allow pages of other origins")
    server.add_argument(
        "--calls",
        type=_calls,
        default="auto",
        metavar="N|auto",
        help="publishers at the same time, 1 to 64; auto measures at the start how many this "
        "machine can carry (default auto)",
    )
    add_stock_transport(server)
    add_enhancing(server, run)


def run(args: argparse.Namespace) -> int:
    """Runs the command until Ctrl-C."""
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
    # With the cheaper generator if there are two: more calls matter more than better ones.
    measured = measure(generator) if args.quality == "auto" else None
    quality = Quality(generator, args.quality, measured)
    measured = measured or measure(generator)
    generator.batch = measured.batch
    carried = calls_carried(measured, usable_cores())
    is_measured = args.calls == "auto"
    calls = carried if is_measured else args.calls

    def ready(url: str) -> None:
        if args.json:
            said = {"url": url, "device": generator.device, "calls": calls, "carries": carried}
            print(json_line(said | {"quality": quality.level.name}), flush=True)
        else:
            print(f"Open {url} ({generator.model.name} on {generator.device}; Ctrl-C ends it)")
            print(f"This machine carries {in_words(measured, usable_cores())}.", flush=True)

    server = Server(
        replace(config, rooms=calls, is_measured=is_measured),
        lambda: quality.watch(new_enhancer(args, generator)),
        quality,
    )
    asyncio.run(quality.beside(serve(server, ready)))
    return 0


def _calls(text: str) -> Any:
    """Parses a number of calls, or `auto`."""
    return text if text == "auto" else number(int, 1, 64)(text)
