"""Tables of the latency bench."""

from typing import Any

from rich.table import Table

from bench.latency.comparison import OURS, WHOLE
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


def methods_table(compared: dict[str, Any]) -> Table:
    """Returns a row for each method that was timed on the same frames, ours first."""
    shown = Table(title=f"{compared['scene']}: the same frames, in blocks that alternate")
    shown.add_column("method", no_wrap=True)
    for column in ("median ms", "p95 ms", "frames/s", "ours, times", "changed", "run by"):
        shown.add_column(column)
    for name, method in compared["methods"].items():
        whole = method["stages_ms"][WHOLE]
        shown.add_row(
            name,
            _shown(whole["median"]),
            _shown(whole["p95"]),
            _shown(method["fps"], 1 if name == OURS else 2),
            "" if name == OURS else _shown(method["factor"]),
            f"{method['restored']} of {method['frames']}",
            f"{method['runtime']}, {method['device']}",
        )
    shown.caption = " ".join(notes_of(compared))
    return shown


def notes_of(compared: dict[str, Any]) -> list[str]:
    """Returns sentences that say what the figures of a comparison are of."""
    notes = [
        "Milliseconds are from the decoded frame on, frames a second include decoding; "
        "times: how many times as many of them ours makes."
    ]
    if compared["fastest"]:
        notes.append(
            "The paper's generators are not trained: they are timed, not judged. "
            "The 44 frames a second in the paper are of a GPU (RTX 2080 Ti)."
        )
    if any(method["enlarges"] for method in compared["methods"].values()):
        notes.append(
            "Methods for whole frames enlarge the frame from half its width and height; "
            "they restore no face."
        )
    return notes


def summary_of(compared: dict[str, Any]) -> str | None:
    """Returns a sentence about the fastest form of the paper's method; None without one."""
    fastest = compared["fastest"]
    if fastest is None:
        return None
    method, ours = compared["methods"][fastest], compared["methods"][OURS]
    return (
        f"{compared['scene']}: the fastest published form here is {fastest} ({method['runtime']}) "
        f"with {_shown(method['fps'], 2)} frames a second; ours makes "
        f"{_shown(ours['fps'], 1)}, {_shown(method['factor'], 1)} times as many"
    )


def forms_table(compared: dict[str, Any], forms: list[str]) -> Table:
    """Returns the medians of the stages of this project and of forms of the paper's method."""
    shown = Table("stage", OURS, *forms)
    shown.title = f"{compared['scene']}: medians of the stages in ms"
    methods = [compared["methods"][name]["stages_ms"] for name in (OURS, *forms)]
    for name in methods[0]:
        if name == WHOLE:
            shown.add_section()
        label = {"copy": "copy / RGB and back", WHOLE: "whole, decoded"}.get(name, name)
        shown.add_row(label, *(_shown(stages[name]["median"]) for stages in methods))
    return shown
