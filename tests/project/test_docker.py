"""What the container runs: whose rights it has, and when it is healthy."""

import asyncio
import os
import shutil
import ssl
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.calls.peer import self_signed

DOCKER = Path(__file__).parents[2] / "docker"

# A stand-in for the receiver: reports its rights, and writes where it was started.
RECEIVER = """#!/bin/sh
echo "$(id -u):$(id -g):$(id -G)"
grep -h CapEff /proc/self/status
grep -h CapBnd /proc/self/status
echo "$HOME"
printf '<%s>' "$@"
echo
(echo done >written) 2>/dev/null || :
"""

as_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0 or shutil.which("setpriv") is None,
    reason="needs to be root on Linux",
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can reach, with the stand-in and a folder `out` of root's."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "bin").mkdir()
        (path / "bin" / "receiver").write_text(RECEIVER)
        (path / "bin" / "receiver").chmod(0o755)
        shutil.copy(DOCKER / "entrypoint", path / "bin" / "entrypoint")
        (path / "out").mkdir(mode=0o755)
        yield path


def run(place: Path, *arguments: str, before: tuple[str, ...] = ()) -> list[str]:
    """Lines that the stand-in says when the entrypoint starts it in the folder `out`."""
    environment = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "HOME": "/root"}
    result = subprocess.run(
        [*before, str(place / "bin" / "entrypoint"), *arguments],
        cwd=place / "out",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def owner(path: Path) -> str:
    status = path.stat()
    return f"{status.st_uid}:{status.st_gid}"


NO_RIGHTS = ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"]


@as_root
def test_a_folder_of_the_users_is_written_to_as_the_user(place):
    os.chown(place / "out", 1234, 2345)
    said = run(place, "enhance", "a b.mp4", "")
    assert said == ["1234:2345:2345", *NO_RIGHTS, "/tmp", "<enhance><a b.mp4><>"]
    assert owner(place / "out" / "written") == "1234:2345"


@as_root
def test_a_folder_that_docker_made_as_root_becomes_the_callers(place):
    said = run(place, "demo")
    assert said[:3] == ["1000:1000:1000", *NO_RIGHTS]
    assert owner(place / "out") == owner(place / "out" / "written") == "1000:1000"


@as_root
def test_a_folder_of_roots_that_holds_something_stays_roots(place):
    (place / "out" / "other").write_text("")
    said = run(place, "demo")
    assert said[0] == "1000:1000:1000"
    assert owner(place / "out") == "0:0"
    assert not (place / "out" / "written").exists()


@as_root
def test_groups_that_were_added_are_kept_but_not_roots(place):
    said = run(place, "demo", before=("setpriv", "--groups", "0,44,109"))
    assert said[0] == "1000:1000:1000 44 109"


@as_root
def test_another_user_by_the_option_is_kept(place):
    os.chown(place / "out", 1234, 1234)
    before = ("setpriv", "--reuid", "4321", "--regid", "1234", "--clear-groups")
    os.chmod(place / "out", 0o775)
    assert run(place, "demo", before=before)[0] == "4321:1234:1234"
    assert owner(place / "out" / "written") == "4321:1234"


@as_root
def test_a_rootless_container_stays_the_user_outside_without_roots_rights(place):
    os.chown(place / "out", 1234, 1234)
    before = ("setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups")
    before = (*before, "unshare", "--user", "--map-root-user")
    try:
        subprocess.run([*before, "true"], check=True, capture_output=True)
    except subprocess.CalledProcessError:
        pytest.skip("needs to be allowed user namespaces")
    said = run(place, "demo", before=before)
    assert said[0].startswith("0:0:")  # in there
    assert said[1:3] == NO_RIGHTS
    assert owner(place / "out" / "written") == owner(place / "out") == "1234:1234"


# Health


def health(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The check of a container whose first process has these arguments."""
    (folder / "cmdline").write_bytes(b"\0".join(one.encode() for one in arguments) + b"\0")
    command = [sys.executable, str(DOCKER / "healthcheck.py"), str(folder / "cmdline")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


async def checked(folder: Path, status: int, *more: str, context=None) -> int:
    """The check's exit code with a server whose /healthz gives a status."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(status=status)

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    try:
        arguments = ["python3", "/opt/receiver/bin/receiver", "serve", "--port", str(port), *more]
        return (await asyncio.to_thread(health, folder, *arguments)).returncode
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("host", [(), ("--host", "0.0.0.0"), ("--host=127.0.0.1",)])
async def test_a_server_that_answers_is_healthy(tmp_path, host):
    assert await checked(tmp_path, 200, "--token", "not-a-real-secret", *host) == 0


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_a_server_with_another_answer_is_not(tmp_path, status):
    assert await checked(tmp_path, status) == 1


async def test_a_server_with_tls_is_asked_by_tls(tmp_path):
    self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    more = ("--tls-cert", "cert.pem", "--tls-key", "key.pem")
    assert await checked(tmp_path, 200, *more, context=context) == 0
    assert await checked(tmp_path, 200, context=context) == 1


def test_a_server_that_is_gone_is_not_healthy(tmp_path):
    result = health(tmp_path, "receiver", "serve", "--port", "1")
    assert result.returncode == 1
    assert result.stderr.startswith("no answer: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command", [["demo", "--output", "/out"], ["join", "https://x/whep", "--serve", "1"], []]
)
def test_other_commands_are_healthy_while_they_run(tmp_path, command):
    assert health(tmp_path, "receiver", *command).returncode == 0


def test_the_image_holds_what_it_runs():
    text = (DOCKER.parent / "Dockerfile").read_text()
    for name in ("entrypoint", "healthcheck.py"):
        assert f"docker/{name}" in text
        assert (DOCKER / name).stat().st_mode & stat.S_IXOTH
