"""Figures of real calls in `/stats` and `/metrics`: names, units and completeness."""

import dataclasses
import re
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families as parse

from receiver.calls.metrics import METRICS, TRANSPORT
from receiver.stats import FrameCounts
from receiver.stills.receiver import StillCounts
from receiver.transport.receiving import TransportStats
from tests.calls.peer import Peer, serving

UNITS = ("_total", "_seconds", "_per_second", "_limit", "_level")
WITHOUT_UNIT = {"receiver_healthy", "receiver_keyframes", "receiver_viewers"}


def names(kind):
    return {field.name for field in dataclasses.fields(kind)}


def test_every_figure_has_a_metric():
    assert {f"receiver_frames_{name}_total" for name in names(FrameCounts)} <= METRICS.keys()
    assert {f"receiver_stills_{name}_total" for name in names(StillCounts)} <= METRICS.keys()
    assert names(TransportStats) == TRANSPORT.keys()


def test_names_follow_prometheus():
    for name in METRICS:
        assert re.fullmatch(r"receiver_[a-z]+(_[a-z]+)*", name)
        assert name.endswith(UNITS) or name in WITHOUT_UNIT, name


async def test_a_call_is_reported_in_both_formats(generator, http):
    async with serving(generator) as (server, base):
        publisher, viewer = Peer(http, base), Peer(http, base)
        await publisher.publish()
        await viewer.watch()
        await viewer.frames(10)
        room = server.rooms["room"]
        assembler = room.receiver._assembler
        assembler.asked_for, assembler.round_trip = 7, 0.25
        stats = (await (await http.get(base + "/stats")).json())["room"]
        response = await http.get(base + "/metrics")
        assert response.content_type == "text/plain"
        families = {family.name: family for family in parse(await response.text())}
        await publisher.close()
        await viewer.close()
    assert all(re.fullmatch("[a-z0-9_]+", key) for key in [*stats, *stats["stages_ms"]])
    assert {"high_quality_inputs", "admitted", "refused"} <= stats.keys()
    assert "added_latency" in stats["stages_ms"]
    assert stats["refused"] == {"unknown_person": 0, "worse": 0}
    assert (stats["transport"]["packets_requested"], stats["stills"]) == (7, None)
    assert stats["transport"]["round_trip_ms"] == 250.0

    def value(name, **labels):
        (found,) = (
            sample.value
            for family in families.values()
            for sample in family.samples
            if (sample.name, sample.labels) == (name, labels)
        )
        return found

    room = {"room": "room"}
    assert value("receiver_frames_received_total", **room) >= stats["frames"]["received"] >= 10
    assert value("receiver_packets_requested_total", **room) == 7
    assert value("receiver_round_trip_seconds", **room) == 0.25
    assert value("receiver_viewers", **room) == stats["viewers"] == 1
    stage = {"stage": "added_latency", "quantile": "0.5"}
    assert 0 < value("receiver_stage_seconds", **room, **stage) < 10
    kbps = stats["transport"]["bandwidth_kbps"]
    bytes_per_second = value("receiver_bandwidth_bytes_per_second", **room)
    assert 0.2 < bytes_per_second / (kbps * 1000 / 8) < 5  # it changes meanwhile
    assert value("receiver_rooms_limit") == 1
    assert value("receiver_never_connected_total", role="viewer") == 0
    for family in families.values():
        metric = f"{family.name}_total" if family.type == "counter" else family.name
        assert family.documentation == METRICS[metric]
        assert family.type == ("counter" if metric.endswith("_total") else "gauge")


async def test_names_of_rooms_and_parts_are_escaped(generator, http):
    name = 'a",b="1\\\n'
    async with serving(generator) as (server, base):
        publisher = Peer(http, base)
        publisher.connection.addTransceiver("video", direction="sendonly")
        assert (await publisher.negotiate("/whip/" + quote(name))).status == 201
        server.rooms[name].stats.faults.failed(name, ValueError("no reason"))
        text = await (await http.get(base + "/metrics")).text()
        await publisher.close()
    samples = [sample for family in parse(text) for sample in family.samples]
    assert {sample.labels["room"] for sample in samples if "room" in sample.labels} == {name}
    assert {"room": name, "part": name} in [sample.labels for sample in samples]
