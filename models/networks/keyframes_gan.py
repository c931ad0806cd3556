"""The paper's generator: ASFF blocks fuse multi-scale features, SFT blocks modulate a decoder.

Agnolucci et al., "Perceptual Quality Improvement in Videoconferencing using Keyframes-based GAN",
2023, section 3 and figure 3: "MSF w/ ASFF w/ SFT", and the variants of table 4. One backbone
extracts features of the degraded crop, the warped reference and the landmarks. At each scale, an
ASFF block takes from the reference the features that fit. A decoder starts from the deepest
features of the degraded crop, is modulated by the fused features and grows to the crop's size. The
authors pad circularly, which wraps the crop's borders; this implementation pads by reflection. The
backbone pads with zeros, as it was trained.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.backbones import BACKBONES
from models.networks.spectral import spectral_norm

DILATIONS = (4, 3, 2, 1)
TAIL_WIDTHS = {"vgg19": 64, "mobilenet-v3-large": 16, "mobilenet-v3-small": 16}
"""Channels at the crop's own resolution, by backbone."""
SLOPE = 0.2
"""Negative slope of the LeakyReLUs."""


@dataclass(frozen=True)
class KeyframesGANConfig:
    """The settings. The defaults are the paper's proposal, with its smallest backbone."""

    backbone: str = "mobilenet-v3-small"  # or "mobilenet-v3-large", "vgg19"
    weights: str = ""  # torchvision's file for the backbone; it freezes VGG-19
    multi_scale: bool = True  # False: fuse only the deepest features
    fusion: str = "asff"  # of degraded, reference and landmarks; or "spade", "none"
    modulation: str = "sft"  # of the decoder by the fused features; or "spade", "none"
    adain: bool = True  # False: fuse the reference's features as they are
    landmarks: bool = True  # False: ignore the landmarks
    reference: bool = True  # False: ignore the reference

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown word, or for a fusion that lacks its inputs."""
        words = {"backbone": tuple(BACKBONES), "fusion": tuple(FUSIONS)}
        for name, known in (words | {"modulation": tuple(MODULATIONS)}).items():
            if getattr(self, name) not in known:
                word = getattr(self, name)
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {word}")
        if self.fusion != "none" and not self.reference:
            raise ValueError(f"fusion {self.fusion} needs the reference: set fusion to none")


class KeyframesGAN(nn.Module):
    """A generator. H and W must be multiples of 32, and at least 64."""

    def __init__(self, config: KeyframesGANConfig | None = None) -> None:
        super().__init__()
        config = config or KeyframesGANConfig()
        self.backbone = BACKBONES[config.backbone]()
        if config.backbone == "vgg19" and config.weights:
            self.backbone.requires_grad_(False)
        widths = self.backbone.widths[::-1]  # deepest first, like the decoder
        guided = widths if config.multi_scale else widths[:1]
        after = (*widths[1:], TAIL_WIDTHS[config.backbone])
        self.adain, self.landmarks, self.reference = (
            config.adain,
            config.landmarks,
            config.reference,
        )
        passes = 1 + config.reference + config.landmarks
        self.fusions = nn.ModuleList(FUSIONS[config.fusion](width, passes) for width in guided)
        self.dilated = DilatedBlock(widths[0])
        self.levels = nn.ModuleList(
            Level(before, width, config.modulation if i < len(guided) else None)
            for i, (before, width) in enumerate(zip(widths, after, strict=True))
        )
        self.tail = tail(after[-1])

    def forward(self, degraded: Tensor, reference: Tensor, landmarks: Tensor) -> Tensor:
        """Maps Nx3xHxW, Nx3xHxW and Nx1xHxW in [0, 1] to Nx3xHxW, not clipped."""
        d = self.backbone(degraded)[::-1]
        inputs = [d]  # those of the fusions, each with a tap per level
        if self.reference:
            r = self.backbone(reference)[::-1]
            inputs.append([adain(a, b) for a, b in zip(r, d, strict=True)] if self.adain else r)
        if self.landmarks:
            inputs.append(self.backbone(landmarks.expand(-1, 3, -1, -1))[::-1])
        x = self.dilated(d[0])  # (N, 512, H/16, W/16) with VGG-19
        for i, level in enumerate(self.levels):
            fused = None
            if i < len(self.fusions):
                fused = self.fusions[i](*(taps[i] for taps in inputs))
            x = level(x, fused)
        restored: Tensor = degraded + self.tail(x)
        return restored

    def forward_aligned(
        self, degraded: Tensor, reference: Tensor, landmarks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the restored crop and the unchanged reference: this network does not align it."""
        return self(degraded, reference, landmarks), reference


