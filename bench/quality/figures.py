"""Figures of faces and whole frames, by person and as means over people."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from bench.common.jobs import Job
from bench.common.rates import equivalent_kbps
from bench.common.sequences import RECEIVED
from bench.metrics.people import bootstrap_interval

Region: TypeAlias = Literal["face", "frame"]
REGIONS: dict[Region, str] = {"face": "the face", "frame": "the whole frame"}
"""What is judged, and its name in titles."""


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        label: its name, with its unit.
        form: the format of its values.
        better: which values are better: higher, lower, or those nearer to 1.
        missing: shown instead if it was not measured.
    """

    label: str
    form: str
    better: Literal["up", "down", "one"] = "up"
    missing: str = "not measured"

    def improves(self, before: float, after: float) -> bool:
        """Returns whether `after` is better than `before`."""
        return self.badness(after) < self.badness(before)

    def badness(self, value: float) -> float:
        """Returns a number that is larger for worse values."""
        if self.better == "one":
            return abs(value - 1)
        return -value if self.better == "up" else value

    @property
    def title(self) -> str:
        """Label and direction, as in the title of a table."""
        return f"{self.label}, {'1 is the original’s' if self.better == 'one' else self.better}"


METRICS = {
    "vmaf_neg": Metric("VMAF-NEG", ".1f"),
    "psnr": Metric("PSNR dB", ".2f"),
    "ssim": Metric("SSIM", ".3f"),
    "ms_ssim": Metric("MS-SSIM", ".4f"),
    "vmaf": Metric("VMAF", ".1f"),
    "xpsnr": Metric("XPSNR dB", ".2f"),
    "st_lpips": Metric("ST-LPIPS", ".3f", "down"),
    "lpips": Metric("LPIPS", ".3f", "down", "no weights"),
    "brisque": Metric("BRISQUE", ".1f", "down"),
    "niqe": Metric("NIQE", ".2f", "down"),
    "identity": Metric("identity distance (dlib)", ".3f", "down"),
    "mobileface": Metric("identity distance (MobileFace)", ".3f", "down", "no network"),
    "jitter": Metric("landmark jitter px", ".2f", "down"),
    "flicker": Metric("flicker", ".2f", "one"),
    "warping": Metric("warping error, thousandths", ".2f", "down"),
}
"""All metrics by name, in the order of the tables."""

Figures = dict[str, float | None]
"""Means by metric; None for a metric that was not measured."""


@dataclass(frozen=True)
class Row:
    """Means over the frames of one clip.

    Attributes:
        person: who the clip shows.
        encoding: name of the sender.
        way: `received`, model and protocol, or a rival's name.
        region: what was judged.
        sent: width and height of the received frames.
        qp: their mean QP; None if unknown.
        kbps: bitrate of the stream and of what was sent in addition.
    """

    person: str
    encoding: str
    way: str
    region: Region
    sent: tuple[int, int]
    qp: float | None
    kbps: float
    figures: Figures


def rows_of(job: Job, result: dict[str, Any]) -> list[Row]:
    """Returns the rows of a finished job."""
    return [
        Row(
            job.person,
            job.key["encoding"],
            way,
            region,
            tuple(result["sent"]),
            result["qp"],
            found["kbps"],
            found[region],
        )
        for way, found in result["ways"].items()
        for region in REGIONS
    ]


