"""Explains why frames were not restored."""

from typing import Literal, NamedTuple

BUSY = 0.1
"""Share of frames not restored in time above which a machine counts as too busy."""


class Reason(NamedTuple):
    """Why frames were not restored: in a word, and as a clause of a sentence."""

    kind: Literal["nothing came", "high quality", "failed", "busy", "no face"]
    clause: str


def why_not_restored(
    received: int, enhanced: int, high_quality_inputs: int = 0, skipped: int = 0, failed: int = 0
) -> Reason | None:
    """Returns why frames were not restored; None if enough of them were.

    Args:
        received: number of all frames.
        enhanced: frames that were restored.
        high_quality_inputs: frames whose faces needed no restoration.
        skipped: frames that were passed through because they would have been late.
        failed: frames whose enhancement raised an error.
    """
    if not received:
        return Reason("nothing came", "no frame arrived")
    if high_quality_inputs > max(enhanced, skipped, failed):
        what = "frames needed no restoration"
        return Reason("high quality", f"{high_quality_inputs} of {received} {what}")
    if failed > BUSY * received:
        return Reason("failed", f"restoring {failed} of {received} frames failed")
    if skipped > BUSY * received:
        what = "frames were passed through, because restoring them would have delayed them"
        return Reason("busy", f"this machine was too busy: {skipped} of {received} {what}")
    return None if enhanced else Reason("no face", "no face was found")