class Conv(nn.Conv2d):
    """A convolution that keeps H and W by reflection padding."""

    def __init__(
        self, before: int, after: int, kernel: int = 3, dilation: int = 1, bias: bool = True
    ) -> None:
        super().__init__(before, after, kernel, dilation=dilation, bias=bias)
        self.margin = kernel // 2 * dilation

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to NxDxHxW."""
        return super().forward(reflected(x, self.margin))


class ASFF(nn.Module):
    """Adaptive spatial feature fusion: d + mask * (r - d), with a mask computed from all inputs.

    The inputs are the features of the degraded crop, of the reference and, of three, the landmarks.

    The published numbers of parameters match if two of the four convolutions before a batch
    normalisation have no bias. It does not matter which two: the normalisation removes a bias.
    """

    def __init__(self, channels: int, inputs: int = 3) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(Conv(channels, channels // 2, 1) for _ in range(inputs))
        self.mask = nn.Sequential(
            *normed(channels // 2 * inputs, channels),
            *normed(channels, channels),
        )
        self.degraded, self.reference = (
            nn.Sequential(*normed(channels, channels, bias=False), Conv(channels, channels, 1))
            for _ in range(2)
        )

    def forward(self, degraded: Tensor, reference: Tensor, *landmarks: Tensor) -> Tensor:
        """Maps two or three tensors NxCxHxW to one of the same shape."""
        inputs = zip(self.reduce, (degraded, reference, *landmarks), strict=True)
        mask = self.mask(torch.cat([reduce(x) for reduce, x in inputs], dim=1))
        d, r = self.degraded(degraded), self.reference(reference)
        fused: Tensor = d + mask * (r - d)
        return fused


class SPADE(nn.Module):
    """Normalises x, then scales and shifts each pixel as computed from a condition.

    Park et al., "Semantic Image Synthesis with Spatially-Adaptive Normalization", CVPR 2019.
    """

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(Conv(condition, channels), nn.ReLU())
        self.scale = Conv(channels, channels)
        self.shift = Conv(channels, channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps x, NxCxHxW, and the condition, NxDxHxW, to NxCxHxW."""
        shared = self.shared(condition)
        modulated: Tensor = F.instance_norm(x) * (1.0 + self.scale(shared)) + self.shift(shared)
        return modulated


class SPADEFusion(nn.Module):
    """Replaces ASFF: reference and landmarks modulate the degraded features."""

    def __init__(self, channels: int, inputs: int = 3) -> None:
        super().__init__()
        self.spade = SPADE((inputs - 1) * channels, channels)

    def forward(self, degraded: Tensor, *others: Tensor) -> Tensor:
        """Maps two or three tensors NxCxHxW to one of the same shape."""
        fused: Tensor = self.spade(degraded, torch.cat(others, dim=1))
        return fused


class ConcatFusion(nn.Module):
    """Replaces ASFF: concatenates the inputs and merges them with a 1x1 convolution."""

    def __init__(self, channels: int, inputs: int = 3) -> None:
        super().__init__()
        self.merge = nn.Sequential(*normed(inputs * channels, channels, kernel=1))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Maps one to three tensors NxCxHxW to one of the same shape."""
        merged: Tensor = self.merge(torch.cat(inputs, dim=1))
        return merged


class SFT(nn.Module):
    """Spatial feature transform: x * scale + shift, both computed from the fused features.

    Wang et al., "Recovering Realistic Texture in Image Super-resolution by Deep Spatial Feature
    Transform", CVPR 2018.
    """

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Sequential(*spectral_pair(condition, channels))
        self.shift = nn.Sequential(*spectral_pair(condition, channels), nn.Sigmoid())

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps x, NxCxHxW, and the condition, NxDxHxW, to NxCxHxW."""
        modulated: Tensor = x * self.scale(condition) + self.shift(condition)
        return modulated


