"""`receiver send`: publishes a clip or a camera."""

import argparse
import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

from receiver.calls.access import client_token
from receiver.commands.options import add_json, add_tokens, number
from receiver.commands.terminal import json_line, say
from receiver.errors import InputError
from receiver.sending.publishing import send
from receiver.sending.sources import camera_source, clip_source


def add(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    sender = commands.add_parser(
        "send",
        help="publish a clip or your camera, and answer requests for stills",
        usage="receiver send [options] CLIP URL\n       receiver send [options] --camera N URL",
        description="Sends a clip (in a loop, with its sound) or a camera to a WHIP endpoint, such "
        "as /whip/NAME of receiver serve: H.264 by x264 in real-time settings, with I-frames only "
        "on request. If the receiver requests stills (docs/stills.md), it gets the newest frame "
        "in full detail. Ctrl-C ends it.",
    )
    sender.add_argument(
        "places",
        nargs="+",
        metavar="CLIP URL",
        help="video to send, and its destination: https://…/whip/NAME",
    )
    sender.add_argument(
        "--camera", type=number(int, 0, 99), metavar="N", help="camera to send instead of a clip"
    )
    sender.add_argument(
        "--kbps",
        type=number(float, 20, 5000),
        default=150.0,
        metavar="KBPS",
        help="bitrate of the video in kbit/s, 20 to 5000 (default 150)",
    )
    add_tokens(sender, "Bearer token of the endpoint")
    sender.add_argument(
        "--no-stills",
        action="store_true",
        help="open no data channel, for endpoints that refuse them",
    )
    add_json(sender, run)


def run(args: argparse.Namespace) -> int:
    """Sends until Ctrl-C, and prints what was sent."""
    *clips, url = args.places
    if len(clips) != (args.camera is None):
        raise InputError(
            f"got {len(args.places)} argument{'s' * (len(args.places) > 1)}: "
            "give CLIP URL, or --camera N and only a URL"
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
