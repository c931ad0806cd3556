"""Real calls over bad networks: `python -m bench calls`.

Headless Chromium publishes the demo's own clip through the page of `receiver serve`. Both live in
network namespaces of their own; bench.calls.relay between them delays, loses and queues packets.
Each scenario is called with aiortc's stock transport and with ours, one after the other. The page
and WHIP take another way, so conditions begin with the first picture.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from aiohttp import web
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from bench.calls.numbered import WatchedEnhancer, face_quality, mean_quality, write_number
from bench.calls.relay import Conditions, Phase, Plan, obstacle, relaying, started
from receiver.calls.rooms import Room
from receiver.calls.server import ServeConfig, Server, room_stats
from receiver.commands.progress import progress_bar
from receiver.commands.terminal import console
from receiver.enhance.enhancer import Enhancer
from receiver.enhance.faces.generator import Generator
from receiver.errors import InputError, MissingError, ReceiverError
from receiver.sending.portrait import portrait_frames
from tests.calls.chromium import BINARY, chromium, write_y4m

Times = NDArray[np.float64]

TRANSPORTS = ("stock", "ours")
FREEZE = 0.2
"""Seconds without a picture that are a freeze."""
SETTLED = 1.0
"""Seconds without a freeze after which a call has recovered."""
PATIENCE = 60
"""Seconds that the page has to begin."""
SOCKET = "receiver.sock"
"""The server's socket: files are the same in all network namespaces."""
FREE_KBPS = 1700
"""The page's cap where a scenario has none: what Chromium by itself gives 640x480 at most."""
CLIMBED_KBPS = 1500
"""Target that counts as full rate."""
OUTAGE = 3.0
"""Seconds."""
WIDTH = 170
"""Characters that the table needs."""
SHORTEST = 8
"""Seconds of a call: it has to hold an outage and what follows."""

START = """(() => {
  const ask = window.fetch;
  window.fetch = (url, how) => `${url}`.startsWith("/whep") ? new Promise(() => {}) : ask(url, how);
  const slider = document.getElementById("bitrate");
  slider.min = slider.step = 1;
  slider.max = slider.value = KBPS;
  document.getElementById("start").click();
})()"""
"""Presses Start. What the page would play never comes: encoding it would take the call's cores."""
SENDING = "window.connections[0]?.connectionState === 'connected'"
SSRCS = "connections[0].localDescription.sdp.match(/ssrc-group:FID (\\d+) (\\d+)/).slice(1)"
OUTBOUND = """(async () => {
  const row = {};
  for (const r of (await connections[0].getStats()).values()) {
    if (r.kind !== "video") continue;
    if (r.type === "outbound-rtp") Object.assign(row, {target_kbps: r.targetBitrate / 1000,
      bytes: r.bytesSent, frames: r.framesSent, width: r.frameWidth, key_frames: r.keyFramesEncoded,
      plis: r.pliCount, nacks: r.nackCount});
    if (r.type === "remote-inbound-rtp") row.rtt_ms = 1000 * r.roundTripTime;
  }
  return row;
})()"""


@dataclass(frozen=True)
class Scenario:
    """One network.

    Attributes:
        phases: what holds when, from the first picture on.
        event_s: when the trouble is over from which the call has to recover, None without.
        hole_s: when one packet of the video never comes, None without.
        cap_kbps: the page's cap of Chromium's bitrate.
    """

    phases: tuple[Phase, ...]
    event_s: float | None = None
    hole_s: float | None = None
    cap_kbps: int = FREE_KBPS


def scenarios(seconds: float) -> dict[str, Scenario]:
    """All of them by name, for calls of so many seconds."""
    near, third = Conditions(delay_ms=25), seconds / 3

    def steady(**conditions: Any) -> Scenario:
        return Scenario((Phase(0, Conditions(**conditions)),))

    limited = Conditions(delay_ms=25, kbps=300)
    gone = Conditions(delay_ms=25, loss=1)
    changing = Phase(0, near), Phase(third, limited), Phase(2 * third, near)
    broken = Phase(0, near), Phase(third, gone), Phase(third + OUTAGE, near)
    return {
        "free": steady(),
        **{f"rtt-{rtt}": steady(delay_ms=rtt / 2) for rtt in (50, 100, 300)},
        **{f"loss-{loss}": steady(delay_ms=25, loss=loss / 100) for loss in (1, 5, 10, 20)},
        **{
            f"burst-{loss}": steady(delay_ms=25, loss=loss / 100, burst=5)
            for loss in (1, 5, 10, 20)
        },
        **{f"jitter-{ms}": steady(delay_ms=25, jitter_ms=ms) for ms in (30, 100)},
        "limit-300": Scenario((Phase(0, limited),)),
        "limit-change": Scenario(changing, event_s=2 * third),
        "outage": Scenario(broken, event_s=third + OUTAGE),
        "hole": Scenario((Phase(0, near),), event_s=third, hole_s=third, cap_kbps=150),
    }


