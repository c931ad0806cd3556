"""How tokens are written, where they come from, and how wrong ones are counted."""

import dataclasses

import pytest

from receiver.calls.access import (
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
from receiver.commands import cli
from receiver.errors import InputError

EVERYTHING = frozenset(ROLES)


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
        ("watch,enter:secret", "'enter' is not a role"),
        ("watch,:secret", "'' is not a role"),
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
        (b"", "has no token"),
        (b" \n\r\n", "has no token"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"x" * (LARGEST_TOKEN_FILE + 1), "has more than 65536 bytes"),
        (b"one\nwatch,two:x", "'two' is not a role"),
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
    with pytest.raises(InputError, match=f"{file} has 2 tokens, but one is needed"):
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


def test_no_secret_is_in_what_a_config_prints():
    config = ServeConfig(tokens=(parse_token("watch@a:hush-hush"),), limits=Limits())
    assert "hush" not in repr(config)
    assert "digest" not in repr(config)
    assert dataclasses.replace(config, port=1).tokens == config.tokens
