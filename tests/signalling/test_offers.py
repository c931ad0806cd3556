"""Offers are checked and reduced before aiortc reads them."""

import contextlib

import pytest
from aiortc.sdp import SessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fuzz.server import offer
from receiver.signalling.offers import (
    MAX_CANDIDATES,
    MAX_LINE,
    MAX_LINES,
    MAX_MEDIA,
    OfferError,
    is_checked,
    read_offer,
)
from receiver.signalling.sdp import spelled
from receiver.transport.connections import prepare_aiortc
from tests.calls.offers.making import SESSION, VIDEO, channels, filled, hostile, section


def reduced(*more: str, lines: list[str] = VIDEO) -> list[str]:
    """What is left of an offer."""
    return read_offer(filled(lines, list(more))).sdp.splitlines()


def read_or_refused(body: bytes) -> str:
    """What is left of an offer, nothing if it is refused properly."""
    with contextlib.suppress(OfferError):
        return read_offer(body).sdp
    status, sentence = refusal(body)
    assert status in (400, 422)
    assert "\n" not in sentence
    assert len(sentence) < 200
    return ""


def refusal(body: bytes) -> tuple[int, str]:
    with pytest.raises(OfferError) as caught:
        read_offer(body)
    return caught.value.status, str(caught.value)


def test_a_small_offer_stays_as_it_is():
    assert sorted(reduced()) == sorted(VIDEO)


def test_an_offer_of_aiortc_means_the_same_afterwards():
    """Apart from what is not used: other codecs and parameters, streams, the candidates' end."""
    prepare_aiortc()
    before = SessionDescription.parse(offer())
    after = SessionDescription.parse(read_offer(offer().encode()).sdp)
    assert [one.kind for one in after.media] == ["audio", "video", "application"]
    assert after.group == before.group
    for old, new in zip(before.media, after.media, strict=True):
        for name in ("kind", "ice", "dtls", "ice_candidates", "rtcp_mux", "sctp_port"):
            assert getattr(new, name) == getattr(old, name), name
        assert new.direction == (old.direction or "sendrecv")
        assert new.rtp.muxId == old.rtp.muxId
        assert new.rtp.headerExtensions == old.rtp.headerExtensions
        assert [one.ssrc for one in new.ssrc] == [one.ssrc for one in old.ssrc]
        assert [(one.name, one.payloadType) for one in new.rtp.codecs] == [
            (one.name, one.payloadType) for one in old.rtp.codecs
        ]
        assert [one.rtcpFeedback for one in new.rtp.codecs] == [
            one.rtcpFeedback for one in old.rtp.codecs
        ]
        assert not new.ice_candidates_complete
    (h264, *_) = after.media[1].rtp.codecs
    assert set(h264.parameters) == {"packetization-mode", "profile-level-id"}


@pytest.mark.parametrize("name", hostile())
def test_what_aiortc_reads_is_small_however_large_the_offer(name):
    lines, more = hostile()[name]
    body = filled(lines, more)
    assert len(body) > 48_000 or name == "payload types"
    left = read_or_refused(body)
    assert len(left) < 16_000
    assert left.count("\n") <= 600


@pytest.mark.parametrize(
    ("line", "is_kept"),
    [
        ("a=rtpmap:97 VP8/90000", False),
        ("a=rtpmap:97 h264/90000", True),
        ("a=rtpmap:97 rtx/90000", True),
        ("a=rtpmap:97 H264/8000", False),
        ("a=rtpmap:97 opus/48000/2", False),  # in a video
        ("a=rtpmap:127 H264/90000", True),
        ("a=rtpmap:128 H264/90000", False),
        ("a=rtpmap:96 H264/90000", False),  # there is one of this payload type
        ("a=rtpmap:\u0661 H264/90000", False),
        ("a=rtcp-fb:96 nack", True),
        ("a=rtcp-fb:* nack pli", True),
        ("a=rtcp-fb:97 nack", False),  # no such payload type
        ("a=rtcp-fb:96 transport-cc", False),
        ("a=extmap:3 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time", True),
        ("a=extmap:3 urn:3gpp:video-orientation", False),
        ("a=mid:0", False),
        ("a=setup:active", False),
        ("a=fingerprint:sha-256 AA", False),
        ("a=fingerprint:sha-512 AA", True),
        ("a=ssrc-group:FID 1 2", False),
        ("a=end-of-candidates", False),
        ("a=simulcast:send 1;2", False),
        ("a=sctp-port:5000", True),
        ("a=max-message-size:1000", True),
        ("b=AS:100", False),
        ("c=IN IP4 example.org", False),
    ],
)
def test_only_what_is_used_is_kept_and_once(line, is_kept):
    assert reduced(line) == [*reduced(), line] if is_kept else reduced(line) == reduced()
    assert reduced(line, line, line) == reduced(line)


