"""Features that perceptual and style losses compare: `python -m models.features DATA FILE`.

The paper takes those of VGG-19, trained on ImageNet. Where its weights cannot be had, this trains
a small network to tell from a crop whether, and at which quality, H.264 sent it: its features see
what compression does, so a loss that compares them asks for a picture that looks uncompressed.
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

from models.data.shards import Shard, load_shards
from models.networks.backbones import VGG19, read_weights
from receiver.enhance.faces.alignment import CROP

QPS = (26.0, 30.0, 34.0, 38.0, 42.0)
"""Between one level of quality and the next worse one; level 0 is the original picture."""
LEVELS = len(QPS) + 2
WIDTHS = (32, 48, 64, 96)
SHARPENED = 16.0
"""How much stronger than the picture its finest detail comes in: there compression shows."""
SIDE = 64
PAIRS = 16
"""A batch holds as many crops, each as it was and as it was received."""
HELD_OUT = 10
"""Every so manieth clip judges the training."""


class QualityFeatures(nn.Module):
    """Four taps at 1, 1/2, 1/4 and 1/8 of the picture's side, and a head for the levels."""

    def __init__(self) -> None:
        super().__init__()
        stages, before = [], 6
        for i, width in enumerate(WIDTHS):
            first = _normed(before, width, stride=1 if i == 0 else 2)
            stages.append(nn.Sequential(*first, *_normed(width, width)))
            before = width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(before, LEVELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Nx3xHxW in [0, 1]; four taps, NxCxhxw."""
        detail = x - F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        x = torch.cat([2.0 * x - 1.0, SHARPENED * detail], dim=1)  # (N, 6, H, W)
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x)
        return taps

    def levels(self, x: Tensor) -> Tensor:
        """Nx3xHxW in [0, 1]; what speaks for each level, NxLEVELS."""
        found: Tensor = self.head(self(x)[-1].mean(dim=(2, 3)))
        return found


def _normed(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.ReLU()]


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


class QualityPairs(Dataset[tuple[Tensor, Tensor]]):
    """A random cut of an original and of what was received (2x3xSIDExSIDE in [0, 1]), their levels.

    An index is only the seed of its sample.
    """

    def __init__(self, shards: list[Shard], length: int, seed: int) -> None:
        self.shards, self.length, self.seed = shards, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        shard = self.shards[rng.integers(len(self.shards))]
        i = int(rng.integers(len(shard)))
        top, left = (int(value) for value in rng.integers(0, CROP - SIDE + 1, size=2))
        pictures = np.stack([shard.picture(name, i) for name in ("target", "degraded")])
        cut = pictures[:, top : top + SIDE, left : left + SIDE].transpose(0, 3, 1, 2)
        levels = [0, 1 + int(np.digitize(shard.qp[i], QPS))]
        return torch.from_numpy(np.ascontiguousarray(cut)).float() / 255.0, torch.tensor(levels)


def train_features(data: Path, steps: int, seed: int = 0) -> tuple[QualityFeatures, float]:
    """The trained features, and how many of 100 pictures of unseen clips they tell from originals.

    Guesses would be 50.
    """
    torch.manual_seed(seed)
    shards = [shard for shard in load_shards(data) if None not in shard.qp]
    clips = sorted({shard.clip for shard in shards})
    unseen = set(clips[HELD_OUT - 1 :: HELD_OUT])
    seen = [shard for shard in shards if shard.clip not in unseen]
    network = QualityFeatures().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    loader = DataLoader(QualityPairs(seen, steps * PAIRS, seed), PAIRS, num_workers=1)
    for pictures, levels in progress(loader, "learning to tell qualities apart"):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            found = network.levels(pictures.flatten(0, 1).to(memory_format=torch.channels_last))
        F.cross_entropy(found.float(), levels.flatten()).backward()
        optimizer.step()
        schedule.step()
    judging = [shard for shard in shards if shard.clip in unseen] or shards
    return network.eval(), _told_apart(network, judging)


@torch.no_grad()
def _told_apart(network: QualityFeatures, shards: list[Shard]) -> float:
    """How many of 100 pictures, half of them originals, are taken for what they are."""
    right = []
    for pictures, levels in DataLoader(QualityPairs(shards, 16 * PAIRS, 1), PAIRS):
        original = network.levels(pictures.flatten(0, 1)).softmax(dim=1)[:, 0]
        right.append((original > 0.5) == (levels.flatten() == 0))
    return 100.0 * float(torch.cat(right).float().mean())


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
        network, told_apart = train_features(args.data, args.steps)
        unfinished = args.file.with_suffix(".part")
        torch.save(network.state_dict(), unfinished)
        os.replace(unfinished, args.file)
    except OSError as error:
        parser.error(str(error))
    print(f"{args.file}: {told_apart:.0f} of 100 unseen pictures told to be original or not")


if __name__ == "__main__":
    main()
