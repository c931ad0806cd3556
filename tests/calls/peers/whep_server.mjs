// A WHEP server on libdatachannel: node whep_server.mjs CLIP FFMPEG. Prints its address.
import { spawn } from "node:child_process";
import dgram from "node:dgram";
import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.NODE_MODULES, "here.js"));
const { PeerConnection, Video } = require("node-datachannel");
const [clip, ffmpeg] = process.argv.slice(2);
const SSRC = 4242;
const sessions = new Map();

// The offer's payload type of constrained baseline H.264 in packetization mode 1.
function h264Type(sdp) {
  for (const [, type, format] of sdp.matchAll(/a=fmtp:(\d+) (.*)/g)) {
    if (/packetization-mode=1/.test(format) && /profile-level-id=42e01f/i.test(format)) return Number(type);
  }
  throw new Error("no H.264");
}

function answer(offer) {
  return new Promise((resolve, reject) => {
    const connection = new PeerConnection("whep", { iceServers: [] });
    const type = h264Type(offer);
    let track = null;
    connection.onTrack((remote) => {
      if (remote.type() !== "video") return;
      track = remote;
    });
    connection.onGatheringStateChange((state) => {
      if (state === "complete") resolve({ connection, sdp: connection.localDescription().sdp });
    });
    const mid = offer.split("m=video")[1].match(/a=mid:(\S+)/)[1];
    const video = new Video(mid, "SendOnly");
    video.addH264Codec(type, "profile-level-id=42e01f;packetization-mode=1;level-asymmetry-allowed=1");
    video.addSSRC(SSRC, "video", "stream", "track");
    track = connection.addTrack(video);
    connection.setRemoteDescription(offer, "offer");
    const socket = dgram.createSocket("udp4");
    socket.on("message", (packet) => {
      packet.writeUInt32BE(SSRC, 8);
      packet[1] = (packet[1] & 0x80) | type;
      if (track.isOpen()) track.sendMessageBinary(packet);
    });
    socket.bind(0, "127.0.0.1", () => {
      const target = `rtp://127.0.0.1:${socket.address().port}?pkt_size=1200`;
      const encode = ["-c:v", "libx264", "-profile:v", "baseline", "-tune", "zerolatency", "-g", "30"];
      const source = ["-re", "-stream_loop", "-1", "-i", clip, "-an"];
      const child = spawn(ffmpeg, ["-v", "error", ...source, ...encode, "-b:v", "300k",
        "-bsf:v", "dump_extra", "-f", "rtp", target]);
      connection.onStateChange((state) => {
        if (["closed", "failed", "disconnected"].includes(state)) child.kill("SIGKILL");
      });
      connection.stop = () => { child.kill("SIGKILL"); socket.close(); connection.close(); };
    });
    setTimeout(() => reject(new Error("no candidates")), 5000);
  });
}

const server = http.createServer((request, response) => {
  if (request.method === "DELETE") {
    console.log("DELETE", request.url);
    sessions.get(request.url)?.stop();
    return response.writeHead(200).end();
  }
  if (request.method !== "POST") return response.writeHead(204).end();
  let body = "";
  request.on("data", (piece) => { body += piece; });
  request.on("end", async () => {
    try {
      const { connection, sdp } = await answer(body);
      const location = `/session/${sessions.size}`;
      sessions.set(location, connection);
      response.writeHead(201, { "Content-Type": "application/sdp", Location: location }).end(sdp);
    } catch (error) {
      response.writeHead(400).end(String(error));
    }
  });
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/whep`));
