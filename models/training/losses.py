"""The losses of a generator: pixels, detail as VMAF-NEG counts it, features, realism.

Pictures are Nx3xHxW RGB, float in [0, 1]. Every loss is a scalar and, unless its docstring says
otherwise, 0 for two equal pictures. The paper (Agnolucci et al., 2023, section 3) sums
300 times the MSE, 10 times the perceptual loss, the style loss and twice the adversarial one.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE_WEIGHTS = (4.0, 2.0, 1.0, 1.0)
"""Weights of the discriminators' losses, largest scale first."""
WAVELET_SCALES = 4
VIEWING = 3.0 * 1080.0 * math.pi / 180.0
"""Pixels per degree, seen from three screen heights on a 1080p screen, as in VMAF."""
WAVELET = (0.482962913144690, 0.836516303737469, 0.224143868041857, -0.129409522550921)
"""Low-pass filter of Daubechies 2."""


def log_error(difference: Tensor) -> Tensor:
    """Returns the mean log(MSE + 1e-4) of the samples, which is their PSNR up to a constant.

    Every sample counts the same, however hard it is; above 40 dB there is little to gain. The scale
    gives about the gradient of an L1 loss. Equal pictures give 0.0125 * log(1e-4), not 0.
    """
    errors = difference.square().mean(dim=(1, 2, 3))
    return 0.0125 * torch.log(errors + 1e-4).mean()


def luma(picture: Tensor) -> Tensor:
    """Converts Nx3xHxW in [0, 1] to Nx1xHxW in [0, 255] (BT.601)."""
    weights = picture.new_tensor([0.299, 0.587, 0.114]).mul(255.0).view(1, 3, 1, 1)
    return (picture * weights).sum(dim=1, keepdim=True)


def detail_loss(restored: Tensor, target: Tensor) -> Tensor:
    """Returns 1 - DLM, the share of the target's wavelet coefficients that is lost.

    Li et al., "Image Quality Assessment by Separately Evaluating Detail Losses and Additive
    Impairments", 2011. As in VMAF-NEG, the gain of a coefficient is limited to 1. Coefficients that
    the target lacks mask the detail below them.
    """
    x, y = luma(target), luma(restored)
    numerator = denominator = x.new_zeros(len(x))
    for scale in range(WAVELET_SCALES):
        x, wanted = _wavelet(x)
        y, found = _wavelet(y)
        sensitivity = wanted.new_tensor(_sensitivity(scale)).view(1, 3, 1, 1)
        share = (found * wanted / (wanted.square() + 1e-3)).clamp(0.0, 1.0)
        kept = share * wanted
        added = ((found - kept) * sensitivity).abs()
        mask = F.avg_pool2d(added.sum(dim=1, keepdim=True), 3, 1, 1) * 9.0 + added.sum(1, True)
        seen = F.relu((kept * sensitivity).abs() - mask / 30.0)
        floor = 3 * (x[0].numel() / 32.0) ** (1 / 3)
        numerator = numerator + _cubic(seen) + floor
        denominator = denominator + _cubic((wanted * sensitivity).abs()) + floor
    return 1.0 - (numerator / denominator).mean()


def temporal_loss(restored: Tensor, target: Tensor) -> Tensor:
    """Returns the mean absolute change of the error from sample 2n to 2n + 1, seen as flicker.

    A constant error costs nothing.
    """
    error = restored - target
    return (error[1::2] - error[0::2]).abs().mean()


def perceptual_loss(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Returns the sum of the features' mean squared errors over the taps, NxCxHxW each."""
    return torch.stack([F.mse_loss(a, b) for a, b in zip(found, wanted, strict=True)]).sum()


def style_loss(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Returns `perceptual_loss` of the Gram matrices, which ignore where a feature occurs."""
    return perceptual_loss([gram(x) for x in found], [gram(x) for x in wanted])


def gram(x: Tensor) -> Tensor:
    """Maps NxCxHxW to NxCxC: the products of all pairs of channels, divided by C * H * W."""
    n, channels, height, width = x.shape
    flat = x.reshape(n, channels, height * width)
    return flat @ flat.transpose(1, 2) / (channels * height * width)


def hinge_loss(real: list[Tensor], restored: list[Tensor]) -> Tensor:
    """Returns the discriminators' loss.

    It is 0 if every real patch scores 1 or more and every restored patch -1 or less.

    Args:
        real, restored: scores of any shape, one tensor per scale, largest scale first.
    """
    losses = [
        F.relu(1.0 - a).mean() + F.relu(1.0 + b).mean() for a, b in zip(real, restored, strict=True)
    ]
    return _weighted(losses)


def adversarial_loss(restored: list[Tensor]) -> Tensor:
    """Returns the negative mean score of the restored patches. Not 0 for two equal pictures."""
    return _weighted([-scores.mean() for scores in restored])


def matching_loss(real: list[list[Tensor]], restored: list[list[Tensor]]) -> Tensor:
    """Returns the mean difference of the discriminators' features, without their scores.

    Args:
        real, restored: one list per scale, with a tensor per layer and the scores as its last.

    Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs",
    CVPR 2018. It needs no trained weights, so it replaces the perceptual loss without VGG-19.
    """
    return _weighted(
        [
            torch.stack(
                [F.l1_loss(b, a.detach()) for a, b in zip(one[:-1], two[:-1], strict=True)]
            ).mean()
            for one, two in zip(real, restored, strict=True)
        ]
    )


def _weighted(losses: list[Tensor]) -> Tensor:
    """Returns the sum of one loss per scale, weighted with SCALE_WEIGHTS."""
    return torch.stack([w * loss for w, loss in zip(SCALE_WEIGHTS, losses, strict=False)]).sum()


def _cubic(bands: Tensor) -> Tensor:
    """Maps Nx3xHxW to N: the sum of the three bands' 3-norms."""
    return (bands.pow(3).sum(dim=(2, 3)) + 1e-6).pow(1 / 3).sum(dim=1)


def _wavelet(x: Tensor) -> tuple[Tensor, Tensor]:
    """Splits Nx1xHxW into an approximation Nx1xH/2xW/2 and details Nx3xH/2xW/2.

    The details are horizontal, vertical and diagonal.
    """
    low = x.new_tensor(WAVELET)
    high = low.flip(0) * x.new_tensor([1.0, -1.0, 1.0, -1.0])
    kernels = torch.stack([torch.outer(a, b) for a in (low, high) for b in (low, high)])
    bands = F.conv2d(F.pad(x, (1, 2, 1, 2), mode="reflect"), kernels[:, None], stride=2)
    return bands[:, :1], bands[:, 1:]


def _sensitivity(scale: int) -> list[float]:
    """Returns the eye's sensitivity to the three bands.

    Watson et al., "Visibility of Wavelet Quantization Noise", 1997.
    """
    amplitudes = (
        (0.67234, 0.67234, 0.72709),
        (0.41317, 0.41317, 0.49428),
        (0.22727, 0.22727, 0.28688),
        (0.11792, 0.11792, 0.15214),
    )[scale]
    thresholds = (
        0.495 * 10.0 ** (0.466 * math.log10(2.0 ** (scale + 1) * 0.401 * g / VIEWING) ** 2)
        for g in (1.0, 1.0, 0.534)
    )
    return [a / (2.0 * t) for a, t in zip(amplitudes, thresholds, strict=True)]
