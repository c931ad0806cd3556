"""The networks through which calls are made."""

from dataclasses import dataclass
from typing import Any

from bench.calls.link import Conditions, Phase
from receiver.errors import InputError

FREE_KBPS = 1700
"""The page's cap in kbit/s if a scenario has none: Chromium's own maximum for 640x480."""


OUTAGE = 3.0
"""Seconds without any packet."""


@dataclass(frozen=True)
class Scenario:
    """A network, by name in `scenarios`.

    Attributes:
        phases: conditions by time since the first frame.
        event_s: end of the disturbance from which the call has to recover; None without one.
        hole_s: when one packet of the video is lost for good; None for never.
        cap_kbps: the page's cap on Chromium's bitrate.
    """

    phases: tuple[Phase, ...]
    event_s: float | None = None
    hole_s: float | None = None
    cap_kbps: int = FREE_KBPS


def scenarios(seconds: float) -> dict[str, Scenario]:
    """Returns all scenarios by name, for calls of this many seconds."""
    near, third = Conditions(delay_ms=25), seconds / 3

    def steady(**conditions: Any) -> Scenario:
        return Scenario((Phase(0, Conditions(**conditions)),))

    limited = Conditions(delay_ms=25, kbps=300)
    gone = Conditions(delay_ms=25, loss=1)
    changing = Phase(0, near), Phase(third, limited), Phase(2 * third, near)
    broken = Phase(0, near), Phase(third, gone), Phase(third + OUTAGE, near)
    return {
        "free": steady(),
        **{f"rtt-{rtt}": steady(delay_ms=rtt / 2) for rtt in (50, 100, 300)},
        **{f"loss-{loss}": steady(delay_ms=25, loss=loss / 100) for loss in (1, 5, 10, 20)},
        **{
            f"burst-{loss}": steady(delay_ms=25, loss=loss / 100, burst=5)
            for loss in (1, 5, 10, 20)
        },
        **{f"jitter-{ms}": steady(delay_ms=25, jitter_ms=ms) for ms in (30, 100)},
        "limit-300": Scenario((Phase(0, limited),)),
        "limit-change": Scenario(changing, event_s=2 * third),
        "outage": Scenario(broken, event_s=third + OUTAGE),
        "hole": Scenario((Phase(0, near),), event_s=third, hole_s=third, cap_kbps=150),
    }


def chosen(only: str | None, seconds: float) -> dict[str, Scenario]:
    """Returns the scenarios of --only, or all. Raises InputError for an unknown name."""
    known = scenarios(seconds)
    names = list(known) if only is None else only.split(",")
    for name in names:
        if name not in known:
            raise InputError(f"there is no scenario {name!r}: choose from {', '.join(known)}")
    return {name: known[name] for name in names}
