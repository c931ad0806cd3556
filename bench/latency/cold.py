"""What fresh processes take until they restore a frame."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiortc.jitterbuffer import JitterFrame
from rich.progress import track as progress

from receiver.enhance.faces.generator import Device
from receiver.errors import InputError

COLD_RUNS = 3


IMPORT = "import time; began = time.perf_counter(); from receiver import EnhancedVideoTrack; " + (
    "print(time.perf_counter() - began)"
)


FIRST_FRAME = """
import sys
import av
from receiver import Enhancer, Generator
from receiver.media.frame import DecodedFrame
clip, model, device = sys.argv[1:]
enhancer = Enhancer(Generator(model, device))
for video in av.open(clip).decode(video=0):
    if enhancer.enhance(DecodedFrame.from_video(video)) is not video:
        print(open("/proc/self/status").read())
        break
"""
"""A program that ends with its first restored frame and tells the kernel's figures of itself."""


def cold_start(packets: list[JitterFrame], model: str, device: Device) -> dict[str, Any]:
    """What fresh processes take until they restore: medians of `COLD_RUNS`.

    Cold is the process; the files that it reads lie in the operating system's cache.
    """
    imports, starts, peaks = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.h264"
        clip.write_bytes(b"".join(packet.data for packet in packets))
        for _ in progress(range(COLD_RUNS), "fresh processes"):
            imports.append(float(_told_by(IMPORT)))
            began = time.perf_counter()
            told = _told_by(FIRST_FRAME, str(clip), model, device)
            starts.append(time.perf_counter() - began)
            if not told:
                raise InputError("no frame of the clip was restored: give one that shows a face")
            # The kernel's own figure: a child's getrusage() may hold its parent's peak.
            (peak,) = (line.split()[1] for line in told.splitlines() if line.startswith("VmHWM"))
            peaks.append(int(peak) * 1024 / 1e6)
    return {
        "device": device,
        "import_s": statistics.median(imports),
        "first_restored_s": statistics.median(starts),
        "peak_rss_mb": statistics.median(peaks),
        "runs": COLD_RUNS,
    }


def _told_by(program: str, *arguments: str) -> str:
    """What a fresh Python process prints. Raises InputError if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"a fresh process of the receiver failed ({reason}): run receiver doctor")
    return done.stdout
