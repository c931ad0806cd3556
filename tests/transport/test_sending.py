"""The sending side of transport: requests for I-frames."""

import time

from receiver.transport.sending import KeyframeRequests


def test_requested_key_frames_are_granted_once_in_an_interval():
    requests = KeyframeRequests(interval=0.2)
    assert not requests.take()  # nobody asked
    requests.ask()
    requests.ask()
    assert requests.take()
    assert not requests.take()
    requests.ask()
    assert not requests.take()  # too soon
    time.sleep(0.25)
    assert requests.take()  # but not forgotten
    time.sleep(0.25)
    assert not requests.take()
