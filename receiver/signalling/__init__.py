"""SDP, WHIP, WHEP and Janus, as a client and as a server."""
