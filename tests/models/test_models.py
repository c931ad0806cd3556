"""Preparing, training and exporting, small but real: on the demo's own clip."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from models.data.samples import Crops, ReferenceMix
from models.export import (
    HALF_TOLERANCE,
    TOLERANCE,
    export,
    load_trained,
    onnx_difference,
    write_half,
)
from models.networks.lite import Lite, LiteConfig, shift, shuffle4
from models.openh264 import OpenH264, through_any_codec
from models.prepare import prepare_clip
from models.quantize import Levels
from models.training.config import TrainConfig, load_config
from models.training.trainer import Trainer
from receiver.enhance.faces.generator import CHANNELS, Generator
from tests.conftest import write_clip

CONFIGS = Path(__file__).parents[2] / "models" / "configs"
SMALL = TrainConfig(steps=4, batch=2, side=64, warmup=1, workers=0)


@pytest.fixture(scope="module")
def shards(portrait, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    videos = folder / "videos"
    videos.mkdir()
    write_clip(videos / "portrait.mp4", portrait, with_audio=False, crf=12)
    assert prepare_clip(videos / "portrait.mp4", folder / "data", 2, 20, 0) >= 40
    return folder / "data"


def random_inputs(count: int = 1, side: int = 256) -> tuple[torch.Tensor, ...]:
    return tuple(torch.rand(count, channels, side, side) for channels in CHANNELS.values())


def awake(network: Lite) -> Lite:
    """With the layers that start at zero moved, so that every part counts."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, 0.0, 0.02)
    return network.eval()


def test_a_shard_holds_what_it_says(shards):
    about = json.loads(next(shards.glob("*/shard.json")).read_text())
    folder = next(shards.glob("*/shard.json")).parent
    count = len(about["index"])
    assert np.load(folder / "degraded.npy").shape == (count, 256, 256, 3)
    assert np.load(folder / "landmarks.npy").shape == (count, 68, 2)
    degraded = np.load(folder / "degraded.npy").astype(float)
    target = np.load(folder / "target.npy").astype(float)
    # The same picture before and after the codec: neither equal nor strangers.
    assert 0.5 < np.abs(degraded - target).mean() < 12
    assert all(20 < qp <= 51 for qp in about["qp"])


def test_samples_repeat_and_know_whether_they_are_guided(shards):
    none = Crops(shards, 8, 128, ReferenceMix(0, 0, 0), seed=1)
    every = Crops(shards, 8, 128, ReferenceMix(1, 0, 0), seed=1)
    for index in range(8):
        sample = none[index]
        assert torch.equal(sample["degraded"], sample["reference"])
        assert sample["guided"] == 0
        guided = every[index]
        assert guided["guided"] == 1
        assert not torch.equal(guided["degraded"], guided["reference"])
        assert all(torch.equal(value, every[index][name]) for name, value in guided.items())
        assert guided["target"].shape == (3, 128, 128)
        assert guided["landmarks"].shape == (1, 128, 128)


def test_a_folder_without_shards_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m models\.prepare"):
        Crops(tmp_path, 1, 64, ReferenceMix(), 0)


def test_an_untrained_network_changes_nothing():
    inputs = random_inputs()
    assert torch.equal(Lite().eval()(*inputs), inputs[0])


def test_the_network_fits_its_budget():
    parameters = sum(parameter.numel() for parameter in Lite().parameters())
    assert parameters * 4 < 6e6


def test_shuffle_is_pixel_shuffle():
    x = torch.rand(2, 48, 8, 5)
    assert torch.equal(shuffle4(x), torch.nn.functional.pixel_shuffle(x, 4))


def test_shift_samples_where_the_flow_points():
    image = torch.rand(1, 3, 32, 32)
    flow = torch.zeros(1, 2, 4, 4)
    torch.testing.assert_close(shift(image, flow), image, atol=1e-5, rtol=0)
    flow[:, 0], flow[:, 1] = 3.0, -2.0
    torch.testing.assert_close(
        shift(image, flow)[..., 4:28, 4:28], image[..., 2:26, 7:31], atol=1e-5, rtol=0
    )


