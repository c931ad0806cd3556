// Publishes the camera over WHIP (RFC 9725) and watches the restored video over WHEP.

const $ = (id) => document.getElementById(id);
const sessions = []; // { connection, location }
let room = `page-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
let token = "";
let publisher = null;
let polling = null;
let lastSent = null;

const SENT_SIDE = 640; // the camera may deliver more, which stills contain
const PACED = 2048, CHUNK = 16384; // bytes of a still: usual and largest chunk
const STILLS_A_MINUTE = 30;

function showMessage(sentence) {
  $("message").textContent = sentence;
  $("message").hidden = !sentence;
}

// Shown while restoring fails; the video itself continues.
function showFault({ healthy, faults }) {
  const times = (!healthy && faults.restoring) || 0;
  $("fault").textContent = `Restoring has failed ${times === 1 ? "once" : `${times} times`}; ` +
    "the picture is shown as received.";
  $("fault").hidden = !times;
}

// The token is stored until the tab is closed, so that the page can be reloaded. Browsers without
// storage for this page throw.
function keepToken(value) {
  token = value;
  try {
    if (value) sessionStorage.setItem("token", value);
    else sessionStorage.removeItem("token");
  } catch {}
}

function keptToken() {
  try {
    return sessionStorage.getItem("token") ?? "";
  } catch {
    return "";
  }
}

// Reads #token=SECRET&room=NAME and keeps only the room in the address, which others may see. A `+`
// stays a `+`, as in a URL's path.
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B"));
  room = given.get("room") || room;
  keepToken(given.get("token") || keptToken());
  if (!given.has("token")) return;
  const rest = given.get("room") ? `#room=${encodeURIComponent(room)}` : "";
  history.replaceState(null, "", location.pathname + location.search + rest);
}

// Header values are bytes: the token in UTF-8.
function headers(more = {}) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(token));
  return token ? { Authorization: `Bearer ${bytes}`, ...more } : more;
}

// Offer with all candidates, answer, session: the same for WHIP and WHEP.
async function negotiate(connection, url) {
  await connection.setLocalDescription();
  if (connection.iceGatheringState !== "complete") {
    await new Promise((resolve) => {
      const done = () => connection.iceGatheringState === "complete" && resolve();
      connection.addEventListener("icegatheringstatechange", done);
      setTimeout(resolve, 1000);
    });
  }
  const response = await fetch(url, {
    method: "POST",
    headers: headers({ "Content-Type": "application/sdp" }),
    body: connection.localDescription.sdp,
  });
  const text = await response.text();
  if ([401, 403, 429].includes(response.status)) $("token-field").hidden = false;
  if ([401, 429].includes(response.status)) keepToken("");
  if (response.status === 401) {
    throw new Error("This receiver asks for a token: type it in and start again.");
  }
  // The receiver's sentence says what this token does not allow.
  if (!response.ok) throw new Error(`The receiver said no: ${text}`);
  sessions.push({ connection, location: response.headers.get("Location") });
  await connection.setRemoteDescription({ type: "answer", sdp: text });
}

function preferH264(transceiver, capabilities) {
  const codecs = capabilities.codecs.filter((codec) => /H264|rtx/i.test(codec.mimeType));
  transceiver.setCodecPreferences(codecs);
}

async function openCamera() {
  if (!window.isSecureContext) {
    throw new Error("Browsers allow camera access on secure pages only: open this page over https, " +
      "or on the receiver's own machine as localhost.");
  }
  const wanted = (id) => ($(id).value ? { deviceId: { exact: $(id).value } } : {});
  try {
    return await navigator.mediaDevices.getUserMedia({
      video: { width: 1280, height: 720, frameRate: 30, ...wanted("camera") },
      audio: $("microphone").value === "none" ? false : { ...wanted("microphone") },
    });
  } catch (error) {
    const said = {
      NotAllowedError: "The browser denies the camera: allow it for this page, then start again.",
      NotFoundError: "No camera or microphone was found: plug one in, then start again.",
      NotReadableError: "Another program uses the camera: close it, then start again.",
    };
    throw new Error(said[error.name] ?? `The camera cannot be opened: ${error.message}`);
  }
}

async function listDevices() {
  if (!navigator.mediaDevices) return;
  const devices = await navigator.mediaDevices.enumerateDevices();
  for (const [id, kind] of [["camera", "videoinput"], ["microphone", "audioinput"]]) {
    const chosen = $(id).value;
    $(id).replaceChildren(new Option("default", ""));
    for (const [index, device] of devices.filter((d) => d.kind === kind).entries()) {
      if (device.deviceId) $(id).add(new Option(device.label || `${id} ${index + 1}`, device.deviceId));
    }
    if (id === "microphone") $(id).add(new Option("none", "none"));
    $(id).value = chosen;
  }
}

