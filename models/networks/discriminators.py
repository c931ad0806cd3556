"""The paper's discriminators, which score patches at four scales of the picture, or at one."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.spectral import spectral_norm

WIDTHS = (64, 128, 256, 512)
SLOPE = 0.2
SCALES = 4
"""The picture at full, half, quarter and eighth size."""


class PatchDiscriminator(nn.Module):
    """Scores patches of a picture at one scale."""

    def __init__(self) -> None:
        super().__init__()
        layers, before = [], 3
        for width in WIDTHS:
            conv = nn.Conv2d(before, width, 3, stride=1 if before == 3 else 2, padding=1)
            layers.append(
                nn.Sequential(spectral_norm(conv), nn.BatchNorm2d(width), nn.LeakyReLU(SLOPE))
            )
            before = width
        self.layers = nn.ModuleList(layers)
        self.score = nn.Conv2d(before, 1, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps Nx3xHxW in [0, 1] to each layer's features and, last, the scores, Nx1xH/8xW/8."""
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return [*outputs, self.score(x)]


class Discriminator(nn.Module):
    """One discriminator per scale. The paper proposes 4 scales; its other variants have 1."""

    def __init__(self, scales: int = SCALES) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator() for _ in range(scales))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Maps Nx3xHxW in [0, 1] to each discriminator's outputs, largest scale first."""
        outputs = []
        for i, discriminator in enumerate(self.scales):
            if i > 0:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            outputs.append(discriminator(x))
        return outputs