def test_codecs_of_sound_are_kept():
    for codec in ("opus/48000/2", "OPUS/48000", "PCMU/8000", "PCMA/8000/1", "G722/8000"):
        line = f"a=rtpmap:1 {codec}"
        assert line in reduced(*section("audio", 1), line)
    for codec in ("opus/8000/2", "opus/48000/3", "L16/8000", "H264/90000"):
        line = f"a=rtpmap:1 {codec}"
        assert line not in reduced(*section("audio", 1), line)


def test_of_a_codecs_parameters_those_are_kept_that_tell_codecs_apart():
    fmtp = "a=fmtp:97 apt=95; max-fr=30;x;packetization-mode=1 ;profile-level-id=42e01f;apt=1234567"
    assert reduced("a=rtpmap:97 rtx/90000", fmtp + ";apt=96;apt")[-1] == (
        "a=fmtp:97 apt=96;packetization-mode=1;profile-level-id=42e01f"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("m=video 9 udp/tls/rtp/savpf 96 97", "m=video 9 UDP/TLS/RTP/SAVPF 96 97"),
        ("m=video 9", "m=video 9"),
        ("m=", "m="),
        ("a=setup:ActPass ", "a=setup:actpass"),
        ("a=setup", "a=setup"),
        ("a=group:bundle A b", "a=group:BUNDLE A b"),
        ("a=group:", "a=group:"),
        ("a=rtcp-fb:96 NACK PLI", "a=rtcp-fb:96 nack pli"),
        ("a=fmtp:96 Packetization-Mode=1; X ;y=Z=", "a=fmtp:96 packetization-mode=1;x;y=Z="),
        ("a=fmtp:96", "a=fmtp:96"),
        ("a=candidate:A 1 UDP 1 FE80::1 5 TYP HOST Ufrag B", None),
        ("a=candidate:", "a=candidate:"),
        ("a=mid:A", "a=mid:A"),
        ("a=ice-ufrag:ABCD", "a=ice-ufrag:ABCD"),
        ("a=rtpmap:96 H264/90000", "a=rtpmap:96 H264/90000"),
        ("", ""),
    ],
)
def test_what_has_no_case_is_spelled_as_aiortc_reads_it(line, expected):
    if expected is None:
        expected = "a=candidate:A 1 udp 1 FE80::1 5 typ host Ufrag B"
    assert spelled(line) == expected
    assert spelled(expected) == expected


def test_an_offer_without_a_dtls_role_is_active():
    """RFC 4145, section 4. Roles that are there stay."""
    lines = [line for line in VIDEO if not line.startswith("a=setup")]
    assert "a=setup:active" in reduced(lines=lines)
    some = [*lines, *section("audio", 1)]
    media = SessionDescription.parse("\r\n".join(reduced(lines=some)) + "\r\n").media
    assert [one.dtls.role for one in media] == ["client", "auto"]
    session = [*SESSION, "a=setup:passive", *lines[len(SESSION) :]]
    assert reduced(lines=session).count("a=setup:passive") == 1
    assert "a=setup:active" not in reduced(lines=session)
    assert not [line for line in reduced() if line == "a=setup:active"]


def test_three_ssrcs_tell_that_they_are_not_two():
    ssrcs = [f"a=ssrc:{n} cname:me" for n in (1, 2, 2, 3, 4, 1)]
    assert reduced(*ssrcs)[-3:] == [f"a=ssrc:{n} cname:-" for n in (1, 2, 3)]
    assert reduced(*ssrcs[:3])[-2:] == [f"a=ssrc:{n} cname:-" for n in (1, 2)]
    assert reduced("a=ssrc:x cname:me") == reduced()