async function capBitrate() {
  const kbps = Number($("bitrate").value);
  $("bitrate-value").textContent = `${kbps} kbit/s`;
  const sender = publisher?.getSenders().find((one) => one.track?.kind === "video");
  if (!sender) return;
  const parameters = sender.getParameters();
  if (!parameters.encodings?.length) return;
  parameters.encodings[0].maxBitrate = kbps * 1000;
  await sender.setParameters(parameters);
}

// Answers requests for stills of the camera (docs/stills.md).
function offerStills(connection, stream) {
  const camera = document.createElement("video");
  Object.assign(camera, { srcObject: stream, muted: true, playsInline: true });
  camera.play().catch(() => {});
  const channel = connection.createDataChannel("stills");
  channel.binaryType = "arraybuffer";
  const say = (message) => channel.readyState === "open" && channel.send(JSON.stringify(message));
  const answered = []; // when, in ms
  let busy = false;
  let sent = 0;
  $("stills").textContent = sent;

  async function answer({ id, max_bytes, kbps, region = [0, 0, 1, 1] }) {
    const now = performance.now();
    while (answered[0] < now - 60000) answered.shift();
    if (busy) throw new Error("another still is under way");
    if (answered.length >= STILLS_A_MINUTE) {
      throw new Error(`${STILLS_A_MINUTE} stills a minute are all that are made`);
    }
    if (!(max_bytes > 0 && max_bytes <= 262144 && kbps >= 8 && kbps <= 10000)) {
      throw new Error("send max_bytes of 1 to 262144 and kbps of 8 to 10000");
    }
    if (!isRegion(region)) throw new Error("send region as left, top, right, bottom, 0 to 1");
    if (!camera.videoWidth) throw new Error("there is no picture yet");
    answered.push(now);
    busy = true;
    try {
      const { blob, width, height } = await takeStill(camera, region, max_bytes);
      say({ type: "still", id, bytes: blob.size, mime: blob.type, width, height, region,
        captured_ms: Math.round(now) });
      if (await sendPaced(channel, await blob.arrayBuffer(), kbps)) $("stills").textContent = ++sent;
    } finally {
      busy = false;
    }
  }

  channel.addEventListener("message", ({ data }) => {
    let request;
    try {
      request = JSON.parse(data);
    } catch {
      return;
    }
    if (request?.type !== "request" || !Number.isSafeInteger(request.id)) return;
    answer(request).catch(({ message }) =>
      say({ type: "refused", id: request.id, reason: message }));
  });
}

function isRegion(region) {
  if (!Array.isArray(region) || region.length !== 4) return false;
  const [left, top, right, bottom] = region;
  return region.every((side) => side >= 0 && side <= 1) && right - left >= 0.02 && bottom - top >= 0.02;
}

// Encodes a region of the camera's frame as WebP (JPEG if the browser lacks it): reduces quality
// before size.
async function takeStill(camera, [left, top, right, bottom], maxBytes) {
  const canvas = document.createElement("canvas");
  const [x, y] = [left * camera.videoWidth, top * camera.videoHeight];
  const [across, down] = [(right - left) * camera.videoWidth, (bottom - top) * camera.videoHeight];
  for (let scale = 1; scale * Math.min(across, down) >= 16; scale *= 0.75) {
    canvas.width = Math.round(across * scale);
    canvas.height = Math.round(down * scale);
    const size = [canvas.width, canvas.height];
    canvas.getContext("2d").drawImage(camera, x, y, across, down, 0, 0, ...size);
    for (const quality of [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]) {
      const encode = (type) => new Promise((resolve) => canvas.toBlob(resolve, type, quality));
      let blob = await encode("image/webp");
      if (blob?.type !== "image/webp") blob = await encode("image/jpeg");
      if (!blob) throw new Error("the picture cannot be encoded");
      if (blob.size <= maxBytes) return { blob, width: canvas.width, height: canvas.height };
    }
  }
  throw new Error(`no still fits into ${maxBytes} bytes`);
}

