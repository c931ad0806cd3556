"""The receiver's process."""

import asyncio
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import av
from aiohttp import web

from bench.calls.numbered import WatchedEnhancer, face_quality, write_number
from bench.calls.parent import parent_speaks, say
from bench.chromium.sent import FrameNotes
from receiver.calls.config import ServeConfig
from receiver.calls.metrics import room_stats
from receiver.calls.rooms import Room
from receiver.calls.server import Server
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.sending.portrait import portrait_frames

SOCKET = "receiver.sock"
"""The server's Unix socket: all network namespaces share the files."""


async def receive(folder: Path, transport: str) -> None:
    """Serves on the folder's socket until the parent's next line. Reports each frame that left."""
    generator = Generator("lite", "cpu")
    Enhancer(generator).warm_up()
    watched, notes = WatchedEnhancer(generator), FrameNotes()
    watched.stages.insert(0, notes)
    server = Server(ServeConfig(stock_transport=transport == "stock"), lambda: watched)
    runner = web.AppRunner(server.app(), shutdown_timeout=1.0)
    await runner.setup()
    await web.UnixSite(runner, folder / SOCKET).start()
    say(ready=True)
    left: list[list[float]] = []
    stats: list[list[Any]] = []
    watching = asyncio.ensure_future(watch(server, left, stats))
    await parent_speaks()
    watching.cancel()
    faces = face_quality(watched.kept, clip())
    say(left=left, stats=stats, faces=faces, decoded=notes.frames)
    await runner.cleanup()


def clip() -> list[av.VideoFrame]:
    """Returns the demo's clip with a number in every frame."""
    return [write_number(frame, number) for number, frame in enumerate(portrait_frames())]


async def watch(server: Server, left: list[list[float]], stats: list[list[Any]]) -> None:
    """Waits for the publisher's first frame; from then on notes the room's figures."""
    while not server.rooms:
        await asyncio.sleep(0.01)
    (room,) = server.rooms.values()
    room.outputs.append(partial(note_frame, room, left))
    while not left:
        await asyncio.sleep(0.01)
    say(first=left[0][0])
    while True:
        stats.append([time.monotonic(), room_stats(room), waited_for_core()])
        await asyncio.sleep(1)


def waited_for_core() -> float:
    """Returns for how many seconds this process' event loop was ready and waited for a core."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def note_frame(room: Room, left: list[list[float]], frame: Any) -> None:
    """Notes when a frame left, its own time, and the numbers of frames received and enhanced."""
    counts = room.stats.frames
    taken = float(frame.pts * frame.time_base)
    left.append([time.monotonic(), taken, counts.received, counts.enhanced])


if __name__ == "__main__":
    asyncio.run(receive(Path(sys.argv[1]), transport=sys.argv[2]))
