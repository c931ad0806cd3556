"""Exporting to ONNX, in floats, 16-bit floats and 8-bit integers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from models import export
from models.data.samples import Crops, ReferenceMix
from models.export import FLOAT_TOLERANCE, HALF_TOLERANCE, load_trained, onnx_difference, write_half
from models.narrow import read_lite
from models.networks.lite import Lite, LiteConfig, shift, shuffle4
from models.quantize import Levels
from models.training.config import TrainConfig
from models.training.trainer import Trainer
from receiver.enhance.faces.generator import CHANNELS, Generator
from receiver.inference.models_folder import exported_model
from tests.models.conftest import activated, random_inputs
from tests.models.test_train import PAPER

TINY = LiteConfig(align_blocks=(1, 1, 1), restore_blocks=(1, 1, 1, 1, 1))
SMALL = TrainConfig(steps=4, batch=2, side=64, warmup=1, workers=0, network=TINY)
NETWORK = "[network]\nalign_blocks = [1, 1, 1]\nrestore_blocks = [1, 1, 1, 1, 1]\n"


class Blend(torch.nn.Module):
    """A generator of two operations, which is exported quickly."""

    def forward(self, degraded, reference, landmarks):
        return degraded + landmarks * reference


@pytest.fixture(scope="module")
def network() -> Lite:
    """The shipped configuration with random weights."""
    return activated(Lite())


@pytest.fixture(scope="module")
def lite(network, tmp_path_factory) -> Path:
    """The ONNX file of `network`, with a card."""
    path = tmp_path_factory.mktemp("exported") / "lite.onnx"
    assert export.export(network, path) <= FLOAT_TOLERANCE
    assert [p.name for p in path.parent.iterdir()] == ["lite.onnx"]
    state = {"earlier_steps": 5, "step": 7, "seconds": 60.0, "clips": ["a"]}
    export.write_card([path], network, TrainConfig(), state)
    return path


@pytest.fixture(scope="module")
def quantized_run(shards, tmp_path_factory) -> Path:
    """A short training in floats and a further one in 8-bit integers."""
    folder = tmp_path_factory.mktemp("runs")
    Trainer(SMALL, shards, folder / "floats").run()
    config = replace(SMALL, quantized=True, learning_rate=1e-5)
    Trainer(config, shards, folder / "run", start=folder / "floats").run()
    (folder / "run" / "config.toml").write_text(f"batch = 2\nquantized = true\n{NETWORK}")
    return folder / "run"


def test_an_untrained_network_changes_nothing():
    inputs = random_inputs()
    assert torch.equal(Lite().eval()(*inputs), inputs[0])


def test_the_network_is_smaller_than_6_mb():
    assert sum(parameter.numel() for parameter in Lite().parameters()) * 4 < 6e6


def test_shuffle4_equals_pixel_shuffle():
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


def test_onnx_equals_pytorch(network, lite):
    for count in (1, 3):
        assert onnx_difference(network, lite, random_inputs(count)) <= FLOAT_TOLERANCE
    Generator(str(lite), "cpu")


def test_an_onnx_file_does_not_name_source_files(lite):
    assert b".py" not in lite.read_bytes()


def test_an_exported_network_can_be_read_back(network, lite):
    restored, steps, minutes = read_lite(lite)
    inputs = random_inputs(1, 64)
    with torch.no_grad():
        assert torch.equal(restored(*inputs), network(*inputs))
    assert (steps, minutes) == (12, 1.0)


def test_an_export_that_differs_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("models.export.onnx_difference", lambda *arguments: 2 * FLOAT_TOLERANCE)
    with pytest.raises(ValueError, match="differs from PyTorch"):
        export.export(Blend(), tmp_path / "blend.onnx")
    assert list(tmp_path.iterdir()) == []


def test_in_16_bits_the_warp_stays_in_32(network, lite, tmp_path):
    """CUDA has GridSample in 32 bits only; in 16 bits, each run would do it on the CPU."""
    half = tmp_path / "lite-half.onnx"
    assert write_half(network, lite, half) <= HALF_TOLERANCE
    written = onnx.load(half)
    onnx.checker.check_model(written, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(written).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    (warp,) = (node for node in inferred.node if node.op_type == "GridSample")
    assert {types[name] for name in warp.input} == {onnx.TensorProto.FLOAT}
    convolutions = [node for node in inferred.node if node.op_type == "Conv"]
    assert {types[node.output[0]] for node in convolutions} == {onnx.TensorProto.FLOAT16}
    assert half.stat().st_size < 0.6 * lite.stat().st_size
    Generator(str(half), "cpu")


def test_a_quantized_run_exports_floats_and_integers_that_agree(
    quantized_run, shards, tmp_path, monkeypatch, command, capsys
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert command(export.main, quantized_run, "--name", "mine") == 0
    paths = [exported_model(f"mine{kind}") for kind in ("", "-int8")]
    assert [path.parent for path in paths] == [tmp_path / "keyframe-receiver" / "models"] * 2
    printed = capsys.readouterr().out
    assert all(str(path) in printed for path in paths)
    assert printed.endswith("use it with receiver --model mine\n")
    floats, integers = (Generator(str(path), "cpu") for path in paths)
    assert Generator("mine", "cpu").model.path == paths[1]
    assert floats.model.card["trained_on"] == ["portrait.mp4"]
    assert floats.model.expected_sha256 == floats.model.sha256
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


def test_a_shipped_name_is_given_by_its_path(quantized_run, tmp_path, monkeypatch, command, capsys):
    """`--model lite` loads the shipped lite, and a folder of --out is not searched."""
    written = [tmp_path / "lite.onnx"]

    def write(path: Path, *arguments: object) -> tuple[list[Path], float]:
        path.write_bytes(b"")
        return [path], 0.0

    monkeypatch.setattr("models.export.write_files", write)
    assert command(export.main, quantized_run, "--out", tmp_path) == 0
    assert capsys.readouterr().out.endswith(f"--model {written[0]}\n")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert command(export.main, quantized_run) == 0
    assert capsys.readouterr().out.endswith(f"--model {exported_model('lite')}\n")
    assert command(export.main, quantized_run, "--name", "mine", "--out", tmp_path) == 0
    assert capsys.readouterr().out.endswith(f"--model {tmp_path / 'mine.onnx'}\n")


@pytest.mark.parametrize("content", [None, "stepps = 3\n", "steps ="])
def test_a_folder_without_a_training_is_reported_in_one_line(tmp_path, command, capsys, content):
    if content is not None:
        (tmp_path / "config.toml").write_text(content)
    assert command(export.main, tmp_path) == 2
    assert f"{tmp_path} holds no training" in capsys.readouterr().err.splitlines()[-1]


def test_rounding_keeps_zero_and_clips_to_the_range():
    levels = Levels()
    levels.low.fill_(-1.0)
    levels.high.fill_(1.55)
    x = torch.tensor([-2.0, 0.0, 0.004, 0.006, 1.0, 9.0])
    torch.testing.assert_close(levels(x), torch.tensor([-1.0, 0.0, 0.0, 0.01, 1.0, 1.55]))


@pytest.mark.timeout(600)  # PyTorch traces its three backbones for half a minute of CPU time
def test_the_papers_network_is_exported_like_any_other(data, tmp_path, command):
    run = tmp_path / "run"
    Trainer(replace(PAPER, steps=2), data, run).run()
    (run / "config.toml").write_text("[network]\nkind = 'keyframes-gan'\n")
    assert command(export.main, run, "--half", "--out", tmp_path) == 0
    network, _, _ = load_trained(run)
    inputs = random_inputs()
    with torch.no_grad():
        assert (network(*inputs) - inputs[0]).abs().max() > 1e-4  # it has learnt something
    for kind, tolerance in (("", FLOAT_TOLERANCE), ("-half", HALF_TOLERANCE)):
        path = tmp_path / f"mobilenet-v3-small{kind}.onnx"
        assert onnx_difference(network, path, inputs) <= tolerance
        Generator(str(path), "cpu")
    card = json.loads((tmp_path / "mobilenet-v3-small.json").read_text())
    assert card["network"] == "models/networks/keyframes_gan.py"
    assert card["parameters"] == 2_715_167
    assert card["settings"]["fusion"] == "asff"
    assert set(card["sha256"]) == {f"mobilenet-v3-small{kind}.onnx" for kind in ("", "-half")}
