"""Commands on a machine that has no network interface but loopback, or none at all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import pytest

LOOPBACK_UP = (
    "import fcntl, socket, struct\n"
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 0x41))"  # SIOCSIFFLAGS
)
RECEIVER = f"{sys.executable} -m receiver"


def alone(script: str, *, loopback: bool = True, seconds: float = 240.0) -> tuple[int, str]:
    """Runs a shell script in a separate network namespace; returns exit code and output."""
    up = f'{sys.executable} -c "{LOOPBACK_UP}"\n' if loopback else ""
    ran = subprocess.run(
        ["unshare", "-rn", "sh", "-c", up + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )
    return ran.returncode, ran.stdout.decode()


def is_permitted() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not is_permitted(), reason="needs unshare -rn")


def test_the_demo_calls_itself_over_the_loopback_address(tmp_path):
    code, said = alone(f"{RECEIVER} demo --seconds 1 --quality fast --json --output {tmp_path}")
    assert code == 0, said
    assert json.loads(said)["frames"]["received"] > 20
    assert (tmp_path / "demo.mp4").stat().st_size > 0


def test_without_an_interface_the_demo_says_so(tmp_path):
    code, said = alone(
        f"{RECEIVER} demo --seconds 1 --quality fast --json --output {tmp_path}", loopback=False
    )
    assert code == 2
    assert said.splitlines() == [
        "receiver: this machine cannot connect to itself: no network interface is up, not even "
        "loopback; enable it with: ip link set lo up"
    ]
    assert not list(tmp_path.iterdir())


def test_a_clip_is_sent_restored_and_watched_over_the_loopback_address(clip: Path, tmp_path):
    """By the three commands, each with its own process."""
    code, said = alone(f"""
        {RECEIVER} serve --port 8091 --calls 1 --quality fast > {tmp_path}/serve 2>&1 & serve=$!
        until grep -q http {tmp_path}/serve; do sleep 0.2; done
        {RECEIVER} send {clip} http://127.0.0.1:8091/whip/me/ > {tmp_path}/send 2>&1 & send=$!
        until grep -q 'sending to' {tmp_path}/send; do sleep 0.2; done
        {RECEIVER} join http://127.0.0.1:8091/whep/me/ --record {tmp_path}/call.mp4 \
            --quality fast > {tmp_path}/join 2>&1 & join=$!
        until grep -q 'in the call' {tmp_path}/join; do sleep 0.2; done
        sleep 3
        kill -INT $join; wait $join; code=$?
        kill -INT $send; wait $send
        kill -INT $serve; wait $serve
        cat {tmp_path}/join {tmp_path}/send {tmp_path}/serve
        exit $code
    """)
    assert code == 0, said
    with av.open(str(tmp_path / "call.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) > 20
