"""Features that perceptual and style losses compare: `python -m models.features DATA FILE`.

The paper uses VGG-19, trained on ImageNet. If its weights are not available, this command trains a
small network to classify whether, and at which quality, H.264 encoded a crop. Its features react to
compression, so a loss on them favours pictures that look uncompressed.
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
from models.networks import channels_last
from models.networks.backbones import VGG19, read_weights
from models.threads import limit_threads
from receiver.enhance.faces.alignment import CROP
from receiver.errors import InputError

LEVEL_QPS = (26.0, 30.0, 34.0, 38.0, 42.0)
"""QPs that separate the levels of quality 1 to 6. Level 0 is the original picture."""
QUALITY_LEVELS = len(LEVEL_QPS) + 2
TAP_WIDTHS = (32, 48, 64, 96)
"""Channels of the taps."""
SHARPENED = 16.0
"""Gain of the finest detail, in which compression shows, over the picture."""
SAMPLE_SIDE = 64
"""Pixels of a sample's side."""
PAIRS = 16
"""Crops per batch, each as the original and as received."""
HELD_OUT = 10
"""One clip in this many evaluates the training."""


class QualityFeatures(nn.Module):
    """Has four taps, at 1, 1/2, 1/4 and 1/8 of the picture's side, and a head for the levels."""

    def __init__(self) -> None:
        super().__init__()
        stages, before = [], 6
        for i, width in enumerate(TAP_WIDTHS):
            first = _normed(before, width, stride=1 if i == 0 else 2)
            stages.append(nn.Sequential(*first, *_normed(width, width)))
            before = width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(before, QUALITY_LEVELS)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps Nx3xHxW in [0, 1] to four taps, NxCxhxw."""
        detail = x - F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        x = torch.cat([2.0 * x - 1.0, SHARPENED * detail], dim=1)  # (N, 6, H, W)
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x)
        return taps

    def levels(self, x: Tensor) -> Tensor:
        """Maps Nx3xHxW in [0, 1] to a logit per level, NxQUALITY_LEVELS."""
        found: Tensor = self.head(self(x)[-1].mean(dim=(2, 3)))
        return found


def _normed(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    """Returns convolution, batch normalisation and ReLU."""
    conv = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(after), nn.ReLU()]


def load_features(path: Path) -> nn.Module:
    """Loads frozen features from torchvision's VGG-19 file or a file that this command wrote.

    Raises OSError for an unreadable file, ValueError for any other file.
    """
    state = read_weights(path)
    if "features.0.weight" in state:
        vgg = VGG19()
        vgg.load(path)
        return vgg.eval().requires_grad_(False)
    network = QualityFeatures()
    try:
        network.load_state_dict(state)
    except RuntimeError:
        raise ValueError(
            f"{path} holds neither torchvision's vgg19 nor features of models.features"
        ) from None
    return network.eval().requires_grad_(False)


class QualityPairs(Dataset[tuple[Tensor, Tensor]]):
    """Random cuts of an original and the received picture, with their levels of quality.

    A sample is (2x3xSxS float32 in [0, 1], 2 int64) with S = SAMPLE_SIDE. An index is only the seed
    of its sample.
    """

    def __init__(self, shards: list[Shard], length: int, seed: int) -> None:
        self.shards, self.length, self.seed = shards, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        shard = self.shards[rng.integers(len(self.shards))]
        i = int(rng.integers(len(shard)))
        top, left = (int(value) for value in rng.integers(0, CROP - SAMPLE_SIDE + 1, size=2))
        pictures = np.stack([shard.picture(name, i) for name in ("target", "degraded")])
        cut = pictures[:, top : top + SAMPLE_SIDE, left : left + SAMPLE_SIDE].transpose(0, 3, 1, 2)
        levels = [0, 1 + int(np.digitize(shard.qp[i], LEVEL_QPS))]
        return torch.from_numpy(np.ascontiguousarray(cut)).float() / 255.0, torch.tensor(levels)


def train_features(data: Path, steps: int, seed: int = 0) -> tuple[QualityFeatures, float]:
    """Trains features on the shards in `data`.

    Returns them and the percentage of pictures of unseen clips that they classify correctly as
    original or received; guessing gives 50. Raises FileNotFoundError if there are no shards.
    """
    torch.manual_seed(seed)
    shards = [shard for shard in load_shards(data) if None not in shard.qp]
    clips = sorted({shard.clip for shard in shards})
    unseen = set(clips[HELD_OUT - 1 :: HELD_OUT])
    seen = [shard for shard in shards if shard.clip not in unseen]
    network = channels_last(QualityFeatures())
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    loader = DataLoader(QualityPairs(seen, steps * PAIRS, seed), PAIRS, num_workers=1)
    for pictures, levels in progress(loader, "training features"):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            found = network.levels(pictures.flatten(0, 1).to(memory_format=torch.channels_last))
        F.cross_entropy(found.float(), levels.flatten()).backward()
        optimizer.step()
        schedule.step()
    evaluated = [shard for shard in shards if shard.clip in unseen] or shards
    return network.eval(), _accuracy(network, evaluated)


@torch.no_grad()
def _accuracy(network: QualityFeatures, shards: list[Shard]) -> float:
    """Returns the percentage of correct classifications; half of the pictures are originals."""
    correct = []
    for pictures, levels in DataLoader(QualityPairs(shards, 16 * PAIRS, 1), PAIRS):
        original = network.levels(pictures.flatten(0, 1)).softmax(dim=1)[:, 0]
        correct.append((original > 0.5) == (levels.flatten() == 0))
    return 100.0 * float(torch.cat(correct).float().mean())


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of shards from python -m models.prepare")
    parser.add_argument("file", type=Path, help="file for the trained features")
    parser.add_argument("--steps", type=int, default=1500, help="default 1500: a few minutes")
    args = parser.parse_args()
    limit_threads()
    try:
        network, accuracy = train_features(args.data, args.steps)
        unfinished = args.file.with_suffix(".part")
        torch.save(network.state_dict(), unfinished)
        os.replace(unfinished, args.file)
    except (InputError, OSError) as error:
        parser.error(str(error))
    print(f"{args.file}: {accuracy:.0f} % of unseen pictures classified as original or received")


if __name__ == "__main__":
    main()
