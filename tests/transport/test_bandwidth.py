"""Rates for the sender over links with and without a queue, and on a busy computer."""

import random

import pytest

from receiver.transport.bandwidth import (
    CEILING_KBPS,
    FLOOR_KBPS,
    MOST_SOURCES,
    START_KBPS,
    BandwidthEstimate,
)

PACKET = 250
"""Size of a packet in bytes."""


class Link:
    """A sender that follows REMB, a link with a queue, and a receiver that may be busy."""

    def __init__(self, kbps, *, most_kbps=2500.0, delay_ms=25.0, busy=None, clock_ms=63_000.0):
        self.kbps, self.most_kbps, self.delay_ms = kbps, most_kbps, delay_ms
        self.estimate = BandwidthEstimate()
        self.told, self.queues = [], []  # (ms, kbit/s); (ms, ms)
        self._busy = busy or (lambda now: 0.0)
        self._clock_ms, self._now, self._free = clock_ms, 0.0, 0.0
        self._arrivals = []

    def run(self, seconds):
        """Continues for `seconds`, at 30 fps, with as many packets as the rate allows."""
        end = self._now + 1000 * seconds
        while self._now < end:
            rate = min(self.most_kbps, self.told[-1][1] if self.told else 300.0)
            for _ in range(max(1, round(rate / 30 * 1000 / 8 / PACKET))):
                start = max(self._now, self._free)
                self._free = start + 8 * PACKET / self.kbps
                self.queues.append((self._now, start - self._now))
                self._arrivals.append((self._free + self.delay_ms, self._now))
            self._arrivals.sort()
            while self._arrivals and self._arrivals[0][0] <= self._now:
                self._take(*self._arrivals.pop(0))
            self._now += 1000 / 30

    def _take(self, arrival, sent):
        at = int(arrival + self._busy(arrival))
        ticks = round((sent + self._clock_ms) / 1000 * (1 << 18)) % (1 << 24)
        told = self.estimate.add(at, ticks, PACKET, 7)
        if told is not None:
            assert told[1] == [7]
            self.told.append((self._now, told[0] / 1000))

    def longest_queue(self, since_s):
        return max(queue for at, queue in self.queues if at >= 1000 * since_s)


def test_the_rate_rises_within_two_seconds_on_a_free_link_and_never_falls():
    link = Link(50_000)
    link.run(2.0)
    assert link.told[0][1] == START_KBPS
    assert link.told[-1][1] > 1500
    link.run(40)  # abs-send-time wraps in between
    rates = [kbps for _, kbps in link.told]
    assert rates == sorted(rates)
    assert rates[-1] <= CEILING_KBPS


def test_the_rate_does_not_rise_far_above_what_is_sent():
    link = Link(50_000, most_kbps=150)
    link.run(30)
    assert link.told[-1][1] <= 2.5 * 180 + START_KBPS


def test_the_queue_of_a_narrow_link_stays_short():
    link = Link(300)
    link.run(60)
    assert link.longest_queue(5) < 300
    late = [kbps for at, kbps in link.told if at > 5000]
    assert 100 < sum(late) / len(late) < 330


def test_the_rate_rises_again_when_a_narrow_link_is_free_again():
    link = Link(50_000, most_kbps=1500)
    link.run(10)
    link.kbps = 300
    link.run(15)
    assert link.longest_queue(15) < 300
    link.kbps = 50_000
    link.run(10)
    assert link.told[-1][1] > 800


def test_a_link_that_gets_narrow_is_used_once_its_queue_has_drained():
    link = Link(50_000, most_kbps=1500)
    link.run(10)
    link.kbps = 300
    link.run(6)
    assert link.told[-1][1] > 200
    assert link.longest_queue(13) < 300


def test_the_rate_follows_a_link_that_gets_narrower_twice():
    link = Link(50_000, most_kbps=1500)
    link.run(10)
    link.kbps = 300
    link.run(0.7)
    link.kbps = 100
    link.run(40)
    assert link.longest_queue(40) < 300
    assert link.told[-1][1] < 130


def test_a_busy_receiver_does_not_lower_the_rate():
    """A scheduler delays packets by tens of milliseconds while other programs run."""
    chance = random.Random(1)
    held = {}

    def busy(now):
        turn = int(now // 50)
        if turn not in held:
            held[turn] = chance.choice([0, 0, 0, 0, 40, 90])
        return max(0.0, held[turn] - now % 50)

    link = Link(50_000, most_kbps=150, busy=busy)
    link.run(60)
    rates = [kbps for _, kbps in link.told]
    assert min(rates) >= START_KBPS


def test_the_rate_does_not_fall_below_the_floor():
    link = Link(20)
    link.run(60)
    assert min(kbps for _, kbps in link.told) == FLOOR_KBPS


def test_a_slow_clock_of_the_sender_is_not_a_queue():
    estimate, told = BandwidthEstimate(), []
    for number in range(60 * 100):
        sent = number * 10 * (1 - 200e-6)  # ms; 200 ppm
        answer = estimate.add(number * 10, round(sent * (1 << 18) / 1000) % (1 << 24), 100, 7)
        told += [answer[0]] if answer else []
    assert min(told) >= 1000 * START_KBPS


def test_the_number_of_streams_in_a_remb_is_limited():
    estimate = BandwidthEstimate()
    told = [estimate.add(1000 * n, 0, PACKET, ssrc=n) for n in range(1000)]
    assert all(len(ssrcs) <= MOST_SOURCES for _, ssrcs in filter(None, told))
    assert told[-1][1][-1] == 999


@pytest.mark.parametrize("before", [600, 1500, 2500])
def test_packets_from_before_the_queue_do_not_count(before):
    """The first rate after a link has got narrow passes through it."""
    link = Link(50_000, most_kbps=before)
    link.run(10)
    link.kbps = 300
    link.run(2)
    low = [(at, kbps) for at, kbps in link.told if at > 10_000 and kbps < before]
    assert low[0][0] < 10_600
    assert low[0][1] < 300
    assert link.longest_queue(10) < 1.2 * before