# The receiver's process


async def receive(folder: Path, transport: str) -> None:
    """Serves on the folder's socket until the parent speaks; tells of each picture that left."""
    generator = Generator("lite", "cpu")
    Enhancer(generator).warm_up()
    watched = WatchedEnhancer(generator)
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
    say(left=left, stats=stats, faces=face_quality(watched.seen, clip()))
    await runner.cleanup()


def clip() -> list[av.VideoFrame]:
    """The demo's, every picture with its number."""
    return [write_number(frame, number) for number, frame in enumerate(portrait_frames())]


async def watch(server: Server, left: list[list[float]], stats: list[list[Any]]) -> None:
    """Waits for the publisher and its first picture; from then on notes the room's figures."""
    while not server.rooms:
        await asyncio.sleep(0.01)
    (room,) = server.rooms.values()
    room.outputs.append(partial(note_picture, room, left))
    while not left:
        await asyncio.sleep(0.01)
    say(first=left[0][0])
    while True:
        stats.append([time.monotonic(), room_stats(room), waited_for_core()])
        await asyncio.sleep(1)


def waited_for_core() -> float:
    """Seconds that this process' event loop could have run and had no core for it."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


def note_picture(room: Room, left: list[list[float]], picture: Any) -> None:
    """When a picture left, when it was taken by its own clock, pictures received and enhanced."""
    counts = room.stats.frames
    taken = float(picture.pts * picture.time_base)
    left.append([time.monotonic(), taken, counts.received, counts.enhanced])


# Chromium's process


async def publish(folder: Path, camera: Path, cap_kbps: int) -> None:
    """Publishes once the parent speaks, until it speaks again; tells of Chromium's bitrate."""
    say(ready=True)
    await parent_speaks()
    async with front(folder / SOCKET) as url, chromium(camera, folder / "profile", url) as page:
        await page.record_connections()
        await page.evaluate(START.replace("KBPS", str(cap_kbps)))
        await page.wait_for(SENDING, PATIENCE)
        ssrc, rtx = await page.evaluate(SSRCS)
        say(ssrc=int(ssrc), rtx=int(rtx))
        ended = asyncio.ensure_future(parent_speaks())
        samples = []
        while not ended.done():
            samples.append([time.monotonic(), await page.evaluate(OUTBOUND)])
            await asyncio.wait({ended}, timeout=1)
        say(sent=samples)


@contextlib.asynccontextmanager
async def front(socket: Path) -> AsyncIterator[str]:
    """A loopback address, to which browsers give a camera, in front of a Unix socket."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
        await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes from one to the other until they end."""
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


# Both


def say(**message: Any) -> None:
    """A line for the parent."""
    print(json.dumps(message), flush=True)


async def parent_speaks() -> None:
    """Waits for the parent's next line, or for its end."""
    loop, spoken = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, spoken.set)
    try:
        await spoken.wait()
    finally:
        loop.remove_reader(sys.stdin)
    sys.stdin.readline()


# The parent


def call(
    scenario: Scenario,
    transport: str,
    seconds: float,
    seed: int,
    camera: Path,
    passed: Callable[..., None],
) -> dict[str, Any]:
    """One call; everything that was noted, its times in seconds from the first picture on.

    `passed` is told as `completed` how many seconds have passed.
    """
    plan = Plan(scenario.phases, seed, scenario.hole_s)
    with tempfile.TemporaryDirectory(prefix="calls-") as name:
        folder = Path(name)
        child = partial(started, folder=folder, namespace=True)
        receiving = ["-m", __name__, "receive", name, transport]
        publishing = ["-m", __name__, "publish", name, str(camera), str(scenario.cap_kbps)]
        with child("publisher", publishing) as publisher, child("receiver", receiving) as receiver:
            publisher.answer()
            receiver.answer()
            with relaying(publisher, receiver, plan, folder) as network:
                publisher.tell()
                ssrcs = publisher.answer()
                begin = receiver.answer()["first"]
                network.tell(begin=begin, **ssrcs)
                until(begin, seconds, passed)
                told: dict[str, Any] = {}
                for one in (receiver, publisher, network):
                    told |= one.finish()
    return from_beginning(told, begin, seconds)


