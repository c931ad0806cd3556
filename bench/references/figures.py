"""Figures of references: means over people, gains, and shares of the raw references' gain."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from bench.common.judging import BASIC
from bench.common.sequences import RECEIVED

FIGURES = {**BASIC, "identity": "identity distance (dlib)"}
"""Labels of the figures that are shown as gains over the received frames, by name."""
SHARED = ("face_vmaf_neg", "face_psnr")
"""Figures whose gain is given as a share of the gain of raw references."""


@dataclass(frozen=True)
class Judged:
    """Means over one person's frames in one scenario.

    Attributes:
        way: `received`, or the origin of the references, see `ways_of`.
        figures: by the names of `FIGURES`, and `reference_kbps`.
    """

    scenario: str
    person: str
    way: str
    figures: dict[str, float]


def by_person(results: Iterable[Judged]) -> list[Judged]:
    """Returns one result for each scenario, person and way: the mean of the person's clips."""
    groups: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for one in results:
        groups.setdefault((one.scenario, one.person, one.way), []).append(one.figures)
    return [
        Judged(*key, {name: float(np.mean([one[name] for one in same])) for name in same[0]})
        for key, same in groups.items()
    ]


def values_of(results: list[Judged], scenario: str, way: str, figure: str) -> list[float]:
    """Returns a figure of each person of a scenario."""
    return [r.figures[figure] for r in results if (r.scenario, r.way) == (scenario, way)]


def gains_of(results: list[Judged], scenario: str, way: str, figure: str) -> list[float]:
    """Returns each person's gain over the received frames."""
    pairs = zip(
        values_of(results, scenario, way, figure),
        values_of(results, scenario, RECEIVED, figure),
        strict=True,
    )
    return [value - before for value, before in pairs]


def shares(results: list[Judged]) -> dict[str, dict[str, float]]:
    """Returns each way's share of what raw references add, by scenario and figure.

    Raw references are those of the first reference set.
    """
    found: dict[str, dict[str, float]] = {}
    ways = list(dict.fromkeys(result.way for result in results))
    raw_way = next(way for way in ways if way.startswith("raw"))
    for scenario in dict.fromkeys(result.scenario for result in results):
        for figure in SHARED:
            means = {way: np.mean(values_of(results, scenario, way, figure)) for way in ways}
            raw = means[raw_way] - means["none"]
            found[f"{scenario}, {FIGURES[figure]}"] = {
                way: round(float((means[way] - means["none"]) / raw), 3) if raw else float("nan")
                for way in ways
                if way not in (RECEIVED, "none", raw_way)
            }
    return found
