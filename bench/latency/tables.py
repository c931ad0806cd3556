"""Tables of the latency bench."""

from typing import Any

from rich.table import Table

from bench.latency.comparison import WHOLE
from bench.latency.paced import FPS
from bench.latency.stages import PER_FACE, PERCENTILES, STAGES


def _shown(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _cells(measured: dict[str, float | None]) -> list[str]:
    return [_shown(measured[name]) for name in PERCENTILES]


def stage_table(run: dict[str, Any]) -> Table:
    """Returns a run's stages, a row each."""
    shown = Table("stage", "median ms", "p95 ms", "p99 ms")
    shown.title = (
        f"{run['scene']}: {run['model']} on {run['device']}, {run['threads']} threads, "
        f"one after the other: {_shown(run['fps'], 1)} frames a second"
    )
    for name, measured in run["stages_ms"].items():
        if name == "whole frame":
            shown.add_section()
        shown.add_row(name + " (a face)" * (name in PER_FACE), *_cells(measured))
    shown.add_row("without decoding", *_cells(run["without_decoding_ms"]))
    return shown


def paced_table(run: dict[str, Any], call: dict[str, Any]) -> Table:
    """Returns a single call's stages and added latency."""
    shown = Table("stage", "median ms", "p95 ms", "p99 ms")
    shown.title = f"{run['scene']} on {run['device']}, paced at {FPS} frames a second"
    for name in STAGES:
        shown.add_row(name + " (a face)" * (name in PER_FACE), *_cells(call["stages_ms"][name]))
    shown.add_section()
    shown.add_row("added, from the decoder on", *_cells(call["added_latency_ms"]))
    shown.add_row("end to end, from the packet on", *_cells(call["end_to_end_ms"]))
    shown.add_row("  of restored frames", *_cells(call["restored_end_to_end_ms"]))
    return shown


def calls_table(run: dict[str, Any], calls: dict[str, Any]) -> Table:
    """Returns the outcomes and latencies of each call's frames, a row per call."""
    columns = ("call", "fps", "restored", "skipped", "dropped", *PERCENTILES)
    shown = Table(*columns, title=f"{run['scene']} on {run['device']}, calls: {calls['calls']}")
    shown.caption = "restored frames a second; ms from a packet's arrival until its frame leaves"
    for number, call in enumerate(calls["each"], 1):
        shown.add_row(
            str(number),
            f"{call['restored_fps']:.1f}",
            f"{call['restored']} of {call['frames']}",
            str(call["skipped"]),
            str(call["dropped"]),
            *_cells(call["end_to_end_ms"]),
        )
    return shown


def scene_table(runs: list[dict[str, Any]]) -> Table:
    """Returns a row per scene; the last column is its time over 480p's with as many faces."""
    columns = ("scene", "device", "frames/s", "without decoding", "ms", "to 480p's")
    shown = Table(*columns, title="one frame after the other")
    for run in runs:
        base = next(
            (
                other["without_decoding_ms"]["median"]
                for other in runs
                if other["size"] == "480p"
                and (other["faces"], other["device"]) == (run["faces"], run["device"])
            ),
            None,
        )
        median = run["without_decoding_ms"]["median"]
        shown.add_row(
            run["scene"],
            run["device"],
            _shown(run["fps"], 1),
            _shown(run["fps_without_decoding"], 1),
            _shown(median),
            _shown(base and median / base),
        )
    return shown


def paper_table(paper: dict[str, Any]) -> Table:
    """Returns the stages of this project and of the paper's method side by side."""
    ours, theirs = paper["ours"], paper["paper"]
    shown = Table("stage", "ours: median ms", "p95 ms", "paper: median ms", "p95 ms", "times")
    shown.title = (
        f"{paper['scene']}: ours on {ours['device']} {_shown(ours['fps'], 1)} frames a second, the "
        f"paper's method on {theirs['device']} {_shown(theirs['fps'])}: "
        f"{_shown(paper['ratio'], 1)} times as many"
    )
    for name, mine in ours["stages_ms"].items():
        other = theirs["stages_ms"][name]
        if name == WHOLE:
            shown.add_section()
        label = {"copy": "copy / RGB and back", WHOLE: "whole, decoded"}.get(name, name)
        both = (mine["median"], mine["p95"], other["median"], other["p95"])
        times_as_long = mine["median"] and other["median"] and other["median"] / mine["median"]
        shown.add_row(label, *map(_shown, both), _shown(times_as_long, 1))
    shown.caption = (
        f"restored {ours['restored']} of {ours['frames']} and {theirs['restored']} of "
        f"{theirs['frames']} frames, in blocks that alternate. "
        "The paper's VGG-19 generator is not trained: it is timed, not judged."
    )
    return shown
