"""What quality is worth in bits."""

import numpy as np


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
