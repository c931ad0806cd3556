"""Compares the frames that two checkouts of this project make of the same streams, bit by bit.

    python -m bench golden --against DIR [--clip FILE]

After a change that only moves code, every line has to say "equal". Both checkouts run on this
machine, because ONNX Runtime's integer kernels differ between processors.
"""

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

from bench.command_line import bench_parser, require
from bench.common.framing import framed
from receiver.errors import InputError, ReceiverError
from receiver.media.encoding import Encoding
from receiver.sending.portrait import portrait_frames

FRAMES = 60
"""Frames of each stream."""
RATES = (100.0, 300.0)
"""Bitrates of the portrait's streams in kbit/s."""
CLIP_KBPS = 150.0
"""Bitrate of the clip's stream in kbit/s."""
CHECKOUT = Path(__file__).resolve().parent.parent
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
"""Writes the planes of a stream's enhanced frames. It uses public names alone, for any checkout."""


def write_stream(path: Path, frames: Iterable[av.VideoFrame], kbps: float) -> None:
    """Writes `FRAMES` frames at 30 fps as raw H.264, encoded as in a call."""
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
    """Yields a clip's frames, 640x480 around the face."""
    yield from framed(path, seconds=FRAMES / 25)[0]


def enhanced(checkout: Path, stream: Path, folder: Path) -> NDArray[np.uint8]:
    """Returns a checkout's enhanced frames: planes, FRAMES x rows x columns."""
    target = folder / "planes.npy"
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", ENHANCE, str(stream), str(target)]
    subprocess.run(command, cwd=checkout, env=environment, check=True)
    planes: NDArray[np.uint8] = np.load(target)
    return planes


def compare(against: Path, clip: Path | None, folder: Path) -> bool:
    """Compares each stream and prints a line. Returns whether all frames are equal."""
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
        ours, theirs = (enhanced(one, stream, folder) for one in (CHECKOUT, against.resolve()))
        same = ours.shape == theirs.shape
        differing = int(np.count_nonzero(ours != theirs)) if same else -1
        all_equal &= differing == 0
        verdict = "equal" if differing == 0 else f"{differing} samples of {ours.size} differ"
        print(f"{stream.stem} kb/s, {len(ours)} frames: {verdict}", flush=True)
    return all_equal


def main(arguments: list[str]) -> None:
    """Runs the command line. Raises ReceiverError if a frame differs, InputError for bad input."""
    parser = bench_parser("golden", __doc__)
    parser.add_argument(
        "--against", type=Path, required=True, metavar="DIR", help="the other checkout"
    )
    parser.add_argument("--clip", type=Path, metavar="FILE", help="a clip to compare as well")
    args = parser.parse_args(arguments)
    require("golden", "skimage")
    for path in (args.against / "receiver", args.clip):
        if path is not None and not path.exists():
            raise InputError(f"there is no {path}: give a checkout and a clip that exist")
    with tempfile.TemporaryDirectory() as folder:
        if not compare(args.against, args.clip, Path(folder)):
            raise ReceiverError("the frames of the two checkouts differ")
