"""Bitrates at which the received picture is as good as the restored one."""

from dataclasses import dataclass

import numpy as np

from bench.metrics.people import bootstrap_interval

METRICS = {"vmaf_neg": "VMAF-NEG", "psnr": "PSNR dB"}
"""Labels by metric."""


@dataclass(frozen=True)
class Point:
    """One clip at one target bitrate.

    Attributes:
        target: what the encoder was asked for, in kbit/s.
        stream_kbps: what it sent: encoders miss their targets.
        still_kbps: bitrate of the stills.
        input_quality: means over the faces of the received picture, by metric.
        quality: the same of the restored picture.
    """

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


def equivalent_kbps(rates: list[float], qualities: list[float], wanted: float) -> float | None:
    """Returns the lowest rate at which a curve reaches a quality; None beyond the curve's ends.

    Interpolates linearly in the logarithm of the rate. If more bits lower the quality, the curve
    stays level there.
    """
    curve = sorted(zip(rates, qualities, strict=True))
    x = np.log([rate for rate, _ in curve])
    y = np.maximum.accumulate([quality for _, quality in curve])
    if not y[0] <= wanted <= y[-1]:
        return None
    after = int(np.searchsorted(y, wanted))  # y[after - 1] < wanted <= y[after]
    if after == 0:
        return float(np.exp(x[0]))
    return float(np.exp(np.interp(wanted, y[after - 1 : after + 1], x[after - 1 : after + 1])))


def ratio_of(point: Point, points: list[Point], metric: str) -> float | None:
    """Returns the received clip's equivalent rate over the rate sent; None if it is unknown."""
    same = [one for one in points if one.clip == point.clip]
    rates, qualities = [p.stream_kbps for p in same], [p.input_quality[metric] for p in same]
    wanted = equivalent_kbps(rates, qualities, point.quality[metric])
    return None if wanted is None else wanted / point.kbps


@dataclass(frozen=True)
class Mean:
    """Means over the clips at one target, by metric; see `Point`.

    Attributes:
        clips: their number.
        with_ratio: number of clips whose ratio is known, the only ones that count in `ratio`.
        ratio: equivalent bitrate over the bitrate sent; None if no clip's ratio is known.
        interval: 95 % interval of the ratio.
    """

    target: float
    clips: int
    stream_kbps: float
    kbps: float
    input_quality: dict[str, float]
    quality: dict[str, float]
    with_ratio: dict[str, int]
    ratio: dict[str, float | None]
    interval: dict[str, tuple[float, float] | None]


def means_of(points: list[Point]) -> list[Mean]:
    """Returns the means of each target."""
    means = []
    for target in sorted({point.target for point in points}):
        chosen = [point for point in points if point.target == target]
        ratios = {}
        for metric in METRICS:
            found = [ratio_of(point, points, metric) for point in chosen]
            ratios[metric] = [ratio for ratio in found if ratio is not None]
        mean = Mean(
            target,
            len(chosen),
            float(np.mean([point.stream_kbps for point in chosen])),
            float(np.mean([point.kbps for point in chosen])),
            {m: float(np.mean([p.input_quality[m] for p in chosen])) for m in METRICS},
            {m: float(np.mean([p.quality[m] for p in chosen])) for m in METRICS},
            {metric: len(found) for metric, found in ratios.items()},
            {m: float(np.mean(found)) if found else None for m, found in ratios.items()},
            {m: bootstrap_interval(found) if found else None for m, found in ratios.items()},
        )
        means.append(mean)
    return means
