"""Publishes an mp4 over WHIP with GStreamer's webrtcbin: gstreamer_whip.py CLIP URL.

Runs under the system's Python, which has GStreamer's bindings.
"""

import sys
import urllib.request

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstWebRTC", "1.0")
gi.require_version("GstSdp", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

clip, url = sys.argv[1:]
Gst.init(None)
pipeline = Gst.parse_launch(
    f"filesrc location={clip} ! qtdemux ! h264parse config-interval=-1 ! identity sync=true "
    "! rtph264pay aggregate-mode=zero-latency "
    "! application/x-rtp,media=video,encoding-name=H264,payload=96,packetization-mode=(string)1"
    f",profile-level-id=(string){sys.argv[3] if len(sys.argv) > 3 else '64001f'} "
    "! webrtcbin name=peer bundle-policy=max-bundle"
)
peer = pipeline.get_by_name("peer")


kept = []  # the bindings free what GStreamer still uses


def description(kind, text):
    _, message = GstSdp.SDPMessage.new()
    GstSdp.sdp_message_parse_buffer(text.encode(), message)
    made = GstWebRTC.WebRTCSessionDescription.new(kind, message)
    kept.extend([message, made])
    return made


def on_offer(promise):
    reply = promise.get_reply()
    offered = reply.get_value("offer")
    kept.extend([promise, reply, offered])
    offer = description(GstWebRTC.WebRTCSDPType.OFFER, offered.sdp.as_text())
    peer.emit("set-local-description", offer, Gst.Promise.new())


def on_gathering(*_):
    if peer.get_property("ice-gathering-state") != GstWebRTC.WebRTCICEGatheringState.COMPLETE:
        return
    local = peer.get_property("local-description")
    kept.append(local)
    sdp = local.sdp.as_text().encode()
    request = urllib.request.Request(url, sdp, {"Content-Type": "application/sdp"})
    answer = urllib.request.urlopen(request, timeout=10).read()
    reply = description(GstWebRTC.WebRTCSDPType.ANSWER, answer.decode())
    peer.emit("set-remote-description", reply, Gst.Promise.new())
    print("answered", flush=True)


peer.connect(
    "on-negotiation-needed",
    lambda element: element.emit("create-offer", None, Gst.Promise.new_with_change_func(on_offer)),
)
peer.connect("notify::ice-gathering-state", lambda *_: GLib.idle_add(on_gathering))
pipeline.set_state(Gst.State.PLAYING)
GLib.MainLoop().run()
