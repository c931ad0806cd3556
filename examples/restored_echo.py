"""An echo over HTTP whose faces are restored: three lines more than aiortc alone needs.

.venv/bin/python examples/restored_echo.py        then POST an SDP offer to http://127.0.0.1:8081/echo
"""

from aiohttp import web
from aiortc import RTCPeerConnection, RTCSessionDescription

from receiver import EnhancedVideoTrack, Enhancer, Generator, receive_h264

GENERATOR = Generator()  # one session for all calls
CALLS: set[RTCPeerConnection] = set()


async def echo(request: web.Request) -> web.Response:
    call = RTCPeerConnection()
    CALLS.add(call)
    receive_h264(call)  # before the offer is set: aiortc would choose VP8

    @call.on("track")
    def on_track(track):
        restored = track.kind == "video"
        call.addTrack(EnhancedVideoTrack(track, Enhancer(GENERATOR)) if restored else track)

    await call.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
    await call.setLocalDescription(await call.createAnswer())
    return web.Response(text=call.localDescription.sdp, content_type="application/sdp")


async def end_calls(app: web.Application) -> None:
    for call in CALLS:
        await call.close()


app = web.Application()
app.router.add_post("/echo", echo)
app.on_shutdown.append(end_calls)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=8081)