class ConcatModulation(nn.Module):
    """Replaces SFT: one convolution over both inputs."""

    def __init__(self, condition: int, channels: int) -> None:
        super().__init__()
        self.merge = nn.Sequential(
            spectral_norm(Conv(condition + channels, channels)), nn.LeakyReLU(SLOPE)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps x, NxCxHxW, and the condition, NxDxHxW, to NxCxHxW."""
        merged: Tensor = self.merge(torch.cat([x, condition], dim=1))
        return merged


FUSIONS: dict[str, type[nn.Module]] = {"asff": ASFF, "spade": SPADEFusion, "none": ConcatFusion}
MODULATIONS: dict[str, type[nn.Module]] = {
    "sft": SFT,
    "spade": SPADE,
    "none": ConcatModulation,
}


class Level(nn.Module):
    """One step of the decoder: blurs, modulates with the fused features, doubles the size."""

    def __init__(self, before: int, after: int, modulation: str | None) -> None:
        super().__init__()
        self.main = nn.Sequential(
            Blur(before), spectral_norm(Conv(before, after)), nn.LeakyReLU(0.04)
        )
        self.modulate = MODULATIONS[modulation](before, after) if modulation else None
        self.after = nn.Sequential(spectral_norm(Conv(after, after)), nn.LeakyReLU(SLOPE))

    def forward(self, x: Tensor, fused: Tensor | None) -> Tensor:
        """Maps x and the fused features, NxCxHxW each, to Nx`after`x2Hx2W."""
        x = self.main(x)
        if self.modulate is not None:
            x = self.modulate(x, fused)
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        doubled: Tensor = self.after(x)
        return doubled


class DilatedBlock(nn.Module):
    """x + merged outputs of four branches with different dilations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*spectral_pair(channels, channels, dilation)) for dilation in DILATIONS
        )
        self.merge = spectral_norm(Conv(channels * len(DILATIONS), channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to the same shape."""
        change: Tensor = self.merge(torch.cat([branch(x) for branch in self.branches], dim=1))
        return x + change


class Blur(nn.Module):
    """Filters each channel with the fixed kernel [1 2 1] x [1 2 1] / 16."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4.0
        kernel = torch.outer(row, row).expand(channels, 1, 3, 3).clone()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to the same shape."""
        return F.conv2d(reflected(x, 1), self.kernel, groups=x.shape[1])


class ResidualBlock(nn.Module):
    """x + conv(LeakyReLU(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            Conv(channels, channels), nn.LeakyReLU(SLOPE), Conv(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to the same shape."""
        change: Tensor = self.convs(x)
        return x + change


def tail(channels: int) -> nn.Sequential:
    """Returns layers that map features to a residual of the crop, which is zero before training."""
    last = Conv(channels, 3)
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        Conv(channels, channels),
        nn.LeakyReLU(SLOPE),
        ResidualBlock(channels),
        ResidualBlock(channels),
        last,
    )


def normed(before: int, after: int, kernel: int = 3, bias: bool = True) -> list[nn.Module]:
    """Returns convolution, batch normalisation and LeakyReLU."""
    conv = Conv(before, after, kernel, bias=bias)
    return [conv, nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE)]


def spectral_pair(before: int, after: int, dilation: int = 1) -> list[nn.Module]:
    """Returns two convolutions with spectral norm, and a LeakyReLU between them."""
    first, second = Conv(before, after, 3, dilation), Conv(after, after, 3, dilation)
    return [spectral_norm(first), nn.LeakyReLU(SLOPE), spectral_norm(second)]


def adain(x: Tensor, like: Tensor) -> Tensor:
    """Gives each channel of x the mean and deviation of the same channel of `like`.

    Huang and Belongie, "Arbitrary Style Transfer in Real-time with Adaptive Instance
    Normalization", ICCV 2017. Both are NxCxHxW; the arithmetic is in 32 bits, even under mixed
    precision.
    """
    (mean, std), (wanted_mean, wanted_std) = (_statistics(value.float()) for value in (x, like))
    return ((x.float() - mean) / std * wanted_std + wanted_mean).to(x.dtype)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and (unbiased) standard deviation of each channel, NxCx1x1."""
    variance = x.var(dim=(2, 3), keepdim=True, unbiased=True)
    return x.mean(dim=(2, 3), keepdim=True), (variance + 1e-5).sqrt()


def reflected(x: Tensor, margin: int) -> Tensor:
    """Pads NxCxHxW by `margin` on each side; a side that is too short is reflected repeatedly."""
    while margin > 0:
        step = min(margin, x.shape[-1] - 1, x.shape[-2] - 1)
        x = F.pad(x, (step, step, step, step), mode="reflect")
        margin -= step
    return x
