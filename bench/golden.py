"""Compares the frames that two checkouts of this project make of the same streams, bit by bit.

    python -m bench golden --against DIR [--clip FILE]

A change that is meant to move code and no pixel has to print "equal" in every line. The frames are
compared on one machine: ONNX Runtime's integer kernels differ from processor to processor.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from bench.common.framing import framed
from receiver.errors import InputError, ReceiverError
from receiver.media.encoding import Encoding
from receiver.sending.portrait import portrait_frames

FRAMES = 60
RATES = (100.0, 300.0)
"""kbit/s of the two streams of the portrait."""
CLIP_KBPS = 150.0
HERE = Path(__file__).resolve().parent.parent
ENHANCE = """
import sys
import av, numpy as np
from receiver import DecodedFrame, Enhancer, Generator
enhancer, planes = Enhancer(Generator(device="cpu")), []
with av.open(sys.argv[1]) as container:
    codec = container.streams.video[0].codec_context
    codec.thread_type, codec.options = "SLICE", {"export_side_data": "venc_params"}
    for video in container.decode(video=0):
        frame = enhancer.enhance(DecodedFrame.from_video(video))
        planes.append(frame.to_ndarray())
np.save(sys.argv[2], np.stack(planes))
"""
"""Runs in either checkout: it uses nothing but the public names."""


def write_stream(path: Path, frames: Iterable[av.VideoFrame], kbps: float) -> None:
    """Encodes `FRAMES` frames at 30 fps as a call would carry them, as raw H.264."""
    encoder: av.VideoCodecContext | None = None
    with path.open("wb") as file:
        for index, frame in enumerate(islice(frames, FRAMES)):
            if encoder is None:
                encoder = Encoding(kbps).open(frame.width, frame.height, Fraction(30))
            frame.pts, frame.time_base = index * 3000, encoder.time_base
            frame.pict_type = av.video.frame.PictureType.NONE
            for packet in encoder.encode(frame):
                file.write(bytes(packet))


def clip_frames(path: Path) -> Iterator[av.VideoFrame]:
    """Yields a clip's frames as the other benches frame them, 640x480."""
    yield from framed(path, seconds=FRAMES / 25)[0]


def enhanced(checkout: Path, stream: Path, folder: Path) -> NDArray[np.uint8]:
    """Returns the planes of the enhanced frames, FRAMES x rows x columns, made by a checkout."""
    target = folder / "planes.npy"
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", ENHANCE, str(stream), str(target)]
    subprocess.run(command, cwd=checkout, env=environment, check=True)
    planes: NDArray[np.uint8] = np.load(target)
    return planes


def compare(against: Path, clip: Path | None, folder: Path) -> bool:
    """Prints a line a stream; returns whether all frames are equal."""
    streams = []
    for kbps in RATES:
        path = folder / f"portrait {kbps:g}.h264"
        write_stream(path, portrait_frames(), kbps)
        streams.append(path)
    if clip is not None:
        path = folder / f"{clip.stem} {CLIP_KBPS:g}.h264"
        write_stream(path, clip_frames(clip), CLIP_KBPS)
        streams.append(path)
    all_equal = True
    for stream in streams:
        ours, theirs = (enhanced(one, stream, folder) for one in (HERE, against.resolve()))
        same = ours.shape == theirs.shape
        differing = int(np.count_nonzero(ours != theirs)) if same else -1
        all_equal &= differing == 0
        verdict = "equal" if differing == 0 else f"{differing} samples of {ours.size} differ"
        print(f"{stream.stem} kb/s, {len(ours)} frames: {verdict}", flush=True)
    return all_equal


def main(arguments: list[str]) -> None:
    """Exits with 1 if a frame differs."""
    parser = argparse.ArgumentParser(prog="python -m bench golden", description=__doc__)
    parser.add_argument("--against", type=Path, required=True, metavar="DIR", help="checkout")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="a clip to compare as well")
    args = parser.parse_args(arguments)
    for path in (args.against / "receiver", args.clip):
        if path is not None and not path.exists():
            raise InputError(f"there is no {path}: give a checkout and a clip that exist")
    with tempfile.TemporaryDirectory() as folder:
        if not compare(args.against, args.clip, Path(folder)):
            raise ReceiverError("the frames of the two checkouts differ")
