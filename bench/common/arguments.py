"""Command-line arguments that several benches take."""

import argparse
import math

from bench.common.framing import VIEW
from bench.common.senders import MAX_KBPS, MIN_KBPS


def seconds_of(text: str) -> float:
    """Parses --seconds: at least 0.1, as less may have no frame; at most an hour."""
    return _number(text, "seconds", 3600.0, least=0.1)


def min_face_of(text: str) -> float:
    """Parses --min-face: pixels, at most the height of a camera's frames."""
    return _number(text, "pixels", VIEW[1])


def kbps_of(text: str) -> float:
    """Parses a bitrate in kbit/s: see `bench.common.senders`."""
    return _number(text, "kbit/s", MAX_KBPS, least=MIN_KBPS)


def capacity_of(text: str) -> int:
    """Parses --capacity: a whole number from 1 to 100."""
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 100:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} keyframes: give 1 to 100")


def _number(text: str, unit: str, most: float, least: float = 0.0) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 < value <= most and value >= least:
        return value
    lowest = f"at least {least:g}" if least else "more than 0"
    raise argparse.ArgumentTypeError(f"{text!r} {unit}: give {lowest} and at most {most:g}")
