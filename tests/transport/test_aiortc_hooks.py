"""Private names of aiortc, aioice and PyAV: in one file, in one table, and still there.

None of these packages promises its private names. If one is renamed, `aiortc_hooks` has to follow.
"""

import ast
import asyncio
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import aioice
import aioice.ice
import aiortc.codecs
import aiortc.rtcicetransport
import aiortc.rtcpeerconnection
import aiortc.rtcrtpreceiver
import aiortc.rtcsctptransport
import aiortc.rtp
import pytest
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCRtpSender, RTCSctpTransport
from aiortc.codecs.h264 import H264Decoder
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rate import RemoteBitrateEstimator
from aiortc.rtcdtlstransport import RTCCertificate
from aiortc.rtcrtpreceiver import NackGenerator, RemoteStreamTrack, TimestampMapper

import receiver
from receiver.transport import aiortc_hooks as hooks
from receiver.transport.aiortc_hooks import (
    HookedConnection,
    ObservingDecoder,
    ObservingJitterBuffer,
)
from receiver.transport.connections import prepare_aiortc
from receiver.transport.receiving import SteadyReceiver
from receiver.transport.sending import BoundedSender

ROOT = Path(receiver.__file__).parent
FOREIGN = ("aiortc", "aioice", "av")
HOOKS = "transport/aiortc_hooks.py"
PRIVATE_NAMES = {
    HOOKS: {
        # name: the class that has it
        "_RTCPeerConnection__connect": RTCPeerConnection,
        "_RTCRtpReceiver__codecs": RTCRtpReceiver,
        "_RTCRtpReceiver__decoder_queue": RTCRtpReceiver,
        "_RTCRtpReceiver__decoder_thread": RTCRtpReceiver,
        "_RTCRtpReceiver__jitter_buffer": RTCRtpReceiver,
        "_RTCRtpReceiver__nack_generator": RTCRtpReceiver,
        "_RTCRtpReceiver__remote_bitrate_estimator": RTCRtpReceiver,
        "_RTCRtpReceiver__remote_streams": RTCRtpReceiver,
        "_RTCRtpReceiver__rtx_ssrc": RTCRtpReceiver,
        "_RTCRtpReceiver__stop_decoder": RTCRtpReceiver,
        "_RTCRtpReceiver__timestamp_mapper": RTCRtpReceiver,
        "_RTCRtpSender__rtp_history": RTCRtpSender,
        "_advertised_rwnd": RTCSctpTransport,
        "_check_list": aioice.Connection,
        "_create_ssl_context": RTCCertificate,
        "_data": RTCRtpReceiver,  # of the packet; the receiver sets it
        "_handle_rtcp_packet": RTCRtpReceiver,  # and RTCRtpSender
        "_inbound_streams": RTCSctpTransport,
        "_origin": JitterBuffer,
        "_queue": RemoteStreamTrack,
        "_receive_data_chunk": RTCSctpTransport,
        "_remove_frame": JitterBuffer,
        "_retransmit": RTCRtpSender,
        "_send_keyframe": RTCRtpSender,
        "_send_rtcp_nack": RTCRtpReceiver,
        "_send_rtcp_pli": RTCRtpReceiver,
    },
}
"""Every private name in use, by the file in `receiver` that uses it."""
REPLACED = {
    (aiortc.codecs, "H264Decoder"): ObservingDecoder,
    (aiortc.rtcrtpreceiver, "JitterBuffer"): ObservingJitterBuffer,
    (aiortc.rtcpeerconnection, "RTCRtpReceiver"): SteadyReceiver,
    (aiortc.rtcpeerconnection, "RTCRtpSender"): BoundedSender,
    (aiortc.rtcicetransport, "Connection"): hooks.BoundedConnection,
    (aiortc.rtp, "compute_audio_level_dbov"): hooks.audio_level,
    (RTCCertificate, "_create_ssl_context"): hooks._ssl_context_for_rsa,
}
"""Names in modules and classes of aiortc that `prepare_aiortc` replaces in the whole process."""


def is_private(name: str) -> bool:
    return bool(re.fullmatch(r"_[A-Za-z]\w*", name))


