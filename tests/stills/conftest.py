"""Fixtures for the tests of stills."""

import pytest

from receiver.stills.picture import encode_still


@pytest.fixture
def webp(portrait) -> bytes:
    """A still of 640x480 pixels in at most 40,000 bytes."""
    return encode_still(portrait[0], 40_000)[0]
