"""SDP, WHIP, WHEP and Janus, for clients and the server."""
