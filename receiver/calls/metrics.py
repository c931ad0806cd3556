"""Reports the figures of rooms as JSON (`/stats`) and for Prometheus (`/metrics`).

`METRICS` lists the metrics. Those of a room have the label `room`, and its counters start at 0 with
each call. Those of stills are absent if the publisher opened no channel for them, those of packets
with aiortc's own transport, and those of the quality level if the server manages none.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from receiver.calls.rooms import Room, Side
from receiver.enhance.quality import Quality

Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily

METRICS = {
    "receiver_frames_received_total": "Frames received.",
    "receiver_frames_enhanced_total": "Frames that a stage changed: restored faces, for example.",
    "receiver_frames_passed_total": "Frames that no stage changed.",
    "receiver_frames_skipped_total": "Of those: frames that would have been late, or were.",
    "receiver_frames_failed_total": "Of those: frames whose enhancement raised an error.",
    "receiver_frames_dropped_total": "Frames replaced by a newer one before their turn.",
    "receiver_frames_per_second": "Frames that leave, a second.",
    "receiver_stage_seconds": "Time of a `stage`, as the `quantile` 0.5 or 0.95.",
    "receiver_faults_total": "Errors that the call continued without, by `part`.",
    "receiver_healthy": "1 if no part fails now, otherwise 0.",
    "receiver_keyframes": "Keyframes held for the faces on screen.",
    "receiver_viewers": "Viewers that are connected or about to be.",
    "receiver_stills_requested_total": "Stills requested from the publisher.",
    "receiver_stills_received_total": "Stills received and decoded.",
    "receiver_stills_refused_total": "Stills that the publisher refused.",
    "receiver_stills_rejected_total": "Stills that broke the protocol or could not be decoded.",
    "receiver_stills_timed_out_total": "Stills that did not arrive in time.",
    "receiver_stills_ignored_total": "Messages of the channel that nothing had requested.",
    "receiver_stills_bytes_total": "Bytes of stills, used or not.",
    "receiver_packets_requested_total": "Video packets requested again (NACK).",
    "receiver_packets_recovered_total": "Video packets that arrived after such a request.",
    "receiver_packets_late_total": "Video packets that arrived too late, or twice.",
    "receiver_packet_gaps_total": "Gaps skipped, each with a request for an I-frame.",
    "receiver_round_trip_seconds": "Time from a NACK to its answer.",
    "receiver_bandwidth_bytes_per_second": "Rate that the publisher is allowed to send (REMB).",
    "receiver_network_queue_seconds": "Time that the latest packets waited in the network.",
    # Of the server, for tokens that may read the figures of all rooms:
    "receiver_rooms_limit": "Calls at once.",
    "receiver_never_connected_total": "Sessions closed because they did not connect, by `role`.",
    "receiver_quality_level": "1 for the `level` that all calls have now.",
    "receiver_quality_changes_total": "Changes of it since the start.",
}
"""Every metric and its meaning."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of Prometheus' text format."""
TRANSPORT = {
    "asked_for": "packets_requested",
    "recovered": "packets_recovered",
    "late": "packets_late",
    "holes": "packet_gaps",
    "round_trip_ms": "round_trip_ms",
    "told_kbps": "bandwidth_kbps",
    "queue_ms": "network_queue_ms",
}
"""Keys of `/stats` for the attributes of `TransportStats`."""
BASE_UNITS = {
    "round_trip_ms": ("round_trip_seconds", 1e-3),
    "bandwidth_kbps": ("bandwidth_bytes_per_second", 125.0),
    "network_queue_ms": ("network_queue_seconds", 1e-3),
}
"""Metrics of a key of `/stats` in another unit, and the factor to the metric's unit."""


