"""A narrowed `lite` keeps the most important weights of the larger one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import narrow, train
from models.narrow import narrowed
from models.networks.lite import Lite, LiteConfig, ResidualBlock
from receiver.enhance.faces.generator import CHANNELS

LARGE = LiteConfig(
    align_blocks=(2, 3, 2),
    align_inner=(32, 48),
    restore_blocks=(1, 3, 2, 2, 2),
    restore_inner=(32, 64, 128),
)
SMALL = LiteConfig()


def inputs(seed: int = 0) -> dict[str, torch.Tensor]:
    """Returns a batch of two by name."""
    noise = torch.Generator().manual_seed(seed)
    return {name: torch.rand(2, n, 64, 64, generator=noise) for name, n in CHANNELS.items()}


def perturbed(config: LiteConfig) -> Lite:
    """Returns an untrained network none of whose parts is an identity."""
    torch.manual_seed(0)
    network = Lite(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
    return network


def output(network: Lite) -> torch.Tensor:
    with torch.no_grad():
        return network(*inputs(1).values())


def test_narrowing_to_the_same_size_changes_nothing():
    network = perturbed(LARGE)
    assert torch.equal(output(narrowed(network, LARGE, [inputs()])), output(network))


def test_channels_and_blocks_that_contribute_nothing_are_removed():
    network, kept = perturbed(LARGE), dict(Lite(SMALL).named_modules())
    with torch.no_grad():
        for name, block in network.named_modules():
            if isinstance(block, ResidualBlock):
                small = kept.get(name)
                channels = small.conv1.out_channels if small else 0
                dead = torch.randperm(block.conv1.out_channels)[channels:]
                block.conv2.weight[:, dead] = 0.0
                block.conv2.bias *= small is not None
    small = narrowed(network, SMALL, [inputs(1)])  # as in `output`
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
def test_a_configuration_that_does_not_fit_is_refused(config):
    with pytest.raises(ValueError, match="the larger network has"):
        narrowed(perturbed(SMALL), config, [inputs()])


def test_a_training_starts_from_what_the_command_writes(data, tmp_path, command):
    shipped = Path(__file__).parents[2] / "receiver" / "weights" / "lite.onnx"
    steps = json.loads(shipped.with_suffix(".json").read_text())["steps"]
    config, start, run = tmp_path / "small.toml", tmp_path / "start", tmp_path / "run"
    config.write_text(
        "steps = 2\nbatch = 2\nside = 64\nwarmup = 1\nworkers = 0\n"
        "[network]\nrestore_blocks = [1, 1, 1, 1, 1]\n"
    )
    assert command(narrow.main, config, data, shipped, start) == 0
    assert command(train.main, config, data, run, "--start-from", start) == 0
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert (state["earlier_steps"], state["step"]) == (steps, 2)


def test_a_missing_file_is_reported_in_one_line(data, tmp_path, command, capsys):
    config = tmp_path / "small.toml"
    config.write_text("steps = 2\n")
    assert command(narrow.main, config, data, tmp_path / "no.onnx", tmp_path) == 2
    assert "no.onnx" in capsys.readouterr().err.splitlines()[-1]