def by_person(rows: Iterable[Row]) -> list[Row]:
    """Returns one row for each person, encoding, way and region: the mean of the person's clips."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.person, row.encoding, row.way, row.region), []).append(row)
    merged = []
    for same in groups.values():
        first = same[0]
        known = [row.qp for row in same if row.qp is not None]
        figures = {name: _mean([row.figures.get(name) for row in same]) for name in METRICS}
        qp, kbps = (_mean(known) if known else None), float(np.mean([row.kbps for row in same]))
        merged.append(
            Row(
                first.person,
                first.encoding,
                first.way,
                first.region,
                first.sent,
                qp,
                kbps,
                figures,
            )
        )
    return merged


def _mean(values: list[Any]) -> float | None:
    return None if None in values else float(np.mean(values))


@dataclass(frozen=True)
class Mean:
    """One metric of one encoding, way and region over people, with 95 % intervals.

    Attributes:
        people: their number.
        mean: mean of the people's values.
        worst: the worst of their values.
        worst_person: whose that is.
        gain: mean of the people's gains over the received frames.
        least: the worst of their gains.
        least_person: whose that is.
        improved: number of people with a better value than the received frames.
    """

    encoding: str
    way: str
    region: Region
    metric: str
    people: int
    mean: float
    interval: tuple[float, float]
    worst: float
    worst_person: str
    gain: float
    gain_interval: tuple[float, float]
    least: float
    least_person: str
    improved: int


def means_of(rows: list[Row]) -> list[Mean]:
    """Returns a mean for each encoding, way, region and metric that all people have.

    Takes rows as `by_person` returns them; intervals resample the people.
    """
    received = {(row.encoding, row.region, row.person): row for row in rows if row.way == RECEIVED}
    means = []
    for encoding, way, region in dict.fromkeys((r.encoding, r.way, r.region) for r in rows):
        chosen = [r for r in rows if (r.encoding, r.way, r.region) == (encoding, way, region)]
        before = [received[encoding, region, row.person] for row in chosen]
        for name in METRICS:
            pairs = [
                (row.person, row.figures[name], old.figures[name])
                for row, old in zip(chosen, before, strict=True)
            ]
            known = [(p, a, b) for p, a, b in pairs if a is not None and b is not None]
            if len(known) == len(pairs):
                means.append(_mean_of(encoding, way, region, name, known))
    return means


def _mean_of(
    encoding: str, way: str, region: Region, name: str, known: list[tuple[str, float, float]]
) -> Mean:
    metric = METRICS[name]
    values, gains = [a for _, a, _ in known], [a - b for _, a, b in known]
    worst = max(known, key=lambda one: metric.badness(one[1]))
    least = max(known, key=lambda one: metric.badness(one[1]) - metric.badness(one[2]))
    return Mean(
        encoding,
        way,
        region,
        name,
        len(known),
        float(np.mean(values)),
        bootstrap_interval(values),
        worst[1],
        worst[0],
        float(np.mean(gains)),
        bootstrap_interval(gains),
        least[1] - least[2],
        least[0],
        sum(metric.improves(b, a) for _, a, b in known),
    )


def bit_ratios(
    rows: list[Row], encoding: str, way: str, region: Region, metric: str
) -> list[float]:
    """Returns each person's rate ratio of a way to show the frames; leaves out unknown ones.

    That is the rate at which the same encoder's received frames are as good, over the rate that was
    really sent, stills included: 2 means half the bits. It is unknown beyond the person's curve.
    """
    ratios = []
    for row in rows:
        wanted = row.figures[metric]
        if (row.encoding, row.way, row.region) != (encoding, way, region) or wanted is None:
            continue
        curve = [
            (one.kbps, value)
            for one in rows
            if (one.person, one.way, one.region) == (row.person, RECEIVED, region)
            and encoder_of(one.encoding) == encoder_of(encoding)
            and (value := one.figures[metric]) is not None
        ]
        rates, qualities = map(list, zip(*curve, strict=True))
        wanted_kbps = equivalent_kbps(rates, qualities, wanted)
        if wanted_kbps is not None:
            ratios.append(wanted_kbps / row.kbps)
    return ratios


def encoder_of(encoding: str) -> str:
    """Returns the encoder of a sender's name, such as `x264`, with the size if it is fixed."""
    if encoding.startswith("crf"):
        return "crf"
    encoder, _, rate = encoding.partition("-")
    return encoder + rate[len(rate.partition("@")[0]) :]