def room_stats(room: Room) -> dict[str, Any]:
    """Returns all figures of a room, ready for JSON. Stages and rates are in ms and kbit/s."""
    stats = room.stats.snapshot()
    admitted = stats["admitted"]
    channel = room.requester.stills
    transport = room.receiver and room.receiver.transport_stats()
    return {
        "device": stats["device"],
        "fps": stats["fps"],
        "frames": stats["frames"],
        "high_quality_inputs": room.stats.high_quality_inputs,
        "keyframes": stats["keyframes"],
        "admitted": {source: admitted[source] for source in ("stream", "still")},
        "refused": {"unknown_person": admitted["nobody's"], "worse": admitted["worse"]},
        "faults": stats["faults"],
        "healthy": stats["healthy"],
        "stages_ms": {name.replace(" ", "_"): ms for name, ms in stats["stages_ms"].items()},
        "viewers": room.viewer_count,
        "never_connected": room.never_connected["viewer"],
        "refused_tracks": room.refused_tracks,
        "qp": room.qp,
        "stills": None if channel is None else asdict(channel.counts),
        "transport": transport and {TRANSPORT[name]: value for name, value in transport.items()},
    }


def render_metrics(*collectors: Collector) -> bytes:
    """Returns the metrics of all collectors in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return generate_latest(registry)


class RoomCollector(Collector):
    """Collects the metrics of rooms."""

    def __init__(self, rooms: Mapping[str, Room]) -> None:
        self._rooms = rooms

    def collect(self) -> Iterator[Metric]:
        """Yields each metric once, with one sample a room or more."""
        families: dict[str, Family] = {}
        for room in list(self._rooms.values()):
            for metric, labels, value in _samples(room_stats(room)):
                if metric not in families:
                    families[metric] = _family(metric, ["room", *labels])
                families[metric].add_metric([room.name, *labels.values()], value)
        yield from families.values()


class ServerCollector(Collector):
    """Collects the metrics that are the same for all rooms."""

    def __init__(
        self,
        capacity: int,
        quality: Quality | None,
        never_connected: Callable[[], Mapping[Side, int]],
    ) -> None:
        """`capacity` is the number of calls at once; without `quality` its metrics are absent."""
        self._capacity, self._quality = capacity, quality
        self._never_connected = never_connected

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics of the server."""
        limit = _family("receiver_rooms_limit", [])
        limit.add_metric([], self._capacity)
        yield limit
        sessions = _family("receiver_never_connected_total", ["role"])
        for role, count in self._never_connected().items():
            sessions.add_metric([role], count)
        yield sessions
        if self._quality is None:
            return
        level = _family("receiver_quality_level", ["level"])
        level.add_metric([self._quality.level.name], 1)
        yield level
        changes = _family("receiver_quality_changes_total", [])
        changes.add_metric([], self._quality.changes)
        yield changes


def _samples(stats: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yields the metrics of a room's `room_stats`: name, labels other than `room`, and value."""
    for name, count in stats["frames"].items():
        yield f"receiver_frames_{name}_total", {}, count
    yield "receiver_frames_per_second", {}, stats["fps"]
    for stage, times in stats["stages_ms"].items():
        for quantile, key in (("0.5", "median"), ("0.95", "p95")):
            labels = {"stage": stage, "quantile": quantile}
            yield "receiver_stage_seconds", labels, times[key] / 1e3
    for part, count in stats["faults"].items():
        yield "receiver_faults_total", {"part": part}, count
    for name in ("healthy", "keyframes", "viewers"):
        yield f"receiver_{name}", {}, stats[name]
    for name, count in (stats["stills"] or {}).items():
        yield f"receiver_stills_{name}_total", {}, count
    for name, value in (stats["transport"] or {}).items():
        metric, factor = BASE_UNITS.get(name, (f"{name}_total", 1.0))
        if value is not None:
            yield f"receiver_{metric}", {}, value * factor


def _family(metric: str, labels: list[str]) -> Family:
    """Returns an empty family for one of `METRICS`: a counter if its name ends in `_total`."""
    kind = CounterMetricFamily if metric.endswith("_total") else GaugeMetricFamily
    return kind(metric, METRICS[metric], labels=labels)