def test_onnx_equals_pytorch(tmp_path):
    network = awake(Lite(LiteConfig()))
    path = tmp_path / "lite.onnx"
    assert export(network, path) <= TOLERANCE
    for count in (1, 3):
        assert onnx_difference(network, path, random_inputs(count)) <= TOLERANCE
    assert [p.name for p in tmp_path.iterdir()] == ["lite.onnx"]
    Generator(str(path), "cpu")


def test_an_export_that_differs_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("models.export.onnx_difference", lambda *arguments: 2 * TOLERANCE)
    with pytest.raises(ValueError, match="differs from PyTorch"):
        export(awake(Lite()), tmp_path / "lite.onnx")
    assert list(tmp_path.iterdir()) == []


def test_in_16_bits_the_warp_stays_in_32(tmp_path):
    """CUDA has GridSample in 32 bits alone: in 16 it would be done on the CPU, in every run."""
    network, path, half = awake(Lite()), tmp_path / "lite.onnx", tmp_path / "lite-half.onnx"
    export(network, path)
    assert write_half(network, path, half) <= HALF_TOLERANCE
    written = onnx.load(half)
    onnx.checker.check_model(written, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(written).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    (warp,) = (node for node in inferred.node if node.op_type == "GridSample")
    assert {types[name] for name in warp.input} == {onnx.TensorProto.FLOAT}
    convolutions = [node for node in inferred.node if node.op_type == "Conv"]
    assert {types[node.output[0]] for node in convolutions} == {onnx.TensorProto.FLOAT16}
    assert half.stat().st_size < 0.6 * path.stat().st_size
    Generator(str(half), "cpu")


def test_the_shipped_config_is_that_of_the_shipped_weights():
    config = load_config(CONFIGS / "lite.toml")
    card = Generator("lite", "cpu").model.card
    assert card is not None
    for name, value in vars(config.network).items():
        assert card["settings"][name] == list(value)
    assert card["parameters"] == sum(p.numel() for p in Lite(config.network).parameters())


def test_an_unknown_key_of_a_config_is_named(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text("stepps = 3\n")
    with pytest.raises(TypeError, match="stepps"):
        load_config(path)


def test_training_learns_resumes_and_repeats(shards, tmp_path):
    whole = Trainer(SMALL, shards, tmp_path / "whole")
    whole.run()
    first = Trainer(SMALL, shards, tmp_path / "parts")
    first.config = TrainConfig(**{**vars(SMALL), "steps": 4})
    first.crops.length = 2 * SMALL.batch  # stops after two steps
    first.run()
    assert first.step == 2
    second = Trainer(SMALL, shards, tmp_path / "parts")
    assert second.step == 2
    second.run()
    assert second.step == whole.step == 4
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(second.network.state_dict()[name], value, atol=1e-6, rtol=0)


def test_training_lowers_the_error(shards, tmp_path):
    config = TrainConfig(steps=40, batch=4, side=64, warmup=5, workers=0, learning_rate=1e-3)
    trainer = Trainer(config, shards, tmp_path)
    batch = torch.utils.data.default_collate([trainer.crops[i] for i in range(16)])
    with torch.no_grad():
        before = float(trainer.objective.losses(batch, *trainer._forward(batch))["pixels"])
    trainer.run()
    with torch.no_grad():
        after = float(trainer.objective.losses(batch, *trainer._forward(batch))["pixels"])
    assert after < before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_keeps_its_checkpoint(shards, tmp_path, how):
    config = tmp_path / "long.toml"
    config.write_text(
        "steps = 100000\nbatch = 2\nside = 64\nworkers = 0\ncheckpoint_minutes = 0.0\n"
    )
    command = [
        sys.executable,
        "-m",
        "models.train",
        str(config),
        str(shards),
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "run"
    deadline = time.monotonic() + 60
    while not (log / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "the same command continues from there" in said
    network, read, state = load_trained(log)
    assert state["step"] > 0
    assert read.batch == 2
    assert state["clips"] == ["portrait.mp4"]
    assert isinstance(network, Lite)


def test_export_from_the_command_line(shards, tmp_path):
    run = tmp_path / "run"
    Trainer(SMALL, shards, run).run()
    (run / "config.toml").write_text("batch = 2\n")
    command = [sys.executable, "-m", "models.export", str(run), "--name", "mine"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True)
    generator = Generator(str(tmp_path / "mine.onnx"), "cpu")
    assert generator.model.card is not None
    assert generator.model.expected_sha256 == generator.model.sha256
    assert generator.model.card["trained_on"] == ["portrait.mp4"]
    onnxruntime.InferenceSession(str(tmp_path / "mine.onnx"))


def test_a_quantized_run_gives_integers_that_say_the_same(shards, tmp_path):
    Trainer(SMALL, shards, tmp_path / "floats").run()
    config = replace(SMALL, quantized=True, learning_rate=1e-5)
    Trainer(config, shards, tmp_path / "run", start=tmp_path / "floats").run()
    (tmp_path / "run" / "config.toml").write_text("batch = 2\nquantized = true\n")
    command = [sys.executable, "-m", "models.export", str(tmp_path / "run"), "--name", "mine"]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True)
    floats, integers = (
        Generator(str(tmp_path / f"mine{kind}.onnx"), "cpu") for kind in ("", "-int8")
    )
    assert integers.model.card == floats.model.card
    assert integers.model.expected_sha256 == integers.model.sha256
    assert integers.model.aligner is not None
    assert floats.model.aligner is None
    files = integers.model.path, integers.model.aligner.path
    size = sum(file.stat().st_size for file in files)
    assert size < 0.6 * floats.model.path.stat().st_size
    crops = Crops(shards, 2, 256, ReferenceMix(), 0)
    inputs = [np.stack([crops[i][name].numpy() for i in range(2)]) for name in CHANNELS]
    before, after = (model.restore(*inputs) for model in (floats, integers))
    assert np.abs(before - after).mean() < 0.5 / 255


def test_rounded_tensors_keep_zero_and_lose_what_lies_beyond():
    levels = Levels()
    levels.low.fill_(-1.0)
    levels.high.fill_(1.55)
    x = torch.tensor([-2.0, 0.0, 0.004, 0.006, 1.0, 9.0])
    torch.testing.assert_close(levels(x), torch.tensor([-1.0, 0.0, 0.0, 0.01, 1.0, 1.55]))


def test_openh264_sends_one_key_frame_and_keeps_its_bitrate(portrait):
    sent = list(through_any_codec(portrait[:60], OpenH264(kbps=150), Fraction(30)))
    assert [decoded.is_keyframe for _, decoded, _ in sent] == [True] + [False] * 59
    assert [raw for raw, _, _ in sent] == portrait[:60]
    assert sum(size for _, _, size in sent) * 8 / 2.0 < 1.3 * 150_000
    assert psnr_of(*sent[-1][:2]) > 28


def psnr_of(raw, decoded) -> float:
    pictures = [frame.to_ndarray(format="gray") for frame in (raw, decoded.video)]
    return float(cv2.PSNR(*pictures))


def test_prepare_reports_what_is_broken(portrait, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    write_clip(videos / "good.mp4", portrait[:40], with_audio=False, crf=12)
    (videos / "bad.mp4").write_text("no video")
    command = [sys.executable, "-m", "models.prepare", str(videos), str(tmp_path / "out")]
    result = subprocess.run(
        [*command, "--encodings", "1", "--samples", "12", "--jobs", "1"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "12 crops of 1 clips" in result.stdout
    assert "passed over" in result.stdout
    assert "bad.mp4" in result.stdout
