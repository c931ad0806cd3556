"""The network between two processes of the calls bench."""

import json
import random
import time
from dataclasses import asdict

import numpy as np
import pytest

from bench.calls.command import parse
from bench.calls.figures import freezes, lag_ms, passage_figures, recovered_s
from bench.calls.link import Conditions, Hole, Link, Phase, Plan, rtp_of
from bench.calls.processes import started
from bench.calls.relay import ADDRESSES, obstacle, relaying
from bench.calls.scenarios import chosen, scenarios
from receiver.errors import InputError

PACKET = bytes(1000)


def through(conditions: Conditions, count: int, every: float = 0.01) -> list[bool]:
    """Returns which of `count` packets arrive."""
    link = Link(1)
    link.conditions = conditions
    for index in range(count):
        link.push(index * every, PACKET)
    return [one.waited is not None for one in link.passages]


def test_a_free_link_delivers_everything_at_once():
    link = Link(0)
    link.push(1.0, PACKET)
    assert link.due(1.0) == [PACKET]
    assert link.next_at() == float("inf")


@pytest.mark.parametrize("burst", [None, 4])
def test_the_share_of_lost_packets(burst):
    arrived = through(Conditions(loss=0.1, burst=burst), 20000)
    assert 1 - sum(arrived) / len(arrived) == pytest.approx(0.1, abs=0.015)
    runs = "".join("01"[one] for one in arrived).split("1")
    lengths = [len(run) for run in runs if run]
    expected = 1 / 0.9 if burst is None else burst
    assert sum(lengths) / len(lengths) == pytest.approx(expected, rel=0.1)


def test_an_outage_loses_everything():
    assert not any(through(Conditions(loss=1.0), 100))


def test_the_same_seed_loses_the_same_packets():
    lossy = Conditions(loss=0.2)
    assert through(lossy, 500) == through(lossy, 500)


def test_delay_and_jitter_keep_the_order():
    link = Link(3)
    link.conditions = Conditions(delay_ms=25, jitter_ms=50)
    packets = [bytes([index]) for index in range(100)]
    for index, packet in enumerate(packets):
        link.push(index * 0.01, packet)
    assert link.due(0.0249) == []
    assert link.next_at() >= 0.025
    assert link.due(2.0) == packets
    assert max(link.late) < 2.0


def test_a_limited_link_queues_and_then_drops_the_tail():
    link = Link(0)
    link.conditions = Conditions(kbps=80, queue_ms=500)  # 0.1 s a packet, five in the queue
    for _ in range(8):
        link.push(0.0, PACKET)
    left = [len(link.due(0.05 + 0.1 * step)) for step in range(8)]
    assert left == [0, 1, 1, 1, 1, 1, 1, 0]
    waits = [one.waited for one in link.passages]
    assert waits.count(None) == 2
    assert [wait for wait in waits if wait is not None] == pytest.approx(
        [0.1 * n for n in range(6)]
    )


def test_a_queue_drains_at_once_when_the_limit_ends():
    link = Link(0)
    link.conditions = Conditions(kbps=80)
    for _ in range(4):
        link.push(0.0, PACKET)
    link.conditions = Conditions()
    assert len(link.due(0.1)) == 4


def rtp(ssrc: int, number: int, kind: int = 96) -> bytes:
    """Returns an IPv4 packet that contains UDP and RTP."""
    header = bytes([0x45, *bytes(8), 17, *bytes(10)]) + bytes(8)
    return (
        header
        + bytes([0x80, kind])
        + number.to_bytes(2, "big")
        + bytes(4)
        + ssrc.to_bytes(4, "big")
    )


def test_reading_rtp():
    assert rtp_of(rtp(7, 9)) == (7, 9)
    assert rtp_of(rtp(7, 9, kind=200)) is None  # RTCP
    assert rtp_of(random.Random(0).randbytes(5)) is None
    assert rtp_of(b"") is None