def test_media_without_a_direction_flow_both_ways():
    """RFC 8866, section 6.7; aiortc refuses them."""
    lines = [line for line in VIDEO if line != "a=sendrecv"]
    assert sorted(reduced(lines=lines)) == sorted(VIDEO)
    assert "a=recvonly" in reduced("a=recvonly")


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        ("1 1 udp 1 192.0.2.1 5000 typ host", True),
        ("1 1 UDP 1 192.0.2.1 1 typ srflx raddr 10.0.0.1 rport 5", True),
        ("1 1 udp 1 192.0.2.1 65535 typ host", True),
        ("1 1 udp 1 2001:db8::1 5000 typ host", True),
        ("1 1 udp 1 127.0.0.1 5000 typ host", True),
        ("1 2 udp 1 192.0.2.1 5000 typ host", False),  # of RTCP, which has no port of its own
        ("1 x udp 1 192.0.2.1 5000 typ host", False),
        ("1 1 udp 1 192.0.2.1 0 typ host", False),
        ("1 1 udp 1 192.0.2.1 65536 typ host", False),
        ("1 1 udp 1 192.0.2.1 -1 typ host", False),
        ("1 1 udp 1 192.0.2.1 \u0665 typ host", False),
        ("1 1 udp 1 192.0.2.1 x typ host", False),
        ("1 1 tcp 1 192.0.2.1 9 typ host tcptype active", False),
        ("1 1 udp 1 224.0.0.251 5353 typ host", False),
        ("1 1 udp 1 ff02::fb 5353 typ host", False),
        ("1 1 udp 1 0.0.0.0 5000 typ host", False),
        ("1 1 udp 1 :: 5000 typ host", False),
        ("1 1 udp 1 ::ffff:224.0.0.251 5000 typ host", False),
        ("1 1 udp 1 fe80::1%eth0 5000 typ host", False),
        ("1 1 udp 1 d9b5a9a8.local 5000 typ host", False),
        ("1 1 udp 1 example.org 5000 typ host", False),
        ("1 1 udp 1 localhost 5000 typ host", False),
        ("1 1 udp 1 2130706433 5000 typ host", False),  # 127.0.0.1 as some resolvers read it
        ("1 1 udp 1 192.0.2.1", False),
        ("", False),
    ],
)
def test_checks_are_sent_to_unicast_addresses_alone(candidate, expected):
    assert is_checked(candidate) is expected
    line = f"a=candidate:{candidate}"
    assert (spelled(line) in reduced(line)) is expected


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        (("v=0", "v=1"), 400, "not an SDP offer"),
        (("m=video 9", "m=video x"), 400, "not an SDP offer"),
        (("setup:actpass", "setup:holdconn"), 422, "the DTLS role 'holdconn': use a=setup:actpass"),
        (("setup:actpass", "setup:"), 422, "the DTLS role '': use a=setup:actpass"),
        (("a=rtcp-mux", "a=x"), 422, "RTCP on a separate port: add a=rtcp-mux"),
        (("fingerprint:sha-256", "fingerprint:md5"), 422, "no DTLS fingerprint"),
        (("fingerprint:", "x:"), 422, "no DTLS fingerprint"),
        (("fingerprint:sha-256 ", "fingerprint:"), 400, "not an SDP offer"),
        (("ice-ufrag:abcd", "ice-ufrag:abc"), 422, "no valid ice-ufrag"),
        (("ice-ufrag:abcd", "ice-ufrag:" + 257 * "a"), 422, "no valid ice-ufrag"),
        (("ice-pwd:a", "ice-pwd:"), 422, "no valid ice-ufrag"),
        (("ice-pwd:", "ice-pwd:*"), 422, "no valid ice-ufrag"),
        (("H264", "VP8"), 422, "no H.264"),
        (("m=video", "m=audio"), 422, "no video"),
        (("m=video 9", "m=text 9 A 0\r\nm=video 9"), 422, "media of the kind 'text'"),
        (("s=-", "s=-\r\na=group:BUNDLE 1"), 400, "mids are not unique"),
        (("s=-", "s=-\r\na=group:BUNDLE 0 0"), 400, "mids are not unique"),
    ],
)
def test_an_offer_without_a_call_is_refused(change, status, sentence):
    text = filled(VIDEO, []).decode()
    assert change[0] in text
    said = refusal(text.replace(*change).encode())
    assert said[0] == status
    assert sentence in said[1]