def until(begin: float, seconds: float, passed: Callable[..., None]) -> None:
    """Waits for the call's end."""
    while (now := time.monotonic() - begin) < seconds:
        passed(completed=now)
        time.sleep(min(0.5, seconds - now))


def from_beginning(told: dict[str, Any], begin: float, seconds: float) -> dict[str, Any]:
    """What the processes told, within the call and by its clock."""

    def rows(name: str) -> list[list[Any]]:
        shifted = ([row[0] - begin, *row[1:]] for row in told[name])
        return [row for row in shifted if row[0] <= seconds]

    return {
        "seconds": seconds,
        "left": rows("left"),
        "passages": rows("passages"),
        "stats": rows("stats"),
        "sent": [dict(row, at=at) for at, row in rows("sent")],
        "late": told["late"],
        "faces": told["faces"],
        "hole_at": told["hole_at"] and told["hole_at"] - begin,
    }


# Figures


def freezes(left: Times, end: float) -> Times:
    """Seconds of each freeze between moments at which pictures left, and until the end."""
    gaps = np.diff(np.append(left, end))
    return gaps[gaps > FREEZE]


def lag_ms(left: Times, taken: Times) -> float:
    """How much later the last ten pictures left than the fastest one, by their own clock."""
    delays = left - taken
    return float(1e3 * (np.median(delays[-10:]) - delays.min()))


def recovered_s(left: Times, enhanced: NDArray[np.bool_], event: float, end: float) -> float | None:
    """Seconds from the event to an enhanced picture that no freeze follows for `SETTLED`; or None.

    A call that ends before `SETTLED` is over has not shown that it recovered.
    """
    for moment in left[enhanced & (left >= event)]:
        after = left[(left >= moment) & (left <= moment + SETTLED)]
        if moment + SETTLED <= end and not freezes(after, moment + SETTLED).size:
            return float(moment - event)
    return None


def figures(noted: dict[str, Any], scenario: Scenario) -> dict[str, Any]:
    """What the table shows of one call."""
    seconds = noted["seconds"]
    left, taken, received, enhanced = np.array(noted["left"], np.float64).reshape(-1, 4).T
    if left.size < 2:
        return {"received_fps": 0.0}
    frozen = freezes(left, seconds)
    event = scenario.event_s if noted["hole_at"] is None else noted["hole_at"]
    is_enhanced = np.diff(enhanced, prepend=enhanced[0]) > 0
    return {
        "received_fps": (received[-1] - received[0]) / seconds,
        "enhanced_fps": (enhanced[-1] - enhanced[0]) / seconds,
        "freezes": int(frozen.size),
        "frozen_s": float(frozen.sum()),
        "longest_freeze_s": float(frozen.max(initial=0.0)),
        "lag_ms": lag_ms(left, taken),
        "recovered_s": None if event is None else recovered_s(left, is_enhanced, event, seconds),
        **rates(noted["sent"]),
        **passage_figures(noted["passages"], scenario, seconds),
        "face": mean_quality(noted["faces"]),
        "starved": starved(noted["stats"]),
        "relay_late_ms_p99": 1e3 * float(np.percentile(noted["late"] or [0.0], 99)),
    }


def starved(stats: list[list[Any]]) -> float:
    """Share of the call for which the receiver's event loop waited for a core."""
    return float((stats[-1][2] - stats[0][2]) / max(stats[-1][0] - stats[0][0], 1e-3))


def rates(sent: list[dict[str, Any]]) -> dict[str, Any]:
    """Chromium's: kbit/s sent over the call, and when its target reached full rate, or None."""
    within = [row for row in sent if "bytes" in row]
    if not within:
        return {}
    took = within[-1]["at"] - within[0]["at"]
    climbed = (row["at"] for row in within if (row.get("target_kbps") or 0) >= CLIMBED_KBPS)
    return {
        "sent_kbps": 8e-3 * (within[-1]["bytes"] - within[0]["bytes"]) / max(took, 1e-3),
        "full_rate_s": next(climbed, None),
    }


