"""The targets of `python -m bench fuzz` by name."""

from bench.fuzz import client, files, frames, server, stills, video
from bench.fuzz.target import BETWEEN, Target

TARGETS = {
    "rtp": Target(video.rtp, video.rtp_seeds, BETWEEN, "packets"),
    "decode": Target(video.decode, video.decode_seeds, BETWEEN, "access units"),
    "losses": Target(video.losses, video.losses_seeds),
    "stills": Target(stills.stills, stills.stills_seeds, BETWEEN, "messages"),
    "sdp": Target(server.sdp, server.sdp_seeds, b"\r\n", "lines"),
    "fragments": Target(server.fragments, server.fragments_seeds, b"\r\n", "lines"),
    "http": Target(server.http, server.http_seeds, b"\r\n", "lines"),
    "models": Target(files.models, files.models_seeds),
    "files": Target(files.files, files.files_seeds),
    "frames": Target(frames.frames, frames.frames_seeds),
    "answers": Target(client.answers, client.answers_seeds, b"\r\n", "lines"),
    "janus": Target(client.janus, client.janus_seeds, BETWEEN, "answers"),
    "links": Target(client.links, client.links_seeds, b"\r\n", "lines"),
    "redirects": Target(client.redirects, client.redirects_seeds, BETWEEN, "answers"),
}
