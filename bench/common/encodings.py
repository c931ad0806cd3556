"""Encodings by name."""

import re

from models.openh264 import OpenH264
from receiver.errors import InputError
from receiver.media.encoding import Encoding

KEYFRAME_EVERY = 60
"""Frames from one I-frame of x264 to the next, as cameras send it. OpenH264 sends only one."""
MAX_CRF = 51.0


def encoding_of(name: str) -> Encoding | OpenH264:
    """Returns the encoding for `crf42` (a CRF), `x264-150` or `openh264-100` (kbit/s).

    Raises InputError for another name.
    """
    found = re.fullmatch(r"(crf|x264-|openh264-)(\d+(?:\.\d+)?)", name)
    kind, value = (found[1], float(found[2])) if found else ("", 0.0)
    if kind == "crf" and value <= MAX_CRF:
        return Encoding(crf=value, keyframe_every=KEYFRAME_EVERY)
    if kind == "x264-" and value > 0:
        return Encoding(kbps=value, keyframe_every=KEYFRAME_EVERY)
    if kind == "openh264-" and value > 0:
        return OpenH264(value)
    raise InputError(
        f"{name!r} is not an encoding: give crf42 (0 to 51), x264-150 or openh264-100 (kbit/s)"
    )