def passage_figures(
    passages: list[list[Any]], scenario: Scenario, seconds: float
) -> dict[str, Any]:
    """Share of packets lost; where the rate was limited, kbit/s that passed and ms in the queue."""
    lost = [one for one in passages if one[2] is None]
    found: dict[str, Any] = {"lost": len(lost) / max(1, len(passages))}
    ends = [phase.at for phase in scenario.phases[1:]] + [seconds]
    for phase, end in zip(scenario.phases, ends, strict=True):
        if phase.conditions.kbps is not None:
            within = [one for one in passages if phase.at <= one[0] < end and one[2] is not None]
            waits = [one[2] for one in within] or [0.0]
            found["limited_kbps"] = 8e-3 * sum(one[1] for one in within) / (end - phase.at)
            found["queue_ms"] = {
                "median": 1e3 * float(np.median(waits)),
                "p95": 1e3 * float(np.percentile(waits, 95)),
            }
    return found


# What is shown and written


def table(results: list[dict[str, Any]], seconds: float) -> Table:
    """A row a call."""
    columns: dict[str, Callable[[dict[str, Any]], Any]] = {
        "fps in,\nrestored": lambda f: f"{f['received_fps']:.1f}, {f['enhanced_fps']:.1f}",
        "freezes: all,\nlongest s": lambda f: (
            f"{f['freezes']}: {f['frozen_s']:.1f}, {f['longest_freeze_s']:.2f}"
        ),
        "lag at\nend ms": lambda f: f"{f['lag_ms']:.0f}",
        "recov-\nered s": lambda f: f"{f['recovered_s']:.2f}",
        "sent\nkbit/s": lambda f: f"{f['sent_kbps']:.0f}",
        "full\nrate s": lambda f: f"{f['full_rate_s']:.1f}",
        "limited\nkbit/s": lambda f: f"{f['limited_kbps']:.0f}",
        "queue ms,\np95": lambda f: f"{f['queue_ms']['median']:.0f}, {f['queue_ms']['p95']:.0f}",
        "lost\n%": lambda f: f"{100 * f['lost']:.1f}",
        "face dB: in,\nrestored": lambda f: (
            f"{f['face']['psnr_received']:.1f}, {f['face']['psnr_restored']:.1f}"
        ),
        "SSIM: in,\nrestored": lambda f: (
            f"{f['face']['ssim_received']:.3f}, {f['face']['ssim_restored']:.3f}"
        ),
        "starved %,\nlate ms": lambda f: f"{100 * f['starved']:.0f}, {f['relay_late_ms_p99']:.0f}",
    }
    shown = Table(
        Column("scenario", no_wrap=True),
        Column("trans-\nport", no_wrap=True),
        *(Column(name, justify="right", no_wrap=True) for name in columns),
        title=f"calls of {seconds:g} s",
        caption="face: its crop against what was sent, every 15th restored picture; starved: share "
        "of the call for which the receiver's event loop had no core; late: of the relay, p99. "
        "Beyond 10 % or 10 ms the machine was too busy to tell anything.",
        box=SIMPLE_HEAD,
    )
    for result in results:
        row = []
        for show in columns.values():
            try:
                row.append(str(show(result["figures"])))
            except (KeyError, TypeError):  # it has no such figure
                row.append("–")
        shown.add_row(result["scenario"], result["transport"], *row)
    return shown


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """A row a scenario: the gaps between pictures, and Chromium's target bitrate."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(result["scenario"] for result in results))
    figure = Figure(figsize=(13, 0.8 + 2.2 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False, sharex="row")
    colours = dict(zip(TRANSPORTS, ("tab:red", "tab:blue"), strict=True))
    for (gaps, bitrate), name in zip(panels, names, strict=True):
        for result in (one for one in results if one["scenario"] == name):
            draw_call(gaps, bitrate, result["noted"], colours[result["transport"]])
            draw_phases(gaps, bitrate, result["phases"], result["noted"])
        gaps.axhline(1e3 * FREEZE, color="black", linewidth=0.6, linestyle=":")
        gaps.set(yscale="log", ylim=(10, None), ylabel="ms since the last", title=name)
        bitrate.set(ylabel="target kbit/s", ylim=(0, None), title=name)
    for axes in panels[-1]:
        axes.set_xlabel("seconds")
    figure.legend([Line2D([], [], color=one) for one in colours.values()], list(colours))
    figure.savefig(path, dpi=90)


def draw_call(gaps: Any, bitrate: Any, noted: dict[str, Any], colour: str) -> None:
    """One call's lines."""
    left = np.array([row[0] for row in noted["left"]] + [noted["seconds"]])
    gaps.plot(left[1:], 1e3 * np.diff(left), color=colour, linewidth=0.8, drawstyle="steps-pre")
    rows = [row for row in noted["sent"] if row.get("target_kbps") is not None]
    bitrate.plot([r["at"] for r in rows], [r["target_kbps"] for r in rows], color=colour)