// Returns whether everything was sent. Timers of a background page fire only once a second, so a late
// one catches up, by at most one chunk.
async function sendPaced(channel, bytes, kbps) {
  let last = performance.now();
  for (let start = 0; ;) {
    if (channel.readyState !== "open") return false;
    if (channel.bufferedAmount <= CHUNK) {
      const now = performance.now();
      const due = Math.min(CHUNK, Math.max(PACED, Math.floor(((now - last) * kbps) / 8)));
      channel.send(bytes.slice(start, start + due));
      start += due;
      last = now;
      if (start >= bytes.byteLength) return true;
    }
    await new Promise((resolve) => setTimeout(resolve, (PACED * 8) / kbps));
  }
}

async function publish(stream) {
  publisher = new RTCPeerConnection();
  offerStills(publisher, stream);
  for (const track of stream.getTracks()) {
    const { width = 0, height = 0 } = track.getSettings();
    const scaleResolutionDownBy = Math.max(1, Math.max(width, height) / SENT_SIDE);
    const transceiver = publisher.addTransceiver(track, {
      direction: "sendonly",
      streams: [stream],
      sendEncodings: track.kind === "video" ? [{ scaleResolutionDownBy }] : [],
    });
    if (track.kind === "video") preferH264(transceiver, RTCRtpSender.getCapabilities("video"));
  }
  publisher.addEventListener("connectionstatechange", () => {
    if (publisher?.connectionState === "failed") stop("The connection to the receiver was lost.");
  });
  await negotiate(publisher, `/whip/${encodeURIComponent(room)}`);
  await capBitrate();
}

async function watch() {
  const viewer = new RTCPeerConnection();
  const video = viewer.addTransceiver("video", { direction: "recvonly" });
  preferH264(video, RTCRtpReceiver.getCapabilities("video"));
  viewer.addTransceiver("audio", { direction: "recvonly" });
  const stream = new MediaStream();
  viewer.addEventListener("track", ({ track }) => stream.addTrack(track));
  $("received").srcObject = stream;
  $("restored").srcObject = stream;
  $("restored").addEventListener("resize", () => {
    const { videoWidth, videoHeight } = $("restored");
    $("stage").style.setProperty("--ratio", `${videoWidth / 2} / ${videoHeight}`);
  });
  await negotiate(viewer, `/whep/${encodeURIComponent(room)}?view=both`);
}

async function poll() {
  const response = await fetch("/stats", { headers: headers() });
  if (response.status === 403) {
    clearInterval(polling);
    showMessage(`The figures are not shown: ${await response.text()}`);
  }
  if (!response.ok) return;
  const stats = (await response.json())[room];
  if (!stats) return;
  const latency = stats.stages_ms.added_latency;
  $("fps").textContent = stats.fps.toFixed(1);
  $("latency").textContent = latency ? `${latency.median.toFixed(0)} ms` : "–";
  $("qp").textContent = stats.qp === null ? "–" : stats.qp.toFixed(0);
  $("keyframes").textContent = stats.keyframes;
  $("device").textContent = stats.device;
  showFault(stats);
  for (const report of (await publisher.getStats()).values()) {
    if (report.type !== "outbound-rtp" || report.kind !== "video") continue;
    if (lastSent) {
      const seconds = (report.timestamp - lastSent.timestamp) / 1000;
      const kbps = ((report.bytesSent - lastSent.bytesSent) * 8) / 1000 / seconds;
      $("rate").textContent = `${kbps.toFixed(0)} kbit/s`;
    }
    lastSent = report;
  }
}

async function start() {
  showMessage("");
  $("start").disabled = true;
  keepToken($("token").value || token);
  try {
    const stream = await openCamera();
    await listDevices();
    await publish(stream);
    await watch();
    $("start").textContent = "Stop";
    polling = setInterval(() => poll().catch(() => {}), 1000);
  } catch (error) {
    stop(error.message);
  }
  $("start").disabled = false;
}

function stop(sentence = "") {
  clearInterval(polling);
  for (const { connection, location } of sessions.splice(0)) {
    connection.getSenders().forEach((sender) => sender.track?.stop());
    connection.close();
    if (location) fetch(location, { method: "DELETE", headers: headers(), keepalive: true });
  }
  publisher = null;
  lastSent = null;
  $("fault").hidden = true;
  $("start").textContent = "Start";
  showMessage(sentence);
}

$("setup").addEventListener("submit", (event) => {
  event.preventDefault();
  if (sessions.length) stop();
  else start();
});
$("bitrate").addEventListener("input", () => capBitrate().catch((error) => showMessage(error.message)));
$("divider").addEventListener("input", () => {
  $("stage").style.setProperty("--at", `${$("divider").value}%`);
});
addEventListener("pagehide", () => stop());
addEventListener("hashchange", () => {
  if (sessions.length) stop();
  readAddress();
});
readAddress();
listDevices().catch(() => {});
