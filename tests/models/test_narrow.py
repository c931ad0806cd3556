"""A smaller `lite` keeps what the larger one does with what fits into it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.export import export, write_card
from models.narrow import narrowed, read_lite
from models.networks.lite import Lite, LiteConfig, ResidualBlock
from models.training.config import TrainConfig
from receiver.enhance.faces.generator import CHANNELS
from tests.models.test_train import write_shard

LARGE = LiteConfig(
    align_blocks=(2, 3, 2),
    align_inner=(32, 48),
    restore_blocks=(1, 3, 2, 2, 2),
    restore_inner=(32, 64, 128),
)
SMALL = LiteConfig()


@pytest.fixture
def shards(tmp_path) -> Path:
    write_shard(tmp_path / "data" / "a.mp4-0-0", "a.mp4", np.random.default_rng(0))
    return tmp_path / "data"


def inputs(seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of two."""
    noise = torch.Generator().manual_seed(seed)
    return {name: torch.rand(2, n, 64, 64, generator=noise) for name, n in CHANNELS.items()}


def awake(config: LiteConfig) -> Lite:
    """Not trained, but none of its parts an identity."""
    torch.manual_seed(0)
    network = Lite(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    return network


def output(network: Lite) -> torch.Tensor:
    with torch.no_grad():
        return network(*inputs(1).values())


def test_a_network_of_the_same_size_is_the_same():
    network = awake(LARGE)
    assert torch.equal(output(narrowed(network, LARGE, [inputs()])), output(network))


def test_what_adds_nothing_is_what_goes():
    """Channels that carry nothing, wherever they are, and blocks at the end that add nothing."""
    network, kept = awake(LARGE), dict(Lite(SMALL).named_modules())
    with torch.no_grad():
        for name, block in network.named_modules():
            if isinstance(block, ResidualBlock):
                small = kept.get(name)
                channels = small.conv1.out_channels if small else 0
                dead = torch.randperm(block.conv1.out_channels)[channels:]
                block.conv2.weight[:, dead] = 0.0
                block.conv2.bias *= small is not None
    small = narrowed(network, SMALL, [inputs(1)])  # those of `output`
    torch.testing.assert_close(output(small), output(network), atol=1e-5, rtol=0)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, restore_inner=(32, 64, 128)),
        replace(SMALL, restore_blocks=(1, 2, 2, 1, 3)),
        replace(SMALL, restore=(32, 64, 96)),
    ],
)
def test_what_does_not_fit_is_refused(config):
    with pytest.raises(ValueError, match="the network to begin with"):
        narrowed(awake(SMALL), config, [inputs()])


def test_the_command_gives_what_a_training_begins_with(tmp_path, shards):
    large, start = tmp_path / "large.onnx", tmp_path / "start"
    network = awake(LARGE)
    export(network, large)
    state = {"earlier_steps": 5, "step": 7, "seconds": 60.0, "clips": ["a"]}
    write_card([large], network, TrainConfig(network=LARGE), state)
    assert torch.equal(output(read_lite(large)[0]), output(network))
    config = tmp_path / "small.toml"
    config.write_text("steps = 2\nbatch = 2\nside = 64\nwarmup = 1\nworkers = 0\n")
    run(["models.narrow", config, shards, large, start])
    run(["models.train", config, shards, tmp_path / "run", "--start-from", start])
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert (state["earlier_steps"], state["step"]) == (12, 2)


def test_a_file_that_is_none_is_told_in_a_sentence(tmp_path, shards):
    config = tmp_path / "small.toml"
    config.write_text("steps = 2\n")
    result = run(["models.narrow", config, shards, tmp_path / "no.onnx", tmp_path], code=2)
    assert "no.onnx" in result.stderr
    assert "Traceback" not in result.stderr


def run(arguments: list, code: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *map(str, arguments)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert result.returncode == code, result.stderr
    return result
