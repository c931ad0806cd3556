"""`receiver serve`: a page and endpoints at which others publish and watch."""

import argparse
import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from receiver.calls.access import server_tokens
from receiver.calls.server import ServeConfig, Server, serve
from receiver.commands.options import (
    add_enhancing,
    add_stock_transport,
    add_tokens,
    new_enhancer,
    number,
)
from receiver.commands.terminal import json_line, say
from receiver.enhance.capacity import calls_carried, cores_here, in_words, measure
from receiver.enhance.faces.generator import Generator
from receiver.enhance.quality import Quality


def add(commands: Any) -> None:
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
    add_tokens(
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
    add_stock_transport(server)
    add_enhancing(server, run)


def _calls(text: str) -> Any:
    """A number of calls, or `auto`."""
    return text if text == "auto" else number(int, 1, 64)(text)


def run(args: argparse.Namespace) -> int:
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
