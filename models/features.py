"""Features that perceptual and style losses compare: `python -m models.features DATA FILE`.

The paper takes those of VGG-19, trained on ImageNet. Where its weights cannot be had, this trains
a small network to tell from a crop at which quality H.264 sent it: its features see what
compression does, so a loss that compares them asks for a picture that looks uncompressed.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track as progress
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from models.dataset import Shard, load_shards
from models.networks.backbones import VGG19, read_weights
from receiver.alignment import CROP

QPS = (26.0, 30.0, 34.0, 38.0, 42.0)
"""Between one level of quality and the next worse one; level 0 is the original picture."""
LEVELS = len(QPS) + 2
WIDTHS = (32, 48, 64, 96)
SIDE = 64
BATCH = 32
HELD_OUT = 10
"""Every so manieth clip judges the training."""


class QualityFeatures(nn.Module):
    """Four taps at 1, 1/2, 1/4 and 1/8 of the picture's side, and a head for the levels."""

    def __init__(self) -> None:
        super().__init__()
        stages, before = [], 3
        for width in WIDTHS:
            first = nn.Conv2d(before, width, 3, stride=1 if before == 3 else 2, padding=1)
            second = nn.Conv2d(width, width, 3, padding=1)
            stages.append(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()))
            before = width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(before, LEVELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Nx3xHxW in [0, 1]; four taps, NxCxhxw."""
        x = 2.0 * x - 1.0
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x)
        return taps

    def levels(self, x: Tensor) -> Tensor:
        """Nx3xHxW in [0, 1]; what speaks for each level, NxLEVELS."""
        found: Tensor = self.head(self(x)[-1].mean(dim=(2, 3)))
        return found


def load_features(path: Path) -> nn.Module:
    """Frozen features by their file: torchvision's VGG-19, or one that this module trained.

    Raises OSError if there is no such file, ValueError if it holds neither.
    """
    state = read_weights(path)
    network: nn.Module
    if "features.0.weight" in state:
        network = VGG19()
        network.load(path)
    else:
        network = QualityFeatures()
        try:
            network.load_state_dict(state)
        except RuntimeError:
            raise ValueError(
                f"{path} holds neither torchvision's vgg19 nor features of models.features"
            ) from None
    return network.eval().requires_grad_(False)


class QualityCrops(Dataset[tuple[Tensor, Tensor]]):
    """Random cuts, 3xSIDExSIDE in [0, 1], and their level; an index is its sample's seed."""

    def __init__(self, shards: list[Shard], length: int, seed: int) -> None:
        self.shards, self.length, self.seed = shards, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        shard = self.shards[rng.integers(len(self.shards))]
        i = int(rng.integers(len(shard)))
        original = rng.random() < 1.0 / LEVELS
        level = 0 if original else 1 + int(np.digitize(shard.qp[i], QPS))
        top, left = (int(value) for value in rng.integers(0, CROP - SIDE + 1, size=2))
        picture = shard.picture("target" if original else "degraded", i)
        cut = np.ascontiguousarray(picture[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1))
        return torch.from_numpy(cut).float() / 255.0, torch.tensor(level)


def train_features(data: Path, steps: int, seed: int = 0) -> tuple[QualityFeatures, float]:
    """The trained features, and their mean error, in levels, on clips that they never saw."""
    torch.manual_seed(seed)
    shards = load_shards(data)
    clips = sorted({shard.clip for shard in shards})
    unseen = set(clips[HELD_OUT - 1 :: HELD_OUT])
    seen = [shard for shard in shards if shard.clip not in unseen]
    network = QualityFeatures().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    loader = DataLoader(QualityCrops(seen, steps * BATCH, seed), BATCH, num_workers=1)
    for pictures, levels in progress(loader, "learning to tell qualities apart"):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            found = network.levels(pictures.to(memory_format=torch.channels_last))
        F.cross_entropy(found.float(), levels).backward()
        optimizer.step()
        schedule.step()
    judging = [shard for shard in shards if shard.clip in unseen] or shards
    return network, _error(network, judging)


@torch.no_grad()
def _error(network: QualityFeatures, shards: list[Shard]) -> float:
    """Mean distance of the expected level from the true one."""
    errors = []
    for pictures, levels in DataLoader(QualityCrops(shards, 8 * BATCH, 1), BATCH):
        expected = network.levels(pictures).softmax(dim=1) @ torch.arange(float(LEVELS))
        errors.append((expected - levels).abs().mean())
    return float(torch.stack(errors).mean())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of shards, from python -m models.prepare")
    parser.add_argument("file", type=Path, help="the features; `features` of a config names it")
    parser.add_argument("--steps", type=int, default=1500, help="default 1500: some minutes")
    args = parser.parse_args()
    try:
        network, error = train_features(args.data, args.steps)
        unfinished = args.file.with_suffix(".part")
        torch.save(network.state_dict(), unfinished)
        os.replace(unfinished, args.file)
    except OSError as error_:
        parser.error(str(error_))
    print(f"{args.file}: {error:.2f} of {LEVELS} levels off on clips that it never saw")


if __name__ == "__main__":
    main()
