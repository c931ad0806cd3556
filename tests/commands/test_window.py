"""The demo's window on a virtual screen."""

import os
import shutil
import subprocess
import sys
import time

import pytest

missing = [name for name in ("Xvfb", "xdotool") if shutil.which(name) is None]
needs_screen = pytest.mark.skipif(bool(missing), reason="needs apt install xvfb xdotool")


@pytest.mark.parametrize(
    "imports", ["from receiver import Enhancer", "import receiver.commands.cli"]
)
def test_opencv_is_loaded_before_pyav(imports):
    """In the other order OpenCV's windows hang: both contain a libxcb."""
    order = f"{imports}; import sys; m = list(sys.modules); print(m.index('cv2'), m.index('av'))"
    output = subprocess.run(
        [sys.executable, "-c", order], capture_output=True, text=True, check=True
    ).stdout
    opencv, pyav = map(int, output.split())
    assert opencv < pyav


@needs_screen
def test_q_ends_the_demo_early(tmp_path):
    command = [
        sys.executable,
        "-m",
        "receiver",
        "demo",
        "--seconds",
        "60",
        "--output",
        str(tmp_path),
    ]
    with subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "1400x700x24"],
        stdout=subprocess.PIPE,
        text=True,
    ) as screen:
        try:
            environment = os.environ | {"DISPLAY": f":{screen.stdout.readline().strip()}"}
            with subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, text=True
            ) as demo:
                find = ["xdotool", "search", "--sync", "--name", "receiver demo"]
                window = subprocess.run(
                    find, env=environment, capture_output=True, text=True, check=True, timeout=60
                ).stdout.split()[0]
                time.sleep(2.0)
                began = time.monotonic()
                while demo.poll() is None and time.monotonic() < began + 30:
                    press = ["xdotool", "windowfocus", window, "key", "--window", window, "q"]
                    subprocess.run(press, env=environment, check=False, capture_output=True)
                    time.sleep(0.5)
                said = demo.communicate(timeout=30)[0]
        finally:
            screen.terminate()
    assert demo.returncode == 0
    assert "frames" in said
    assert sorted(path.name for path in tmp_path.iterdir())[0] == "demo.mp4"
