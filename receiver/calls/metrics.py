"""Reports the figures of rooms as JSON and for Prometheus."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from receiver.calls.rooms import Room, Side
from receiver.enhance.quality import Quality


def room_stats(room: Room) -> dict[str, Any]:
    """Everything that is known of a room, ready for JSON."""
    channel = room.requester.stills
    stills = None if channel is None else asdict(channel.counts)
    return room.stats.snapshot() | {
        "viewers": room.viewer_count,
        "never_connected": room.never_connected["viewer"],
        "refused_tracks": room.refused_tracks,
        "qp": room.qp,
        "stills": stills,
        "transport": room.receiver and room.receiver.transport_stats(),
    }


class RoomCollector(Collector):
    """The rooms' figures as Prometheus asks for them."""

    def __init__(self, rooms: dict[str, Room]) -> None:
        self._rooms = rooms

    def collect(self) -> Iterator[Metric]:
        frames = GaugeMetricFamily(
            "receiver_frames", "Frames since the call's start.", labels=["room", "what"]
        )
        seconds = GaugeMetricFamily(
            "receiver_stage_seconds", "Time a stage.", labels=["room", "stage", "quantile"]
        )
        faults = GaugeMetricFamily(
            "receiver_faults", "Failures that the call went on without.", labels=["room", "what"]
        )
        stills = GaugeMetricFamily(
            "receiver_stills", "Stills asked of the publisher, and bytes.", labels=["room", "what"]
        )
        transport = GaugeMetricFamily(
            "receiver_transport",
            "Of the publisher's video: packets asked for, recovered and late, holes, kbit/s told.",
            labels=["room", "what"],
        )
        now = {
            name: GaugeMetricFamily(f"receiver_{name}", about, labels=["room"])
            for name, about in (
                ("fps", "Frames a second that leave."),
                ("keyframes", "Keyframes held."),
                ("viewers", "Viewers."),
                ("healthy", "1 where nothing fails now, else 0."),
            )
        }
        for room in list(self._rooms.values()):
            stats = room_stats(room)
            for what, count in stats["frames"].items():
                frames.add_metric([room.name, what], count)
            for what, count in stats["faults"].items():
                faults.add_metric([room.name, what], count)
            for stage, times in stats["stages_ms"].items():
                seconds.add_metric([room.name, stage, "0.5"], times["median"] / 1e3)
                seconds.add_metric([room.name, stage, "0.95"], times["p95"] / 1e3)
            for what, count in (stats["stills"] or {}).items():
                stills.add_metric([room.name, what], count)
            for what, value in (stats["transport"] or {}).items():
                if value is not None:
                    transport.add_metric([room.name, what], value)
            for name, metric in now.items():
                metric.add_metric([room.name], stats[name])
        yield from (frames, seconds, faults, stills, transport, *now.values())


class ServerCollector(Collector):
    """What is the same for all rooms."""

    def __init__(
        self,
        capacity: int,
        quality: Quality | None,
        never_connected: Callable[[], dict[Side, int]],
    ) -> None:
        self._capacity, self._quality = capacity, quality
        self._never_connected = never_connected

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("receiver_capacity", "Calls at once.", value=self._capacity)
        about = "Sessions that were closed because they did not connect."
        sessions = CounterMetricFamily("receiver_never_connected", about, labels=["role"])
        for role, count in self._never_connected().items():
            sessions.add_metric([role], count)
        yield sessions
        if self._quality is not None:
            about = "1 for the quality that all calls have now."
            level = GaugeMetricFamily("receiver_quality", about, labels=["level"])
            level.add_metric([self._quality.level.name], 1)
            yield level
            yield GaugeMetricFamily(
                "receiver_quality_changes",
                "Changes of it since the start.",
                value=self._quality.changes,
            )
