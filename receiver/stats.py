"""Counts frames, times stages, and keeps track of faults."""

import logging
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

KEPT_TIMINGS = 3000
"""Timings kept for each stage: the last 100 seconds at 30 frames a second."""

HEALED_AFTER = 30
"""Successes in a row after which a fault is over: one second at 30 frames a second."""


@dataclass
class FrameCounts:
    """Counts frames since the start.

    received = enhanced + passed + dropped (+ at most one in progress).
    """

    received: int = 0
    enhanced: int = 0  # changed by a stage
    passed: int = 0  # passed through: no stage changed them, or they were skipped or failed
    skipped: int = 0  # passed through because they would have been late
    failed: int = 0  # passed through because their enhancement raised an error
    dropped: int = 0  # replaced by a newer frame before their turn


class Faults:
    """Failures in a running call: counts each, and logs when a fault starts and when it is over.

    No method raises or waits: a call continues without the part that fails.

    Attributes:
        counts: failures since the start, by the part that failed.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._logged: set[tuple[str, object, type[BaseException]]] = set()
        self._successes: dict[tuple[str, object], int] = {}  # in a row, of the parts that fail now

    @property
    def healthy(self) -> bool:
        """Whether no part fails now."""
        return not self._successes

    @contextmanager
    def guard(self, what: str, whose: object = None) -> Iterator[None]:
        """Suppresses the block's exceptions and calls `failed`, or else `worked`.

        Args:
            what: name of the part, as in `counts`.
            whose: distinguishes several parts of the same name.
        """
        try:
            yield
        except Exception as error:
            self.failed(what, error, whose)
        else:
            self.worked(what, whose)

    def count(self, what: str, error: BaseException, whose: object = None) -> None:
        """Counts a single failure; logs it once for each type of error."""
        self.counts[what] = self.counts.get(what, 0) + 1
        kind = what, whose, type(error)
        if kind not in self._logged:
            self._logged.add(kind)
            logger.error("%s failed; the call continues without it", what, exc_info=error)

    def failed(self, what: str, error: BaseException, whose: object = None) -> None:
        """Counts a failure; it lasts until `HEALED_AFTER` successes in a row."""
        self.count(what, error, whose)
        self._successes[what, whose] = 0

    def worked(self, what: str, whose: object = None) -> bool:
        """Takes note of a success; returns whether this part has no fault now."""
        key = what, whose
        if key not in self._successes:
            return True
        self._successes[key] += 1
        if self._successes[key] < HEALED_AFTER:
            return False
        del self._successes[key]
        self._logged = {kind for kind in self._logged if kind[:2] != key}
        logger.warning("%s works again; it had failed %d times", what, self.counts[what])
        return True


class Timings:
    """The latest timings of one thing, in seconds."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=KEPT_TIMINGS)

    def add(self, seconds: float) -> None:
        """Adds one timing."""
        self._seconds.append(seconds)

    def clear(self) -> None:
        """Forgets all timings."""
        self._seconds.clear()

    def all(self) -> list[float]:
        """Returns the timings, oldest first."""
        return list(self._seconds)

    def last(self) -> float:
        """Returns the newest timing; 0 without any."""
        return self._seconds[-1] if self._seconds else 0.0

    def median(self, newest: int = KEPT_TIMINGS) -> float:
        """Returns the median of the newest timings; 0 without any."""
        seconds = self.all()[-newest:]
        return float(np.median(seconds)) if seconds else 0.0

    def middle(self) -> float:
        """Returns the middle of the range of the last 150 timings without 2 % at each end.

        0 without any. No other number is so near to even the worst of them.
        """
        seconds = self.all()[-150:]
        return float(np.percentile(seconds, (2, 98)).mean()) if seconds else 0.0


class Stats:
    """Counts and timings of one enhanced stream; cheap enough to be always on.

    Attributes:
        device: execution device of the generator, 'cpu', 'cuda' or 'tensorrt'.
        frames: counts of frames by outcome.
        first_restored_s: seconds from the start to the first restored frame; None before it.
        keyframes: number of references held now, for all faces on screen.
        high_quality_inputs: frames whose faces needed no restoration.
        admitted: references so far by their source, and faces of stills that were rejected because
            they match nobody on screen, or are worse than the stream.
        faults: failures, and whether they persist.
        enhancement: the stages, for frames that they changed.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.frames = FrameCounts()
        self.high_quality_inputs = 0
        self.first_restored_s: float | None = None
        self._began = time.perf_counter()
        self.keyframes = 0
        self.admitted = {"stream": 0, "still": 0, "nobody's": 0, "worse": 0}
        self.faults = Faults()
        self.enhancement = Timings()
        self._timings: dict[str, Timings] = defaultdict(Timings)
        self._leaving: deque[float] = deque(maxlen=KEPT_TIMINGS)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures the time of the block as one run of stage `name`."""
        began = time.perf_counter()
        yield
        self._timings[name].add(time.perf_counter() - began)

    def add(self, name: str, seconds: float) -> None:
        """Adds a time of stage `name` that was measured elsewhere."""
        self._timings[name].add(seconds)

    def timings(self, name: str) -> Timings:
        """Returns the timings of stage `name`, which may be empty."""
        return self._timings[name]

    @property
    def added_latency(self) -> Timings:
        """From a frame's arrival until it leaves the enhancer."""
        return self._timings["added latency"]

    @property
    def picture_delay(self) -> Timings:
        """From a frame's arrival until it is sent to a viewer."""
        return self._timings["picture delay"]

    def left(self, restored: bool) -> None:
        """Takes note that a frame was sent on now; `fps` is computed from these moments."""
        now = time.perf_counter()
        self._leaving.append(now)
        if restored and self.first_restored_s is None:
            self.first_restored_s = now - self._began

    def restart_clock(self) -> None:
        """Makes `first_restored_s` count from now."""
        self._began = time.perf_counter()

    def forget_timings(self) -> None:
        """Clears the timings, as after a warm-up; the counts stay."""
        self._timings.clear()
        self.enhancement.clear()
        self._leaving.clear()

    @property
    def fps(self) -> float:
        """Frames a second that were sent on, over the timings kept; 0 before there are two."""
        if len(self._leaving) < 2:
            return 0.0
        return (len(self._leaving) - 1) / (self._leaving[-1] - self._leaving[0])

    def seconds(self, name: str) -> list[float]:
        """Returns a stage's times in seconds, oldest first."""
        return self._timings[name].all() if name in self._timings else []

    def milliseconds(self, name: str, *percentiles: float) -> list[float]:
        """Returns percentiles (0 to 100) of a stage's times in ms; NaN if it never ran."""
        seconds = self.seconds(name) or [np.nan]
        return [float(value) for value in np.percentile(seconds, percentiles) * 1e3]

    def snapshot(self) -> dict[str, Any]:
        """Returns all figures as a dict for JSON."""
        stages = {}
        for name in [name for name, timings in list(self._timings.items()) if timings.all()]:
            median, p95 = self.milliseconds(name, 50, 95)
            stages[name] = {"median": round(median, 3), "p95": round(p95, 3)}
        return {
            "device": self.device,
            "fps": round(self.fps, 2),
            "frames": asdict(self.frames),
            "keyframes": self.keyframes,
            "well_received": self.high_quality_inputs,
            "admitted": dict(self.admitted),
            "faults": dict(self.faults.counts),
            "healthy": self.faults.healthy,
            "stages_ms": stages,
        }
