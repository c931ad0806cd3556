"""Lite: a guided residual U-Net that works at a quarter of the crop's resolution.

It has two stages. `align` compares the degraded crop with the landmark-warped reference and
corrects the remaining misalignment with a small flow. `restore` takes the degraded crop, the
aligned reference and the landmarks; for each pixel it predicts a residual and how much to take from
the reference. A reference that equals the degraded crop means that there is no reference.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOW_SCALE = 8.0
"""Crop pixels per unit of the flow head's output."""
FLOW_LIMIT = 4.0
"""Largest absolute output of the flow head; landmarks are never farther off."""
LIMIT = 4.0
"""Largest absolute value of a feature."""


@dataclass(frozen=True)
class LiteConfig:
    """Widths and numbers of residual blocks. Widths are multiples of 16, the CPU's vector size."""

    align: tuple[int, int] = (32, 48)  # channels at 1/8 and 1/16 of the crop's side
    align_inner: tuple[int, int] = (16, 32)  # between the two convolutions of a block
    align_blocks: tuple[int, int, int] = (2, 2, 2)  # down, bottom, up
    restore: tuple[int, int, int] = (32, 64, 128)  # channels at 1/4, 1/8 and 1/16
    restore_inner: tuple[int, int, int] = (32, 32, 64)  # between the two convolutions of a block
    restore_blocks: tuple[int, int, int, int, int] = (1, 2, 2, 1, 2)  # down twice, bottom, up twice


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))). The second convolution starts at zero, the block as an identity.

    All values are bounded so that 8-bit integers can hold them; unbounded, they diverged on some
    faces.
    """

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(inner, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to the same shape."""
        return bounded(x + self.conv2(self.conv1(x).clamp(0.0, LIMIT)))


class Fold(nn.Module):
    """Folds blocks of side x side pixels of the three inputs into channels and mixes them linearly.

    One strided convolution per input does the work of pixel-unshuffle and a 1x1 convolution. ONNX
    Runtime needs a tenth of the time of the transposed copies.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.degraded = nn.Conv2d(3, channels, side, stride=side)
        self.reference = nn.Conv2d(3, channels, side, stride=side, bias=False)
        self.landmarks = nn.Conv2d(1, channels, side, stride=side, bias=False)

    def forward(self, degraded: Tensor, reference: Tensor, landmarks: Tensor) -> Tensor:
        """Maps Nx3xHxW, Nx3xHxW and Nx1xHxW to Nx`channels`xH/`side`xW/`side`."""
        d, r, p = self.degraded(degraded), self.reference(reference), self.landmarks(landmarks)
        folded: Tensor = d + r + p
        return folded


class Align(nn.Module):
    """Estimates the misalignment that remains after the warp by landmarks."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        (a, b), (inner_a, inner_b), blocks = config.align, config.align_inner, config.align_blocks
        self.fold = Fold(a, 8)
        self.level1 = residual_blocks(blocks[0], a, inner_a)
        self.down = nn.Conv2d(a, b, 2, stride=2)
        self.level2 = residual_blocks(blocks[1], b, inner_b)
        self.up = nn.Conv2d(b, a, 1)
        self.merge = residual_blocks(blocks[2], a, inner_a)
        self.flow = zeroed(nn.Conv2d(a, 2, 3, padding=1))

    def forward(self, degraded: Tensor, reference: Tensor, landmarks: Tensor) -> Tensor:
        """Maps Nx3xHxW, Nx3xHxW and Nx1xHxW to a flow, Nx2xH/8xW/8, in crop pixels."""
        level1 = self.level1(bounded(self.fold(degraded, reference, landmarks)))
        level2 = self.level2(bounded(self.down(level1)))  # (N, b, H/16, W/16)
        flow: Tensor = self.flow(self.merge(bounded(level1 + double(self.up(level2)))))
        return FLOW_SCALE * flow.clamp(-FLOW_LIMIT, FLOW_LIMIT)