EXTENSION = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
NO_PORT = "the offer has data channels without a port from 1 to 65535"
NO_MESSAGE = "the offer has data channels that refuse messages of 16384 bytes"
NO_NUMBER = "the offer has RTP extensions with ids outside 1 to 255"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (channels("a=sctp-port:1"), None),
        (channels("a=sctp-port:65535"), None),
        (channels(), NO_PORT),
        (channels("a=sctp-port:0"), NO_PORT),
        (channels("a=sctp-port:-1"), NO_PORT),
        (channels("a=sctp-port:65536"), NO_PORT),
        (["m=application 9 DTLS/SCTP 5000", *channels()[1:]], None),
        (["m=application 9 DTLS/SCTP 0", *channels()[1:]], NO_PORT),
        (["m=application 9 DTLS/SCTP x", *channels()[1:]], NO_PORT),
        (["m=application 9 DTLS/SCTP 65536", *channels()[1:]], NO_PORT),
        (channels("a=sctp-port:5000", "a=max-message-size:0"), None),
        (channels("a=sctp-port:5000", "a=max-message-size:16384"), None),
        (channels("a=sctp-port:5000", "a=max-message-size:16383"), NO_MESSAGE),
        (channels("a=sctp-port:5000", "a=max-message-size:1"), NO_MESSAGE),
        (channels("a=sctp-port:5000", "a=max-message-size:-1"), NO_MESSAGE),
        ([f"a=extmap:1 {EXTENSION}"], None),
        ([f"a=extmap:255 {EXTENSION}"], None),
        ([f"a=extmap:0 {EXTENSION}"], NO_NUMBER),
        ([f"a=extmap:256 {EXTENSION}"], NO_NUMBER),
        ([f"a=extmap:-1 {EXTENSION}"], NO_NUMBER),
    ],
)
def test_what_fails_once_the_connection_is_there_is_refused(lines, sentence):
    body = filled(VIDEO, lines)
    if sentence is None:
        assert reduced(*lines)
    else:
        assert refusal(body) == (422, sentence)


def test_media_that_are_not_told_apart_are_refused():
    assert refusal(filled(VIDEO, section("audio", 0)))[0] == 400
    assert len(reduced(*section("audio", 1))) > len(VIDEO)


def test_the_limits_are_exact():
    candidates = [f"a=candidate:{n} 1 udp 1 10.0.0.1 5 typ host" for n in range(MAX_CANDIDATES)]
    assert len(reduced(*candidates)) == len(VIDEO) + MAX_CANDIDATES
    assert refusal(filled(VIDEO, [*candidates, "a=candidate:1"]))[0] == 422
    assert refusal(filled(VIDEO, ["m=x"] * (MAX_MEDIA - 1)))[0] == 400
    assert "17 media sections" in refusal(filled(VIDEO, ["m=x"] * MAX_MEDIA))[1]
    assert reduced("a=" + "b" * (MAX_LINE - 2)) == reduced()
    assert "4097 characters" in refusal(filled(VIDEO, ["a=" + "b" * (MAX_LINE - 1)]))[1]
    spare = MAX_LINES - len(VIDEO)
    assert reduced(*["a=b"] * spare) == reduced()
    assert "2001 lines" in refusal(filled(VIDEO, ["a=b"] * (spare + 1)))[1]


def test_what_is_no_text_is_refused():
    assert refusal(b"v=0\xff")[0] == 400
    assert refusal(b"")[0] == 400
    assert refusal(b"v=0")[0] == 422


LINES = st.sampled_from(
    [*SESSION, *section("video", 0), *section("audio", 1), *offer().splitlines(), "m=", "a=", ""]
)
ODD = st.text(alphabet=st.sampled_from("a=m:/ 09\r\n\x0b%é*"), max_size=20)


@settings(max_examples=200)
@given(st.lists(st.tuples(LINES, st.just("") | ODD), max_size=60))
def test_whatever_is_offered_is_read_or_refused(parts):
    body = "v=0\r\n" + "\r\n".join(line + odd for line, odd in parts)
    left = read_or_refused(body.encode())
    assert not left or read_offer(left.encode()).sdp == left
