"""The work of one job of the references bench."""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench.common.call import ORIGINS, Call, Origin
from bench.common.jobs import Captured, generator
from bench.common.judging import basic_figures
from bench.common.sequences import ORIGINAL, RECEIVED, keep_faces, watch
from bench.metrics.faces import identity
from bench.references.scenarios import scenarios, send
from keyframes import Landmarks, Policy

JUDGED_EVERY = 2
"""Frames from one that is judged to the next."""
IDENTITY_EVERY = 15
"""Judged faces from one that is judged by identity, which is slow, to the next."""
TURN = 12.0
"""Crop pixels from the nose's median place at which a head counts as turned."""
MIN_TURNED = 15
"""Minimum number of turned faces that make a clip worth judging."""

ReferenceSet: TypeAlias = tuple[Policy, int]
"""How keyframes are evicted from a reference set, and how many it holds."""


def ways_of(sets: tuple[ReferenceSet, ...]) -> dict[str, tuple[Origin, ReferenceSet]]:
    """Returns the receivers to compare by name: each origin with each reference set."""
    found: dict[str, tuple[Origin, ReferenceSet]] = {}
    for origin in ORIGINS:
        for policy, capacity in sets[:1] if origin == "none" else sets:
            name = f"{origin}, {policy} {capacity}" if len(sets) > 1 else origin
            found["none" if origin == "none" else name] = origin, (policy, capacity)
    return found


def restore(
    name: str,
    seconds: float,
    model: str,
    sets: tuple[ReferenceSet, ...],
    min_face: float,
    clip: Captured,
    folder: Path,
) -> dict[str, dict[str, float]] | None:
    """Returns the figures of each way to show a clip; None if it is not suitable.

    Args:
        name: of the scenario.
        seconds: that are judged.
        model: name or file of the generator.
        sets: reference sets to compare.
        min_face: height in pixels of the detector's box; below it a clip is left out.
        clip: the captured frames. If they are too few for the scenario, it is left out.
        folder: for large files.
    """
    (scenario,) = (one for one in scenarios(seconds) if one.name == name)
    needed = sum(round(part * clip.rate) for _, part in scenario.parts)
    if len(clip.frames) < needed or clip.face_height < min_face:
        return None
    opened = generator(model)
    calls = {
        way: Call(origin, opened, policy=policy, capacity=capacity)
        for way, (origin, (policy, capacity)) in ways_of(sets).items()
    }
    first = round(scenario.judged_from * clip.rate)
    sequence = watch(
        send(clip.frames, clip.rate, scenario),
        clip.rate,
        clip.faces,
        calls,
        folder,
        is_judged=lambda index: index >= first and index % JUDGED_EVERY == 0,
    )
    if scenario.turning:
        keep_faces(sequence, np.flatnonzero(turned(sequence.landmarks)).tolist())
        if len(sequence.boxes) < MIN_TURNED:
            return None
    if not sequence.boxes:
        return None
    figures = {}
    for way in (RECEIVED, *calls):
        pairs = zip(sequence.faces[ORIGINAL], sequence.faces[way], strict=True)
        probes = list(zip(pairs, sequence.landmarks, strict=True))[::IDENTITY_EVERY]
        apart = [np.linalg.norm(identity(a, at) - identity(b, at)) for (a, b), at in probes]
        figures[way] = basic_figures(sequence, way) | {
            "identity": float(np.mean(apart)),
            "reference_kbps": sequence.reference_kbps.get(way, 0.0),
        }
    return figures


def turned(landmarks: list[Landmarks]) -> NDArray[Any]:
    """Returns which of a clip's faces are turned away from their usual direction.

    The tip of the nose moves against the eyes, whose place in the crop is fixed.
    """
    noses = np.array([points[30, 0] for points in landmarks])
    return np.asarray(np.abs(noses - np.median(noses)) > TURN) if len(noses) else noses
