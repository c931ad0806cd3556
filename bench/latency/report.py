"""The latency bench's results: printed at once, written at the end."""

import json
import platform
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.command_line import MissingPackageError, needs, require
from bench.latency.plots import plot
from bench.latency.tables import (
    calls_table,
    forms_table,
    methods_table,
    paced_table,
    scene_table,
    stage_table,
    summary_of,
)
from bench.rivals.paper_networks import FORMS
from receiver.commands.terminal import console
from receiver.cores import usable_cores
from receiver.sending.sources import Source


class Report:
    """All results so far. Each is printed at once, so that Ctrl-C loses nothing.

    Attributes:
        figures: all results, ready for JSON.
    """

    def __init__(self, source: Source, json_file: Path | None, plot_file: Path) -> None:
        self.figures: dict[str, Any] = {
            "machine": {"cpu": cpu_name(), "cores": usable_cores()},
            "size": {"width": source.width, "height": source.height},
            "runs": [],
            "cold": [],
            "against": [],
        }
        self._json_file, self._plot_file = json_file, plot_file
        self._console = console()

    def add_run(self, run: dict[str, Any]) -> None:
        """Adds a scene's frames, one after the other. Raises KeyboardInterrupt if cut short."""
        self.figures["runs"].append(run)
        self._console.print(stage_table(run))
        self._stop_if_interrupted(run)

    def add_calls(self, run: dict[str, Any], calls: dict[str, Any]) -> None:
        """Adds paced calls of that run's scene. Raises KeyboardInterrupt if cut short."""
        run["paced"].append(calls)
        if len(calls["each"]) == 1:
            self._console.print(paced_table(run, calls["each"][0]))
        self._console.print(calls_table(run, calls))
        self._stop_if_interrupted(calls)

    def add_cold(self, cold: dict[str, Any]) -> None:
        """Adds the figures of fresh processes."""
        self.figures["cold"].append(cold)
        shown = Table("cold start", cold["device"], title=f"medians of {cold['runs']} processes")
        shown.add_row("import receiver", f"{cold['import_s']:.2f} s")
        shown.add_row("process to first restored frame", f"{cold['first_restored_s']:.2f} s")
        shown.add_row("its peak memory (RSS)", f"{cold['peak_rss_mb']:.0f} MB")
        self._console.print(shown)

    def add_comparison(self, compared: dict[str, Any]) -> None:
        """Adds a comparison with other methods. Raises KeyboardInterrupt if cut short."""
        self.figures["against"].append(compared)
        forms = [name for name in compared["methods"] if name in FORMS]
        if forms:
            self._console.print(forms_table(compared, forms))
        self._console.print(methods_table(compared))
        summary = summary_of(compared)
        if summary:
            self._console.print(summary)
        self._stop_if_interrupted(compared)

    def write(self) -> None:
        """Prints the scenes side by side, and writes the plot and JSON of what was measured."""
        runs = [run for run in self.figures["runs"] if run["fps"]]
        if len(runs) > 1:
            self._console.print(scene_table(runs))
        if runs:
            self._plot(runs)
        if self._json_file:
            self._json_file.parent.mkdir(parents=True, exist_ok=True)
            self._json_file.write_text(json.dumps(self.figures, indent=2) + "\n")

    def _plot(self, runs: list[dict[str, Any]]) -> None:
        """Writes the plot, or prints a sentence if matplotlib is missing."""
        try:
            require("latency", "matplotlib")
        except MissingPackageError:
            print(f"no plot: it {needs('matplotlib')}")
            return
        compared = [one for one in self.figures["against"] if one["fastest"]]
        self._plot_file.parent.mkdir(parents=True, exist_ok=True)
        plot(runs, compared, self._plot_file)
        print(f"plot: {self._plot_file}")

    @staticmethod
    def _stop_if_interrupted(measured: dict[str, Any]) -> None:
        if measured["interrupted"]:
            raise KeyboardInterrupt


def cpu_name() -> str:
    """Returns the name of this machine's processor, as far as the system knows it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
