"""A link that gets narrow all at once: the first rate told to the sender is one that passes."""

import pytest

from tests.test_bandwidth import Link


@pytest.mark.parametrize("before", [600, 1500, 2500])
def test_what_came_before_the_queue_does_not_count(before):
    link = Link(50_000, most_kbps=before)
    link.run(10)
    link.kbps = 300
    link.run(2)
    low = [(at, kbps) for at, kbps in link.told if at > 10_000 and kbps < before]
    assert low[0][0] < 10_600
    assert low[0][1] < 300
    assert link.longest_queue(10) < 1.2 * before