def foreign_private_names(path: Path) -> set[str]:
    """Returns the private names of other packages that a file of `receiver` uses or overrides."""
    tree = ast.parse(path.read_text())
    modules = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if not alias.name.startswith(FOREIGN)
    }
    return {
        *names_of_other_objects(tree, modules),
        *names_in_strings(tree),
        *imported_names(tree),
        *names_in_subclasses(tree, path),
    }


def names_of_other_objects(tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """Yields private attributes of anything but `self`, `cls` and modules like `os`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if owner not in {"self", "cls", *modules}:
                yield node.attr


def names_in_strings(tree: ast.Module) -> Iterator[str]:
    """Yields mangled names (`_Class__name`), and private names given to getattr and the like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"_[A-Z]\w*?__\w*", node.value):
                yield node.value
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            if called in {"getattr", "setattr", "hasattr", "delattr", "attrgetter"}:
                for argument in node.args:
                    if isinstance(argument, ast.Constant) and is_private(str(argument.value)):
                        yield str(argument.value)


def imported_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(FOREIGN):
            yield from (alias.name for alias in node.names if is_private(alias.name))


def names_in_subclasses(tree: ast.Module, path: Path) -> Iterator[str]:
    """Yields private names that a subclass of a foreign class uses or overrides, by accident too.

    Everything else that starts with an underscore is the subclass's own.
    """
    module = importlib.import_module(module_of(path))
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        inherited = foreign_names(getattr(module, node.name, object))
        for inner in ast.walk(node):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                used = inner.name
            elif isinstance(inner, ast.Attribute):
                used = inner.attr
            else:
                continue
            if is_private(used) and used in inherited:
                yield used


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def foreign_names(one: type) -> set[str]:
    """Returns the names of methods and attributes of a class's foreign base classes."""
    names = set()
    for base in one.__mro__:
        if base.__module__.split(".")[0] in FOREIGN:
            names |= set(vars(base)) | attributes_of(base)
    return names


def attributes_of(one: type) -> set[str]:
    """Returns the attributes that a class's methods set, as Python stores them (`_Class__name`)."""
    try:
        source = inspect.getsource(one)
    except (OSError, TypeError):
        return set()  # compiled, as PyAV's are
    found = re.findall(r"\b(?:self|packet)\.(_\w+)(?:: [^=\n]+)? = ", source)
    return {f"_{one.__name__}{name}" if name.startswith("__") else name for name in found}


def test_private_names_are_used_in_one_file_and_stand_in_the_table():
    used = {
        str(path.relative_to(ROOT)): names
        for path in sorted(ROOT.rglob("*.py"))
        if (names := foreign_private_names(path))
    }
    assert used == {file: set(names) for file, names in PRIVATE_NAMES.items()}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("def f(track): track._queue.put(None)", {"_queue"}),
        ("def f(a): return a.b()._ssrc", {"_ssrc"}),
        ("def f(a): setattr(a, '_send_keyframe', f)", {"_send_keyframe"}),
        ("NAME = '_RTCRtpSender__rtp_history'", {"_RTCRtpSender__rtp_history"}),
        ("from aiortc.rtp import _secret, RtpPacket", {"_secret"}),
        ("import aiortc\ndef f(): return aiortc._secret", {"_secret"}),
        ("import os\ndef f(): os._exit(1)", set()),
        ("class A:\n    def f(self): return self._queue", set()),
    ],
)
def test_the_search_finds_what_it_should(code, names, tmp_path, monkeypatch):
    path = ROOT / "transport" / "connections.py"  # its classes do not matter here
    monkeypatch.setattr(Path, "read_text", lambda self: code)
    assert foreign_private_names(path) == names


def test_the_search_finds_overridden_names():
    (node,) = ast.parse("class SteadyReceiver:\n    def _run_rtcp(self): self._enabled = 1").body
    path = ROOT / "transport" / "receiving.py"
    found = set(names_in_subclasses(ast.Module([node], []), path))
    assert found == {"_run_rtcp", "_enabled"}


