"""RTP to access units, and what aiortc needs for it."""