def draw_phases(
    gaps: Any, bitrate: Any, phases: list[dict[str, Any]], noted: dict[str, Any]
) -> None:
    """Where conditions changed, and what the link let through."""
    changes = [phase["at"] for phase in phases[1:]]
    if noted["hole_at"] is not None:
        changes.append(noted["hole_at"])
    for axes, at in itertools.product((gaps, bitrate), changes):
        axes.axvline(at, color="grey", linewidth=0.8)
    for phase, end in zip(
        phases, [*(one["at"] for one in phases[1:]), noted["seconds"]], strict=True
    ):
        if limit := phase["conditions"]["kbps"]:
            bitrate.hlines(limit, phase["at"], end, color="black", linewidth=0.8, linestyle=":")


def write(folder: Path, results: list[dict[str, Any]]) -> None:
    """calls.json: figures, and by time the pictures that left and Chromium's bitrate."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = ("seconds", "left", "stats", "sent", "hole_at")
    slim = [{**one, "noted": {key: one["noted"][key] for key in kept}} for one in results]
    (folder / "calls.json").write_text(json.dumps({"calls": slim}) + "\n")


# The command line


def chosen(only: str | None, seconds: float) -> dict[str, Scenario]:
    """The scenarios that were asked for. Raises InputError for an unknown name."""
    known = scenarios(seconds)
    names = list(known) if only is None else only.split(",")
    for name in names:
        if name not in known:
            raise InputError(f"there is no scenario {name!r}: choose from {', '.join(known)}")
    return {name: known[name] for name in names}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The arguments. Raises InputError for a call that is too short."""
    parser = argparse.ArgumentParser(
        prog="python -m bench calls",
        description=__doc__,
        epilog=f"scenarios: {', '.join(scenarios(60))}",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--only", metavar="NAME[,NAME]", help="these scenarios (default all)")
    parser.add_argument("--seconds", type=float, default=60, help="of each call (default 60)")
    parser.add_argument("--transport", choices=(*TRANSPORTS, "both"), default="both")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (default 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("bench-output/calls"),
        metavar="FOLDER",
        help="for calls.json and calls.png (default %(default)s)",
    )
    args = parser.parse_args(arguments)
    if not args.seconds >= SHORTEST:
        raise InputError(f"a call of {args.seconds:g} s is too short: give {SHORTEST} or more")
    return args


def main(arguments: list[str]) -> None:
    """The command line."""
    args = parse(arguments)
    wanted = chosen(args.only, args.seconds)
    if BINARY is None:
        raise MissingError("there is no Chromium: apt install chromium")
    if problem := obstacle():
        raise InputError(problem)
    results: list[dict[str, Any]] = []
    transports = TRANSPORTS if args.transport == "both" else (args.transport,)
    with tempfile.TemporaryDirectory(prefix="calls-") as name, progress_bar() as bar:
        camera = Path(name) / "camera.y4m"
        write_y4m(camera, clip())
        for title, transport in itertools.product(wanted, transports):
            task = bar.add_task(f"{title}, {transport}", total=args.seconds)
            passed = partial(bar.update, task)
            try:
                noted = call(wanted[title], transport, args.seconds, args.seed, camera, passed)
            except ReceiverError as error:
                bar.console.print(f"{title}, {transport}: {error}")
                continue
            finally:
                bar.remove_task(task)
            results.append(result_of(title, transport, wanted[title], noted))
            write(args.out, results)
    if not results:
        raise InputError("no call came about: is the machine too busy?")
    shown = table(results, args.seconds)
    console(width=max(WIDTH, console().width)).print(shown)
    plot(results, args.out / "calls.png")
    print(f"written: {args.out / 'calls.json'}, {args.out / 'calls.png'}")


def result_of(
    title: str, transport: str, scenario: Scenario, noted: dict[str, Any]
) -> dict[str, Any]:
    """A call as it is shown and written."""
    return {
        "scenario": title,
        "transport": transport,
        "phases": [asdict(phase) for phase in scenario.phases],
        "figures": figures(noted, scenario),
        "noted": noted,
    }


def child_main() -> None:
    """A child's process: its part and what that takes."""
    part, folder, *more = sys.argv[1:]
    if part == "receive":
        asyncio.run(receive(Path(folder), *more))
    else:
        asyncio.run(publish(Path(folder), Path(more[0]), int(more[1])))


if __name__ == "__main__":
    child_main()
