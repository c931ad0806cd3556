"""Bitrates at which the received picture is as good as the restored one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.common.judging import BASIC
from bench.common.rates import equivalent_kbps
from bench.metrics.people import bootstrap_interval


@dataclass(frozen=True)
class Point:
    """One clip at one target bitrate.

    Attributes:
        person: who the clip shows.
        clip: the file's name.
        target: what the encoder was asked for, in kbit/s.
        stream_kbps: what it sent: encoders miss their targets.
        still_kbps: bitrate of the stills.
        input_quality: figures of the received frames, enlarged, by the names of `BASIC`.
        quality: the same of the restored frames.
    """

    person: str
    clip: str
    target: float
    stream_kbps: float
    still_kbps: float
    input_quality: dict[str, float]
    quality: dict[str, float]

    @property
    def kbps(self) -> float:
        """The bitrate of stream and stills."""
        return self.stream_kbps + self.still_kbps


def ratio_of(point: Point, points: list[Point], metric: str) -> float | None:
    """Returns the received clip's equivalent rate over the rate sent; None if it is unknown."""
    same = [one for one in points if one.clip == point.clip]
    rates, qualities = [p.stream_kbps for p in same], [p.input_quality[metric] for p in same]
    wanted = equivalent_kbps(rates, qualities, point.quality[metric])
    return None if wanted is None else wanted / point.kbps


@dataclass(frozen=True)
class Mean:
    """Means over people at one target, by metric; see `Point`.

    Attributes:
        people: their number.
        with_ratio: number of people whose ratio is known, the only ones that count in `ratio`.
        ratio: equivalent bitrate over the bitrate sent; None if no person's ratio is known.
        interval: 95 % interval of the ratio.
    """

    target: float
    people: int
    stream_kbps: float
    kbps: float
    input_quality: dict[str, float]
    quality: dict[str, float]
    with_ratio: dict[str, int]
    ratio: dict[str, float | None]
    interval: dict[str, tuple[float, float] | None]


def means_of(points: list[Point]) -> list[Mean]:
    """Returns the means of each target. A person's clips count as one."""
    means = []
    for target in sorted({point.target for point in points}):
        chosen = [point for point in points if point.target == target]
        ratios = {
            metric: _by_person([(one.person, ratio_of(one, points, metric)) for one in chosen])
            for metric in BASIC
        }
        mean = Mean(
            target,
            len({point.person for point in chosen}),
            _mean([(point.person, point.stream_kbps) for point in chosen]),
            _mean([(point.person, point.kbps) for point in chosen]),
            {m: _mean([(p.person, p.input_quality[m]) for p in chosen]) for m in BASIC},
            {m: _mean([(p.person, p.quality[m]) for p in chosen]) for m in BASIC},
            {metric: len(found) for metric, found in ratios.items()},
            {m: float(np.mean(found)) if found else None for m, found in ratios.items()},
            {m: bootstrap_interval(found) if found else None for m, found in ratios.items()},
        )
        means.append(mean)
    return means


def _mean(values: list[tuple[str, float]]) -> float:
    """Returns the mean over people of the values of their clips."""
    return float(np.mean(_by_person([*values])))


def _by_person(values: Sequence[tuple[str, float | None]]) -> list[float]:
    """Returns the mean of each person's known values; leaves out people without one."""
    known: dict[str, list[float]] = {}
    for person, value in values:
        if value is not None:
            known.setdefault(person, []).append(value)
    return [float(np.mean(found)) for found in known.values()]