class Restore(nn.Module):
    """Adds to the degraded crop a residual and a part of its difference from the reference.

    A gate per pixel decides how large this part is. It lets detail of the reference through that
    the features cannot hold, like the mask of the paper's ASFF blocks.
    """

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        (a, b, c), blocks = config.restore, config.restore_blocks
        inner_a, inner_b, inner_c = config.restore_inner
        self.fold = Fold(a, 4)
        self.level1 = residual_blocks(blocks[0], a, inner_a)
        self.down1 = nn.Conv2d(a, b, 2, stride=2)
        self.level2 = residual_blocks(blocks[1], b, inner_b)
        self.down2 = nn.Conv2d(b, c, 2, stride=2)
        self.level3 = residual_blocks(blocks[2], c, inner_c)
        self.up2 = nn.Conv2d(c, b, 1)
        self.merge2 = residual_blocks(blocks[3], b, inner_b)
        self.up1 = nn.Conv2d(b, a, 1)
        self.merge1 = residual_blocks(blocks[4], a, inner_a)
        self.unfold = zeroed(nn.Conv2d(a, 4 * 4 * (3 + 1), 3, padding=1))  # residual and gate

    def forward(self, degraded: Tensor, reference: Tensor, landmarks: Tensor) -> Tensor:
        """Maps Nx3xHxW, Nx3xHxW and Nx1xHxW to Nx3xHxW."""
        level1 = self.level1(bounded(self.fold(degraded, reference, landmarks)))
        level2 = self.level2(bounded(self.down1(level1)))  # (N, b, H/8, W/8)
        level3 = self.level3(bounded(self.down2(level2)))  # (N, c, H/16, W/16)
        x = self.merge2(bounded(level2 + double(self.up2(level3))))
        x = self.merge1(bounded(level1 + double(self.up1(x))))  # (N, a, H/4, W/4)
        change = shuffle4(self.unfold(x))  # (N, 4, H, W)
        residual, gate = change[:, :3], change[:, 3:]
        return degraded + residual + gate * (reference - degraded)


class Lite(nn.Module):
    """The generator `lite`."""

    def __init__(self, config: LiteConfig | None = None) -> None:
        super().__init__()
        config = config or LiteConfig()
        self.align = Align(config)
        self.restore = Restore(config)

    def forward(self, degraded: Tensor, reference: Tensor, landmarks: Tensor) -> Tensor:
        """Maps Nx3xHxW, Nx3xHxW and Nx1xHxW in [0, 1] to Nx3xHxW; H and W are multiples of 16."""
        return self.forward_aligned(degraded, reference, landmarks)[0]

    def forward_aligned(
        self, degraded: Tensor, reference: Tensor, landmarks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the restored crop and the aligned reference, which training supervises too."""
        aligned = shift(reference, self.align(degraded, reference, landmarks))
        return self.restore(degraded, aligned, landmarks), aligned


def residual_blocks(count: int, channels: int, inner: int) -> nn.Sequential:
    """Returns `count` residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(channels, inner) for _ in range(count)))


def zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    """Sets a convolution to zero and returns it."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def bounded(x: Tensor) -> Tensor:
    """Clips to [-LIMIT, LIMIT]."""
    return x.clamp(-LIMIT, LIMIT)


def double(x: Tensor) -> Tensor:
    """Enlarges NxCxHxW to NxCx2Hx2W."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def shuffle4(x: Tensor) -> Tensor:
    """Returns `F.pixel_shuffle(x, 4)`, by two copies of long rows: much faster in ONNX Runtime."""
    n, folded, height, width = x.shape
    x = x.reshape(n, folded // 4, 4, height * width).transpose(2, 3)  # columns together
    x = x.reshape(n, folded // 16, 4, height, width * 4).transpose(2, 3)  # rows together
    return x.reshape(n, folded // 16, height * 4, width * 4)


def shift(image: Tensor, flow: Tensor) -> Tensor:
    """Samples `image`, NxCxHxW, at each pixel's position plus `flow`, Nx2xhxw, in pixels."""
    height, width = image.shape[-2:]
    flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
    xs = (torch.arange(width, dtype=image.dtype, device=image.device) + 0.5) * (2.0 / width) - 1.0
    ys = (torch.arange(height, dtype=image.dtype, device=image.device) + 0.5) * (2.0 / height) - 1.0
    # With coordinates clamped to the centres of the outermost pixels, zero padding equals border
    # padding, and ONNX Runtime needs less than half the time.
    edge_x, edge_y = 1.0 - 1.0 / width, 1.0 - 1.0 / height
    grid_x = (xs[None, None, :] + flow[:, 0] * (2.0 / width)).clamp(-edge_x, edge_x)
    grid_y = (ys[None, :, None] + flow[:, 1] * (2.0 / height)).clamp(-edge_y, edge_y)
    grid = torch.stack([grid_x, grid_y], dim=-1)  # (N, H, W, 2)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
