"""Media over RTP: access units, losses, bandwidth, and what aiortc lacks for them."""
