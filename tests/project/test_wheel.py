"""What a stranger installs."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_the_receiver_its_weights_and_keyframes_alone(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("keyframe_receiver-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {
        "receiver",
        "keyframes",
    }
    files = ("lite.onnx", "lite-int8.onnx", "lite-int8-align.onnx", "lite.json")
    assert {f"receiver/weights/{file}" for file in files} <= set(names)
    assert {"receiver/py.typed", "keyframes/py.typed"} <= set(names)
    metadata = next(name for name in names if name.endswith("METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    needed = [
        re.findall(r"[\w-]+", line)[1]
        for line in lines
        if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    assert sorted(set(needed)) == [
        "aiohttp",
        "aiortc",
        "av",
        "dlib-bin",
        "face-recognition-models",
        "numpy",
        "onnxruntime",
        "onnxruntime-gpu",
        "opencv-python",
        "prometheus-client",
        "rich",
    ]


def test_neither_package_imports_torch():
    script = "import receiver.commands.cli, keyframes, sys; print('torch' in sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "False"