def test_the_installed_versions_have_every_private_name():
    for names in PRIVATE_NAMES.values():
        for name, owner in names.items():
            assert name in set(vars(owner)) | attributes_of(owner), (owner, name)
    assert "_handle_rtcp_packet" in vars(RTCRtpSender)


def test_every_reason_is_given():
    """Each class and function of the module says why it reaches into aiortc."""
    public = [
        one
        for name, one in vars(hooks).items()
        if (inspect.isclass(one) or inspect.isfunction(one))
        and one.__module__ == hooks.__name__
        and not name.startswith("_")
    ]
    missing = [one.__name__ for one in public if "Reason:" not in (inspect.getdoc(one) or "")]
    # These two only serve the others; the decoder extends a public class.
    assert set(missing) == {"PrivateAttribute", "IncomingData", "ObservingDecoder"}


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (H264Decoder.decode, ["self", "encoded_frame"]),
        (JitterBuffer.__init__, ["self", "capacity", "prefetch", "is_video"]),
        (JitterBuffer.add, ["self", "packet"]),
        (JitterBuffer._remove_frame, ["self", "sequence_number"]),
        (NackGenerator.add, ["self", "packet"]),
        (RTCRtpReceiver.__init__, ["self", "kind", "transport"]),
        (RTCRtpReceiver._handle_rtcp_packet, ["self", "packet"]),
        (RTCRtpReceiver._send_rtcp_nack, ["self", "media_ssrc", "lost"]),
        (RTCRtpReceiver._send_rtcp_pli, ["self", "media_ssrc"]),
        (getattr(RTCRtpReceiver, "_RTCRtpReceiver__stop_decoder"), ["self"]),  # noqa: B009
        (RTCRtpSender.__init__, ["self", "trackOrKind", "transport"]),
        (RTCRtpSender._handle_rtcp_packet, ["self", "packet"]),
        (RTCRtpSender._retransmit, ["self", "sequence_number"]),
        (RTCRtpSender._send_keyframe, ["self"]),
        (getattr(RTCPeerConnection, "_RTCPeerConnection__connect"), ["self"]),  # noqa: B009
        (RTCSctpTransport._receive_data_chunk, ["self", "chunk"]),
        (hooks._CREATE_SSL_CONTEXT, ["self", "srtp_profiles"]),
        (
            aioice.Connection.get_component_candidates,
            ["self", "component", "addresses", "timeout"],
        ),
        (TimestampMapper.map, ["self", "timestamp"]),
        (
            RemoteBitrateEstimator.add,
            ["self", "arrival_time_ms", "abs_send_time", "payload_size", "ssrc"],
        ),
        (aioice.Connection.check_incoming, ["self", "message", "addr", "protocol"]),
        (aioice.ice.get_host_addresses, ["use_ipv4", "use_ipv6"]),
    ],
)
def test_methods_take_what_they_took(method, parameters):
    assert list(inspect.signature(method).parameters) == parameters


@pytest.mark.parametrize(
    "method",
    [
        RTCRtpReceiver._handle_rtcp_packet,
        RTCRtpReceiver._send_rtcp_nack,
        RTCRtpReceiver._send_rtcp_pli,
        RTCRtpSender._handle_rtcp_packet,
        RTCRtpSender._retransmit,
        RTCSctpTransport._receive_data_chunk,
        getattr(RTCPeerConnection, "_RTCPeerConnection__connect"),  # noqa: B009
    ],
)
def test_coroutines_are_coroutines(method):
    assert inspect.iscoroutinefunction(method)


def test_aioice_calls_what_is_overridden():
    gathering = inspect.getsource(aioice.Connection.gather_candidates)
    assert "self.get_component_candidates(component=component, addresses=" in gathering
    assert "self._check_list.append(" in inspect.getsource(aioice.Connection)


def test_frames_and_packets_are_what_they_were():
    assert {"data", "timestamp"} <= set(JitterFrame.__annotations__) | set(
        inspect.signature(JitterFrame).parameters
    )
    assert "codec" in vars(H264Decoder())
    assert "_origin" in vars(JitterBuffer(capacity=16))
    assert "packet._data = depayload(" in inspect.getsource(RTCRtpReceiver)
    assert "reassembly" in vars(aiortc.rtcsctptransport.InboundStream())