def test_one_packet_never_arrives():
    hole = Hole(1.0, ssrc=7, rtx=8)
    assert not hole.swallows(0.9, rtp(7, 1))
    assert not hole.swallows(1.1, rtp(8, 1))  # repeats another packet
    assert hole.swallows(1.1, rtp(7, 2))
    assert not hole.swallows(1.2, rtp(7, 3))
    assert hole.swallows(1.3, rtp(8, 2))
    assert hole.swallows(1.4, rtp(7, 2))
    assert not hole.swallows(2.2, rtp(8, 3))
    assert hole.made_at == 1.1


def test_a_plan_survives_json():
    phases = (Phase(0, Conditions(loss=0.1)), Phase(5, Conditions(kbps=300)))
    plan = Plan(phases, seed=3, hole_s=2.0)
    assert Plan.from_json(json.dumps(asdict(plan))) == plan


LEFT = np.concatenate([np.arange(0, 3, 0.04), np.arange(5, 8, 0.04)])


def test_a_freeze_may_be_at_the_end():
    assert freezes(LEFT, 8.0) == pytest.approx([5 - 2.96])
    assert freezes(LEFT, 9.0) == pytest.approx([5 - 2.96, 9 - 7.96])


def test_lag_is_against_the_fastest_frame():
    taken = LEFT - np.where(LEFT > 5, 0.5, 0.1)
    assert lag_ms(LEFT, taken) == pytest.approx(400)


def test_recovery_needs_an_enhanced_frame_and_a_second_without_a_freeze():
    enhanced = (LEFT < 3) | (LEFT > 5.5)
    assert recovered_s(LEFT, enhanced, 2.5, 8.0) == pytest.approx(3.02, abs=0.03)
    assert recovered_s(LEFT, enhanced, 1.0, 8.0) == pytest.approx(0.0, abs=0.05)
    assert recovered_s(LEFT, enhanced, 2.5, 6.0) is None


def test_figures_of_a_limited_link():
    scenario = scenarios(30)["limit-change"]
    passages = [[0.1 * index, 1000, 0.1] for index in range(300)] + [[12.0, 1000, None]]
    found = passage_figures(passages, scenario, 30)
    assert found["limited_kbps"] == pytest.approx(80, abs=1)
    assert found["queue_ms"]["median"] == pytest.approx(100)
    assert found["lost"] == 1 / 301


def test_scenarios_by_name():
    assert list(chosen("hole,free", 10)) == ["hole", "free"]
    with pytest.raises(InputError, match="no scenario 'holes'"):
        chosen("holes", 10)
    with pytest.raises(InputError, match="too short"):
        parse(["--seconds", "nan"])


ECHO = """
import json, socket, sys
print("{}", flush=True)
sys.stdin.readline()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind((sys.argv[1], 5000))
print("{}", flush=True)
udp.sendto(*udp.recvfrom(100))
sys.stdin.readline()
"""
PING = """
import json, socket, sys, time
print("{}", flush=True)
sys.stdin.readline()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(5)
began = time.monotonic()
udp.sendto(b"hello", (sys.argv[1], 5000))
assert udp.recv(100) == b"hello"
print(json.dumps({"took": time.monotonic() - began}), flush=True)
"""


@pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))
def test_a_packet_there_and_back(tmp_path):
    plan = Plan((Phase(0, Conditions(delay_ms=50)),), seed=0)
    with (
        started("ping", ["-c", PING, ADDRESSES[1]], tmp_path, namespace=True) as ping,
        started("echo", ["-c", ECHO, ADDRESSES[1]], tmp_path, namespace=True) as echo,
    ):
        assert ping.answer() == echo.answer() == {}
        with relaying(ping, echo, plan, tmp_path) as relay:
            relay.tell(begin=time.monotonic())
            echo.tell()
            echo.answer()
            ping.tell()
            assert ping.answer()["took"] >= 0.1  # two delays of 50 ms
            log = relay.finish()
    assert [passage[2] for passage in log["passages"]] == [0.0]
