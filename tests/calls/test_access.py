"""Tokens, their roles and rooms, against the real server; and where tokens come from."""

import asyncio
import dataclasses

import pytest
from yarl import URL

from receiver.calls.access import (
    FAILURES,
    LARGEST_TOKEN_FILE,
    ROLES,
    Attempts,
    Grant,
    client_token,
    network_of,
    parse_token,
    server_tokens,
)
from receiver.calls.config import ServeConfig
from receiver.calls.listener import Limits
from receiver.calls.responses import HEADERS
from receiver.calls.server import Server, listening
from receiver.commands import cli
from receiver.errors import InputError
from tests.calls.peer import SDP, Peer, serving
from tests.calls.test_slow_clients import no_enhancer

EVERYTHING = frozenset(ROLES)


def bearer(secret: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"Authorization": f"{scheme} {secret}"}


@pytest.mark.parametrize(
    ("text", "roles", "room", "secret"),
    [
        ("secret", EVERYTHING, None, "secret"),
        ("publish", EVERYTHING, None, "publish"),
        ("publisher:x", EVERYTHING, None, "publisher:x"),
        ("se:cr@et,", EVERYTHING, None, "se:cr@et,"),
        ("publish:secret", {"publish"}, None, "secret"),
        ("watch,stats:a:b@c,d", {"watch", "stats"}, None, "a:b@c,d"),
        ("all:publish:x", EVERYTHING, None, "publish:x"),
        ("all@studio:secret", EVERYTHING, "studio", "secret"),
        ("watch@a@b:secret", {"watch"}, "a@b", "secret"),
        ("watch@a%3Ab%2Fc%25:secret", {"watch"}, "a:b/c%", "secret"),
        ("watch:pässwörd 漢字", {"watch"}, None, "pässwörd 漢字"),
    ],
)
def test_a_token_is_read_in_one_way(text, roles, room, secret):
    token = parse_token(text)
    assert token.grant == Grant(frozenset(roles), room)
    assert token.digest == parse_token(f"all:{secret}").digest
    assert token.length == len(secret)
    assert secret not in repr(token) or secret in ("publish",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the token is empty"),
        ("watch:", "the token is empty"),
        ("watch@room", "begins with watch but has no ':'"),
        ("watch,publish", "begins with watch but has no ':'"),
        ("watch,enter:secret", "'enter' is no role"),
        ("watch,:secret", "'' is no role"),
        ("watch@:secret", "has an empty room: write watch@ROOM:SECRET"),
        ("two\nlines", "control characters"),
        ("zero\0", "control characters"),
        (" secret", "spaces at its ends"),
        ("watch:secret ", "spaces at its ends"),
        ("\udcff", "control characters"),
    ],
)
def test_a_token_that_cannot_be_one_is_an_error_without_the_secret(text, sentence):
    with pytest.raises(InputError, match=sentence) as raised:
        parse_token(text.replace("secret", "hush"))
    assert "hush" not in str(raised.value)


def test_tokens_come_from_options_a_file_or_the_environment(tmp_path):
    said: list[str] = []
    file = tmp_path / "tokens"
    file.write_bytes("\ufeffone\r\n\n  watch@a:two \nthree".encode())
    file.chmod(0o600)
    environment = {"RECEIVER_TOKEN": "publish:four"}

    def read(flags, path, environment=environment):
        return server_tokens(flags, path, said.append, environment)

    assert read(["a", "b"], file) == tuple(
        parse_token(text) for text in ("a", "b", "one", "watch@a:two", "three")
    )
    assert read([], None) == (parse_token("publish:four"),)
    assert read(["a"], None) == (parse_token("a"),)
    assert read([], None, {}) == ()
    with pytest.raises(InputError, match="RECEIVER_TOKEN is empty: unset it"):
        read([], None, {"RECEIVER_TOKEN": ""})
    assert said == []
    file.chmod(0o640)
    read([], file)
    (sentence,) = said
    assert f"{file} can be read or changed by other users" in sentence
    assert f"chmod 600 {file}" in sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read: No such file"),
        (b"", "holds no token"),
        (b" \n\r\n", "holds no token"),
        (b"\xff\xfe", "no UTF-8"),
        (b"x" * (LARGEST_TOKEN_FILE + 1), "has more than 65536 bytes"),
        (b"one\nwatch,two:x", "'two' is no role"),
    ],
)
def test_a_token_file_that_cannot_be_used_is_told(tmp_path, content, sentence):
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        server_tokens([], file, lambda _: None, {})


