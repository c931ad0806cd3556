"""What clients make of the parts of a stranger's answer: addresses, links, text."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.errors import InputError
from receiver.signalling.addresses import Reach, reach_of_address, reach_of_name
from receiver.signalling.client import Client, SessionError, shown
from receiver.signalling.janus import Janus
from receiver.signalling.links import MOST_LINK_TEXT, MOST_LINKS, ice_servers, read_links
from receiver.signalling.sessions import open_publishing, open_session
from receiver.text import MOST_TEXT, printable


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("8.8.8.8", Reach.PUBLIC),
        ("2606:4700::1111", Reach.PUBLIC),
        ("64:ff9b::808:808", Reach.PUBLIC),
        ("2002:808:808::1", Reach.PUBLIC),
        ("10.0.0.1", Reach.PRIVATE),
        ("172.16.0.1", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("169.254.169.254", Reach.PRIVATE),
        ("198.18.0.1", Reach.PRIVATE),
        ("240.0.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("fe80::1", Reach.PRIVATE),
        ("fe80::1%eth0", Reach.PRIVATE),
        ("fec0::1", Reach.PRIVATE),
        ("::ffff:10.0.0.1", Reach.PRIVATE),
        ("::10.0.0.1", Reach.PRIVATE),
        ("64:ff9b::a00:1", Reach.PRIVATE),
        ("2002:a00:1::1", Reach.PRIVATE),
        ("127.0.0.1", Reach.LOOPBACK),
        ("127.255.255.254", Reach.LOOPBACK),
        ("0.0.0.0", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("::", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("::ffff:7f00:1", Reach.LOOPBACK),
        ("::127.0.0.1", Reach.LOOPBACK),
        ("64:ff9b::7f00:1", Reach.LOOPBACK),
        ("2002:7f00:1::", Reach.LOOPBACK),
        ("224.0.0.251", Reach.NOWHERE),
        ("ff02::fb", Reach.NOWHERE),
        ("::ffff:224.0.0.1", Reach.NOWHERE),
        ("255.255.255.255", Reach.NOWHERE),
        ("", Reach.NOWHERE),
        ("127.1", Reach.NOWHERE),
        ("sfu.example", Reach.NOWHERE),
    ],
)
def test_the_reach_of_an_address(address, reach):
    assert reach_of_address(address) is reach


@pytest.mark.parametrize(
    ("host", "reach"),
    [
        ("localhost", Reach.LOOPBACK),
        ("LocalHost.", Reach.LOOPBACK),
        ("a.localhost", Reach.LOOPBACK),
        ("printer.local", Reach.PRIVATE),
        ("printer.LOCAL.", Reach.PRIVATE),
        ("::1", Reach.LOOPBACK),
        ("10.0.0.1", Reach.PRIVATE),
        ("sfu.example", None),
        ("localhost.example", None),
        ("mylocal", None),
        ("127.1", None),
    ],
)
def test_the_reach_of_a_name(host, reach):
    assert reach_of_name(host) is reach


@pytest.mark.parametrize(
    ("home", "allowed"),
    [
        (Reach.PUBLIC, []),
        (Reach.PRIVATE, ["10.0.0.1", "192.168.1.1"]),
        (Reach.LOOPBACK, ["10.0.0.1", "192.168.1.1", "127.0.0.1"]),
    ],
)
async def test_an_endpoint_names_stun_servers_up_to_its_own_reach(home, allowed):
    named = ["10.0.0.1", "192.168.1.1", "127.0.0.1", "224.0.0.1"]
    async with Client("http://sfu.example/", None).opened() as client:
        client.reach = home
        found = [
            await ice_servers(client, [f"<stun:{one}>; rel=ice-server"])
            for one in (*named, "1.1.1.1")
        ]
    assert [one for one, servers in zip(named, found, strict=False) if servers] == allowed
    assert [one.urls for one in found[-1]] == ["stun:1.1.1.1"]


async def test_a_second_server_is_taken_if_the_first_may_not_be_named():
    links = ["<stun:127.0.0.1>; rel=ice-server", "<stun:1.1.1.1>; rel=ice-server"]
    turn = '<turns:1.1.1.1:443?transport=tcp>; rel="ice-server"; username="u"; credential="c"'
    async with Client("http://sfu.example/", None).opened() as client:
        found = await ice_servers(client, [*links, turn])
    assert [(one.urls, one.username, one.credential) for one in found] == [
        ("stun:1.1.1.1", None, None),
        ("turns:1.1.1.1:443?transport=tcp", "u", "c"),
    ]


def test_links_are_read_as_rfc_8288_writes_them():
    text = '<a?x=1,2>; REL=next; title="b, <c>; \\"d\\"" , , <e>;flag;rel="f g"'
    first, second = read_links([text])
    assert (first.target, first.parameters) == ("a?x=1,2", {"rel": "next", "title": 'b, <c>; "d"'})
    assert (second.target, second.parameters) == ("e", {"flag": "", "rel": "f g"})
    assert read_links([]) == read_links(["", " "]) == read_links([","]) == []
    assert len(read_links(["<a>"] * MOST_LINKS)) == MOST_LINKS


@given(st.lists(st.text('<>;,="\\ abrel-'), max_size=4))
def test_whatever_a_link_header_is_it_is_read_or_malformed(headers):
    try:
        links = read_links(headers)
    except ValueError:
        return
    assert len(links) <= MOST_LINKS


@pytest.mark.parametrize("piece", [" ", ",", "<", ";", "; ", '"', "\\", "=", "<a>;x ", '<a>;a="\\'])
def test_links_are_read_in_linear_time(piece):
    for start in ("", "<a>", "<a>;", "<a>;b", "<a>;b=", '<a>;b="'):
        text = (start + piece * MOST_LINK_TEXT)[: MOST_LINK_TEXT - 1] + "x"
        began = time.process_time()
        with contextlib.suppress(ValueError):
            read_links([text])
        assert time.process_time() - began < 0.2


@given(st.text())
def test_a_strangers_text_is_one_printable_line(text):
    line = printable(text)
    assert line.isprintable()
    assert len(line) <= MOST_TEXT


def test_a_strangers_text_stays_readable():
    assert printable("  no such\r\n room\t7 ") == "no such room 7"
    assert printable("Grüße, 会議 🙂") == "Grüße, 会議 🙂"
    for bad in (
        "\x00",
        "\x07",
        "\x1b",
        "\x7f",
        "\x9b",
        "\u202e",
        "\u2066",
        "\u200b",
        "\u2028",
        "\ud800",
    ):
        assert printable(f"a{bad}b") == "a b"
    assert printable("x" * 10**6) == "x" * (MOST_TEXT - 1) + "…"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://me:secret@sfu.example/whep", "https://sfu.example/whep"),
        ("https://me@sfu.example", "https://sfu.example"),
        ("janus+http://a:b@c@d/janus?room=1", "janus+http://d/janus?room=1"),
        ("http://sfu.example/a@b?c=d@e", "http://sfu.example/a@b?c=d@e"),
    ],
)
def test_no_password_of_a_url_is_said(url, said):
    assert shown(url) == said


@pytest.mark.parametrize(
    ("url", "token", "words"),
    [
        ("http://", None, "has no host"),
        ("http:///x", None, "has no host"),
        ("http://[::1", None, "is not a valid address"),
        ("http://a:99999/", None, "is not a valid address"),
        ("http://127.0.0.1:9/", "two\nlines", "has an invalid character"),
        ("http://127.0.0.1:9/", "s\u00e9cret", "has an invalid character"),
        ("http://me:you@127.0.0.1:9/", "secret", "has a user, and there is a token"),
    ],
)
async def test_a_url_or_token_that_cannot_be_used_is_told(url, token, words):
    for opened in (
        open_session(url, token, lambda *_: None),
        open_publishing(url, token, lambda _: None),
    ):
        with pytest.raises(InputError, match=words) as caught:
            async with opened:
                pass
        assert "secret" not in str(caught.value)
        assert "you" not in str(caught.value)


@pytest.mark.parametrize("url", ["janus+http://[/janus?room=1", "janus+http:///janus?room=1"])
def test_a_janus_address_without_a_host_is_told(url):
    with pytest.raises(InputError):
        Janus(url, None, 1)


async def test_a_name_that_is_none_is_told():
    with pytest.raises(SessionError, match="does not answer"):
        async with open_session(f"http://{'a' * 70}.example/", None, lambda *_: None):
            pass
