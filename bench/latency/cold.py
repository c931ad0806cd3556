"""Fresh processes: their time to the first restored frame, and their memory."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiortc.jitterbuffer import JitterFrame
from rich.progress import track as progress

from receiver.errors import InputError
from receiver.inference.devices import Device

IMPORT = "import time; began = time.perf_counter(); from receiver import EnhancedVideoTrack; " + (
    "print(time.perf_counter() - began)"
)
"""A program that prints the seconds of its import."""
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
"""A program that ends at its first restored frame and prints the kernel's figures of itself."""


def cold_start(packets: list[JitterFrame], model: str, device: Device, runs: int) -> dict[str, Any]:
    """Returns medians of `runs` fresh processes: import, first restored frame, peak memory.

    Only the processes are cold: their files are in the operating system's cache.
    Raises InputError if no frame was restored.
    """
    imports, starts, peaks = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.h264"
        clip.write_bytes(b"".join(packet.data for packet in packets))
        for _ in progress(range(runs), "fresh processes"):
            imports.append(float(_output_of(IMPORT)))
            began = time.perf_counter()
            printed = _output_of(FIRST_FRAME, str(clip), model, device)
            starts.append(time.perf_counter() - began)
            if not printed:
                raise InputError("no frame of the clip was restored: give one that shows a face")
            # The kernel's own figure: a child's getrusage() may hold its parent's peak.
            (peak,) = (line.split()[1] for line in printed.splitlines() if line.startswith("VmHWM"))
            peaks.append(int(peak) * 1024 / 1e6)
    return {
        "device": device,
        "import_s": statistics.median(imports),
        "first_restored_s": statistics.median(starts),
        "peak_rss_mb": statistics.median(peaks),
        "runs": runs,
    }


def _output_of(program: str, *arguments: str) -> str:
    """Returns what a program prints in a fresh Python process. Raises InputError if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise InputError(f"a fresh process of the receiver failed ({reason}): run receiver doctor")
    return done.stdout