def test_a_client_gives_its_token_as_it_is_written(tmp_path):
    file = tmp_path / "token"
    file.write_text("all:x\n")
    environment = {"RECEIVER_TOKEN": "watch:y"}

    def read(flag, path, environment=environment):
        return client_token(flag, path, lambda _: None, environment)

    assert read(None, file) == "all:x"
    assert read(None, None) == "watch:y"
    assert read("publish@z", None) == "publish@z"
    assert read(None, None, {}) is None
    with pytest.raises(InputError, match="control characters"):
        read("line\nfeed", None)
    file.write_text("one\ntwo\n")
    with pytest.raises(InputError, match=f"{file} holds 2 tokens, and one is needed"):
        read(None, file)


@pytest.mark.parametrize(
    "command", [["join", "http://127.0.0.1:9/whep/a", "--record", "a.mp4"], ["send", "a.mp4", "b"]]
)
def test_one_source_of_the_token_is_enough_for_a_client(command, capsys, tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        cli.parse([*command, "--token", "a", "--token-file", "b"])
    assert "not allowed with argument" in capsys.readouterr().err
    monkeypatch.setenv("RECEIVER_TOKEN", "")
    args = cli.parse(command)
    with pytest.raises(InputError, match="RECEIVER_TOKEN is empty"):
        args.run(args)
    args = cli.parse([*command, "--token-file", str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match="nowhere cannot be read"):
        args.run(args)


@pytest.mark.parametrize(
    ("options", "variable", "sentence"),
    [
        (["--host", "0.0.0.0"], None, "0.0.0.0 can be reached from outside: give --token"),
        (["--host", "0.0.0.0"], "x" * 15, "a token has 15 characters: give --token at least 16"),
        (["--token", "watch:"], None, "the token is empty"),
        (["--token", "a", "--token-file", "/nowhere"], None, "/nowhere cannot be read"),
    ],
)
def test_serve_says_what_is_wrong_with_its_tokens(monkeypatch, options, variable, sentence):
    monkeypatch.delenv("RECEIVER_TOKEN", raising=False)
    if variable is not None:
        monkeypatch.setenv("RECEIVER_TOKEN", variable)
    args = cli.parse(["serve", *options])
    with pytest.raises(InputError, match=sentence):
        args.run(args)


TOKENS = [
    "everything",
    "publish:pub",
    "watch,stats:wat",
    "stats:sta",
    "all@a/b:room",
    "publish@x:two",
    "watch@y:two",
]
"""Two of the last have the same secret."""
PUBLISH, END, VIEW, LEAVE, STATS = (
    ("POST", "/whip/x"),
    ("DELETE", "/whip/x/1"),
    ("POST", "/whep/x"),
    ("DELETE", "/whep/x/1"),
    ("GET", "/stats"),
)
ALLOWED = {
    "everything": {PUBLISH, END, VIEW, LEAVE, STATS},
    "pub": {PUBLISH, END},
    "wat": {VIEW, LEAVE, STATS},
    "sta": {STATS},
    "room": {STATS},
    "two": {PUBLISH, END},
}


@pytest.mark.parametrize("secret", ALLOWED)
async def test_roles_and_rooms_limit_what_a_token_is_good_for(generator, http, secret):
    async with serving(generator, tokens=TOKENS) as (_, base):
        for method, path in (PUBLISH, END, VIEW, LEAVE, STATS):
            asked = {**SDP, **bearer(secret)}
            response = await http.request(method, base + path, headers=asked)
            if (method, path) in ALLOWED[secret]:
                assert response.status in (200, 400, 404), (method, path)
                continue
            assert response.status == 403, (method, path)
            role = {"/whip": "publish", "/whep": "watch", "/stat": "stats"}[path[:5]]
            challenge = response.headers["WWW-Authenticate"]
            assert challenge.startswith('Bearer realm="receiver", error="insufficient_scope"')
            assert challenge.endswith(f'scope="{role}"')
            said = await response.text()
            assert said.startswith("this token may not ")
            assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("secret", "allowed"),
    [
        ("room", {"/whip/a%2Fb", "/whep/a%2fb", "/whep/%61%2Fb"}),
        ("two", {"/whip/x", "/whep/y"}),
    ],
)
async def test_a_room_is_the_one_of_the_decoded_path(generator, http, secret, allowed):
    """A body that is no offer is answered 400 where the token is good for the room."""
    others = {"/whip/a%252Fb", "/whip/A%2FB", "/whip/a", "/whep/x", "/whip/y", "/whip/a%2Fb%2F"}
    async with serving(generator, tokens=TOKENS) as (_, base):
        for path in allowed | others:
            url = URL(base + path, encoded=True)
            status = (await http.post(url, headers=SDP | bearer(secret))).status
            assert status == (400 if path in allowed else 403), path
        # Not one room whose name has a slash, but a path that does not exist.
        url = URL(base + "/whip/a/b", encoded=True)
        assert (await http.post(url, headers=SDP | bearer(secret))).status == 405


async def test_a_token_of_a_room_sees_only_that_rooms_figures(generator, http):
    tokens = ["stats@a:only-a", "stats:all", "stats@a:a-and-b", "stats@b:a-and-b"]
    async with serving(generator, tokens=[*tokens, "publish:pub"], rooms=2) as (_, base):
        peers = []
        http.headers.update(bearer("pub"))
        for name in "ab":
            peers.append(Peer(http, base))
            assert (await peers[-1].publish(name)).status == 201
        for secret, rooms in (("only-a", {"a"}), ("all", {"a", "b"}), ("a-and-b", {"a", "b"})):
            stats = await http.get(base + "/stats", headers=bearer(secret))
            assert set(await stats.json()) - {""} == rooms
            assert ("" in await stats.json()) is (secret == "all")  # of the whole server
            metrics = await (await http.get(base + "/metrics", headers=bearer(secret))).text()
            assert {name for name in "ab" if f'{{room="{name}"' in metrics} == rooms
            assert ("receiver_capacity 2.0" in metrics) is (secret == "all")
        for peer in peers:
            await peer.close()


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ([], 401, None),
        ([b"Bearer"], 401, None),
        ([b"Bearer "], 401, None),
        ([b"Basic c2VjcmV0"], 401, None),
        ([b"secret"], 401, None),
        ([b"Bearer wrong"], 401, "invalid_token"),
        ([b"Bearer Secret"], 401, "invalid_token"),
        ([b"Bearer secret,"], 401, "invalid_token"),
        ([b"Bearer secret", b"Bearer wrong"], 400, None),
        ([b"Bearer secret", b"Bearer secret"], 400, None),
        ([b"Bearer \xff"], 401, "invalid_token"),
        ([b"Bearer secret"], 200, None),
        ([b"bearer secret"], 200, None),
        ([b"BEARER   secret  "], 200, None),
        (["Bearer pässwörd 漢字".encode()], 200, None),
        (["Bearer pässwörd".encode("latin-1")], 401, "invalid_token"),
    ],
)
async def test_the_authorization_header_is_read_as_the_standard_says(headers, status, error):
    tokens = tuple(parse_token(text) for text in ("secret", "pässwörd 漢字"))
    server = Server(ServeConfig(port=0, tokens=tokens), no_enhancer)
    async with listening(server) as url:
        port = int(url.rsplit(":", 1)[1].strip("/"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        lines = b"".join(b"Authorization: " + value + b"\r\n" for value in headers)
        writer.write(b"GET /stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + lines + b"\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    assert answer.split(b" ", 2)[1] == str(status).encode()
    if status == 401:
        challenge = 'Bearer realm="receiver"' + (f', error="{error}"' if error else "")
        assert f"\r\nWWW-Authenticate: {challenge}\r\n".encode() in answer


async def test_wrong_tokens_are_limited_and_the_right_one_gets_in(generator, http):
    async with serving(generator, token="secret") as (_, base):
        for _ in range(FAILURES):
            assert (await http.get(base + "/stats", headers=bearer("no"))).status == 401
        for path in ("/stats", "/whip/a"):
            response = await http.get(base + path, headers=bearer("no"))
            assert response.status == 429
            assert 50 <= int(response.headers["Retry-After"]) <= 60
            assert "too many wrong tokens" in await response.text()
        assert (await http.get(base + "/stats")).status == 401  # without a token nothing is tried
        assert (await http.get(base + "/")).status == 200
        assert (await http.get(base + "/stats", headers=bearer("secret"))).status == 200


def test_wrong_tokens_are_counted_by_network_and_forgotten():
    now = 0.0
    attempts = Attempts(most=2, seconds=10, networks=3, clock=lambda: now)
    assert [attempts.failed("a") for _ in range(4)] == [0, 0, 10, 10]
    assert attempts.failed("b") == 0
    now = 9.0
    assert attempts.failed("a") == 1
    now = 10.0
    assert [attempts.failed("a") for _ in range(3)] == [0, 0, 10]
    for name in "cdefgh":
        attempts.failed(name)
    assert len(attempts) == 3


def test_the_count_that_is_forgotten_is_the_oldest():
    now = 0.0
    attempts = Attempts(most=1, seconds=10, networks=2, clock=lambda: now)
    attempts.failed("a")
    attempts.failed("b")
    now = 10.0
    attempts.failed("a")  # begins again, so that b is the oldest
    attempts.failed("c")
    assert attempts.failed("a") > 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_an_address_is_counted_with_its_network(address, network):
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("//whip/a", 401),
        ("/whip//a", 401),
        ("/./stats", 401),
        ("/page.js/../stats", 401),
        ("/%73tats", 401),
        ("/stats/", 401),
        ("/stats%2F", 401),
        ("/healthz/../stats", 401),
        ("/healthz/", 401),
        ("/healthz?x=/stats", 200),
        ("/nowhere", 401),
        ("/page.js", 200),
        ("/page%2Ejs", 200),
        ("http://a/stats", 401),
        ("http://a/healthz", 200),
        ("*", 401),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PUT"])
async def test_no_spelling_of_a_path_gets_around_the_token(method, path, status):
    """The path goes over the wire as it is: clients would tidy it."""
    server = Server(ServeConfig(port=0, tokens=(parse_token("secret"),)), no_enhancer)
    async with listening(server) as url:
        port = int(url.rsplit(":", 1)[1].strip("/"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
    got = int(answer.split(b" ", 2)[1])
    if method in ("GET", "HEAD"):
        assert got in (status, 400)
    else:
        assert got in (400, 401)


async def test_the_health_check_answers_everybody_and_tells_nothing(generator, http):
    for config in ({}, {"token": "secret"}):
        async with serving(generator, **config) as (_, base):
            for host in ("127.0.0.1", "receiver.example", "", "["):
                response = await http.get(base + "/healthz", headers={"Host": host})
                assert (response.status, await response.text()) == (200, "ok\n")
                assert response.content_type == "text/plain"
            assert (await http.head(base + "/healthz")).status == 200


async def test_options_answers_without_a_token_and_tells_nothing_of_rooms(generator, http):
    async with serving(generator, token="secret") as (_, base):
        for path in ("/whip/a", "/whep/a", "/stats", "/nowhere"):
            response = await http.options(base + path)
            assert (response.status, await response.read()) == (204, b"")
            assert response.headers["Accept-Post"] == "application/sdp"


async def test_every_answer_has_the_headers_that_protect_a_browser(generator, http):
    async with serving(generator, token="secret") as (_, base):
        right = bearer("secret")
        asked = [
            ("GET", "/", {}, 200),
            ("GET", "/page.js", {}, 200),
            ("GET", "/healthz", {}, 200),
            ("GET", "/stats", {}, 401),
            ("GET", "/stats", right, 200),
            ("GET", "/nowhere", right, 404),
            ("PUT", "/stats", right, 405),
            ("POST", "/whip/a", right, 415),
            ("OPTIONS", "/whip/a", {}, 204),
        ]
        for method, path, headers, status in asked:
            response = await http.request(method, base + path, headers=headers)
            assert response.status == status
            for name in HEADERS:
                expected = HEADERS[name]
                if name == "Cache-Control" and path in ("/", "/page.js", "/healthz"):
                    expected = "no-cache"
                assert response.headers.getall(name) == [expected], (method, path)
        policy = HEADERS["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert HEADERS["X-Content-Type-Options"] == "nosniff"
        assert HEADERS["Referrer-Policy"] == "no-referrer"


async def test_a_fault_of_the_server_has_those_headers_too(http):
    server = Server(ServeConfig(port=0, cors=True), no_enhancer)

    async def fails(request):
        raise RuntimeError("a fault of the server")

    server._stats = fails
    async with listening(server) as url:
        response = await http.get(url + "stats")
        assert response.status == 500
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Access-Control-Allow-Origin"] == "*"


def test_no_secret_is_in_what_a_config_prints():
    config = ServeConfig(tokens=(parse_token("watch@a:hush-hush"),), limits=Limits())
    assert "hush" not in repr(config)
    assert "digest" not in repr(config)
    assert dataclasses.replace(config, port=1).tokens == config.tokens
