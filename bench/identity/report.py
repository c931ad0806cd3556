"""Tables and plot of the identity bench."""

from collections import Counter
from pathlib import Path

import numpy as np
from rich.table import Table

from bench.identity.distances import Distances
from bench.identity.hostile import VERDICTS, Judged
from keyframes.identity import ENOUGH, SAME_PERSON

KINDS = {"same": "same person", "other": "different people"}
"""Labels by field of `Distances`."""
THRESHOLDS = tuple(round(SAME_PERSON + step, 3) for step in (-0.06, -0.03, 0.0, 0.03, 0.06))


def table(result: Distances) -> Table:
    """Returns the accepted shares, a row for each threshold; one of them is the receiver's."""
    shown = Table(
        "distance below",
        *KINDS.values(),
        title=f"accepted: identity of {ENOUGH} observations against single faces",
    )
    for threshold in THRESHOLDS:
        shares = [f"{100 * result.accepted(kind, threshold):.2f} %" for kind in KINDS]
        mark = " (the receiver's)" if threshold == SAME_PERSON else ""
        shown.add_row(f"{threshold:.3f}{mark}", *shares)
    shown.add_row("pairs", *(f"{len(getattr(result, kind)):,}" for kind in KINDS))
    return shown


def stills_table(judged: Judged) -> Table:
    """Returns the outcomes of genuine and of hostile stills, a row each."""
    verdicts = (*VERDICTS, "waits", "no face")
    shown = Table(
        "stills",
        "sent",
        "admitted",
        *verdicts[1:],
        title="stills as the receiver judges them",
    )
    for name in ("genuine", "hostile"):
        counts: Counter[str] = getattr(judged, name)
        shown.add_row(name, str(counts.total()), *(str(counts[verdict]) for verdict in verdicts))
    return shown


def plot(result: Distances, path: Path) -> None:
    """Plots the distributions of distances and the threshold between them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0.0, 1.2, 121).tolist()
    for kind, label in KINDS.items():
        axes.hist(getattr(result, kind), edges, density=True, histtype="step", label=label)
    axes.axvline(SAME_PERSON, color="black", linewidth=0.8, label="threshold")
    axes.set_xlabel("distance of embeddings")
    axes.set_ylabel("density")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