def test_preparing_twice_replaces_everything_once():
    before = {codec.payloadType for codec in aiortc.codecs.CODECS["video"]}
    prepare_aiortc()
    prepare_aiortc()
    for (owner, name), part in REPLACED.items():
        assert getattr(owner, name) is part
    types = [codec.payloadType for codec in aiortc.codecs.CODECS["video"]]
    assert len(types) == len(set(types))
    assert before <= set(types)
    h264 = [one for one in aiortc.codecs.CODECS["video"] if one.mimeType == "video/H264"]
    assert isinstance(aiortc.codecs.get_decoder(h264[0]), ObservingDecoder)
    # aiortc looks the replaced names up where they were replaced.
    assert aiortc.codecs.get_decoder.__globals__ is vars(aiortc.codecs)
    assert RTCRtpReceiver.__init__.__globals__ is vars(aiortc.rtcrtpreceiver)


async def test_connections_are_made_of_the_replaced_parts():
    prepare_aiortc()
    connection = RTCPeerConnection()
    video = connection.addTransceiver("video", direction="recvonly").receiver
    sound = connection.addTransceiver("audio", direction="recvonly").receiver
    sender = connection.addTransceiver("video", direction="sendonly").sender
    assert isinstance(video, SteadyReceiver)
    assert isinstance(sender, BoundedSender)
    assert (video.jitter_buffer, video.nack_generator) == (video, None)
    assert isinstance(sound.jitter_buffer, ObservingJitterBuffer)
    assert (video.remote_streams, video.rtx_ssrc, video.codecs) == ({}, {}, {})
    assert (video.decoder_thread, video.decoder_queue.qsize()) == (None, 0)
    assert callable(video.stop_decoder)
    assert video.timestamp_mapper.map(5) == 0
    assert sender.rtp_history == {}
    video.use_stock_transport()
    assert isinstance(video.jitter_buffer, ObservingJitterBuffer)
    assert isinstance(video.nack_generator, NackGenerator)
    assert type(video.remote_bitrate_estimator).__module__ == "aiortc.rate"
    await connection.close()


class ConnectingConnection(HookedConnection):
    """Records that aiortc calls the hook."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    async def connect(self) -> None:
        self.calls += 1
        await super().connect()


async def test_aiortc_connects_through_the_hook():
    first, second = ConnectingConnection(), ConnectingConnection()
    first.createDataChannel("any")
    await first.setLocalDescription(await first.createOffer())
    await second.setRemoteDescription(first.localDescription)
    await second.setLocalDescription(await second.createAnswer())
    await first.setRemoteDescription(second.localDescription)
    async with asyncio.timeout(15):
        while not first.connectionState == second.connectionState == "connected":
            await asyncio.sleep(0.02)
    assert (first.calls > 0, second.calls > 0) == (True, True)
    await asyncio.gather(first.close(), second.close())


async def test_a_request_for_a_key_frame_reaches_the_encoder():
    """From the RTCP packet to the callback, for PLI and FIR (RFC 4585, RFC 5104)."""
    prepare_aiortc()
    connection, requests = RTCPeerConnection(), []
    sender = connection.addTransceiver("video", direction="sendonly").sender
    hooks.on_keyframe_request(sender, lambda: requests.append(1))
    for form in (aiortc.rtp.RTCP_PSFB_PLI, aiortc.rtp.RTCP_PSFB_FIR):
        packet = aiortc.rtp.RtcpPsfbPacket(fmt=form, ssrc=1, media_ssrc=sender._ssrc)
        await sender._handle_rtcp_packet(packet)
    await connection.close()
    assert len(requests) == 2


async def test_a_remote_track_ends():
    track = RemoteStreamTrack(kind="video")
    hooks.end_remote_track(track)
    with pytest.raises(aiortc.mediastreams.MediaStreamError):
        await track.recv()


def test_every_module_was_read():
    """The search imports modules; one that it cannot import would hide its names."""
    found = {one.name for one in pkgutil.walk_packages([str(ROOT)], "receiver.")}
    assert {module_of(path) for path in ROOT.rglob("*.py")} == found | {"receiver"}
