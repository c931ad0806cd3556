"""Shards, shared between the tests of training, and commands in this process."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from models.prepare import prepare_clip
from receiver.enhance.faces.generator import CHANNELS
from tests.conftest import write_clip

torch.set_num_threads(1)  # several test processes share the cores, and threads that wait spin


@pytest.fixture(scope="session")
def shards(portrait, tmp_path_factory) -> Path:
    """Two shards of the demo's portrait, one for each of two encodings."""
    folder = tmp_path_factory.mktemp("shards")
    video = folder / "portrait.mp4"
    write_clip(video, portrait[:40], with_audio=False, crf=12)
    assert prepare_clip(video, folder / "data", 2, 12, 0) >= 24
    return folder / "data"


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Three synthetic shards of two clips."""
    folder = tmp_path_factory.mktemp("data")
    for number, clip in enumerate(["a.mp4", "a.mp4", "b.mp4"]):
        write_shard(folder / f"{clip}-{number}-0", clip, np.random.default_rng(number))
    return folder


@pytest.fixture
def command(monkeypatch) -> Callable[..., int]:
    """Runs the `main` of a command in this process, since importing torch takes seconds.

    Returns the exit status.
    """

    def run(main: Callable[[], None], *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


def write_shard(folder: Path, clip: str, rng: np.random.Generator, count: int = 8) -> None:
    """Writes a shard whose originals are blocks of 16x16 pixels; the decoded pictures add noise."""
    folder.mkdir(parents=True)
    blocks = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    target = blocks.repeat(16, axis=1).repeat(16, axis=2)
    noise = rng.integers(-9, 10, target.shape)
    arrays = {
        "target": target,
        "raw": target,
        "degraded": np.clip(target.astype(int) + noise, 0, 255).astype(np.uint8),
        "landmarks": rng.uniform(60, 200, (count, 68, 2)).astype(np.float32),
        "raw_landmarks": rng.uniform(60, 200, (count, 68, 2)).astype(np.float32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    about = {"clip": clip, "qp": rng.uniform(22, 48, count).tolist()}
    (folder / "shard.json").write_text(json.dumps(about))


def random_inputs(count: int = 1, side: int = 256) -> tuple[torch.Tensor, ...]:
    """A batch of the three inputs of a generator."""
    return tuple(torch.rand(count, channels, side, side) for channels in CHANNELS.values())


def activated(network: torch.nn.Module) -> torch.nn.Module:
    """The network with random values in layers that start at zero, so that every part counts."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, 0.0, 0.02)
    return network.eval()
