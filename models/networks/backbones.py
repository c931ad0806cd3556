"""Feature extractors with torchvision's layouts and names, so that its weight files fit.

They are VGG-19 (Simonyan and Zisserman, 2015) and MobileNetV3 (Howard et al., 2019), each without
the layers after its last tap. `forward` takes Nx3xHxW RGB in [0, 1], H and W multiples of the last
stride, and returns the taps, finest first.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB; the weight files expect an input normalised with them."""


class Backbone(nn.Module):
    """Base of the extractors.

    Attributes:
        stride: of the last tap; each other tap has half the stride of the next one.
        widths: channels of the taps.
        tapped: indices in `features` of the modules whose outputs are the taps.
    """

    name: str
    stride: int
    widths: tuple[int, ...]
    tapped: tuple[int, ...]
    features: nn.Sequential

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns the taps of Nx3xHxW in [0, 1]."""
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        x = (x - mean) / std
        taps = []
        for number, module in enumerate(self.features):
            x = module(x)
            if number in self.tapped:
                taps.append(x)
        return taps

    def load(self, path: Path) -> None:
        """Loads a weight file of torchvision, ignoring layers after the last tap.

        Raises OSError for an unreadable file, ValueError for a missing tensor or another shape.
        """
        found = read_weights(path)
        state = self.state_dict()
        for name, value in state.items():
            if name.endswith("num_batches_tracked"):  # older files lack it
                continue
            if name not in found:
                raise ValueError(f"{path} holds no weights of {self.name}: {name} is missing")
            if found[name].shape != value.shape:
                shapes = f"{tuple(found[name].shape)} instead of {tuple(value.shape)}"
                raise ValueError(f"{path} holds no weights of {self.name}: {name} is {shapes}")
            state[name] = found[name]
        self.load_state_dict(state)


class VGG19(Backbone):
    """VGG-19 with taps relu2_2, relu3_4, relu4_4 and conv5_4 (before its ReLU)."""

    name = "vgg19"
    stride = 16
    widths = (128, 256, 512, 512)
    tapped = (8, 17, 26, 34)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, count in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[: self.tapped[-1] + 1])


class MobileNetV3(Backbone):
    """MobileNetV3 with a tap after the last block of each resolution.

    Attributes:
        rows: the arguments of each `Block`, without its input width.
    """

    stride = 32
    rows: tuple[tuple[int, int, int, bool, type[nn.Module], int], ...]

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [normed(3, 16, 3, nn.Hardswish, stride=2)]
        before = 16
        for kernel, expanded, width, squeeze, activation, stride in self.rows:
            layers.append(Block(before, kernel, expanded, width, squeeze, activation, stride))
            before = width
        self.features = nn.Sequential(*layers)


class MobileNetV3Small(MobileNetV3):
    """MobileNetV3-Small, table 2 of its paper."""

    name = "mobilenet-v3-small"
    widths = (16, 16, 24, 48, 96)
    tapped = (0, 1, 3, 8, 11)
    rows = (
        (3, 16, 16, True, nn.ReLU, 2),
        (3, 72, 24, False, nn.ReLU, 2),
        (3, 88, 24, False, nn.ReLU, 1),
        (5, 96, 40, True, nn.Hardswish, 2),
        (5, 240, 40, True, nn.Hardswish, 1),
        (5, 240, 40, True, nn.Hardswish, 1),
        (5, 120, 48, True, nn.Hardswish, 1),
        (5, 144, 48, True, nn.Hardswish, 1),
        (5, 288, 96, True, nn.Hardswish, 2),
        (5, 576, 96, True, nn.Hardswish, 1),
        (5, 576, 96, True, nn.Hardswish, 1),
    )


class MobileNetV3Large(MobileNetV3):
    """MobileNetV3-Large, table 1 of its paper."""

    name = "mobilenet-v3-large"
    widths = (16, 24, 40, 112, 160)
    tapped = (1, 3, 6, 12, 15)
    rows = (
        (3, 16, 16, False, nn.ReLU, 1),
        (3, 64, 24, False, nn.ReLU, 2),
        (3, 72, 24, False, nn.ReLU, 1),
        (5, 72, 40, True, nn.ReLU, 2),
        (5, 120, 40, True, nn.ReLU, 1),
        (5, 120, 40, True, nn.ReLU, 1),
        (3, 240, 80, False, nn.Hardswish, 2),
        (3, 200, 80, False, nn.Hardswish, 1),
        (3, 184, 80, False, nn.Hardswish, 1),
        (3, 184, 80, False, nn.Hardswish, 1),
        (3, 480, 112, True, nn.Hardswish, 1),
        (3, 672, 112, True, nn.Hardswish, 1),
        (5, 672, 160, True, nn.Hardswish, 2),
        (5, 960, 160, True, nn.Hardswish, 1),
        (5, 960, 160, True, nn.Hardswish, 1),
    )


BACKBONES: dict[str, type[Backbone]] = {
    kind.name: kind for kind in (VGG19, MobileNetV3Large, MobileNetV3Small)
}


class Block(nn.Module):
    """Expands (1x1), filters each channel, squeezes and excites, projects (1x1).

    Adds its input if the shapes agree.
    """

    def __init__(
        self,
        before: int,
        kernel: int,
        expanded: int,
        width: int,
        squeeze: bool,
        activation: type[nn.Module],
        stride: int,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != before:
            layers.append(normed(before, expanded, 1, activation))
        layers.append(normed(expanded, expanded, kernel, activation, stride, groups=expanded))
        if squeeze:
            layers.append(SqueezeExcitation(expanded))
        layers.append(normed(expanded, width, 1, nn.Identity))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and before == width

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to Nx`width`xH/`stride`xW/`stride`."""
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class SqueezeExcitation(nn.Module):
    """Scales each channel by a factor computed from the means of all; section 5.3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = multiple_of_8(channels / 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps NxCxHxW to the same shape."""
        factor = self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True))))  # (N, C, 1, 1)
        return x * F.hardsigmoid(factor)


def normed(
    before: int,
    width: int,
    kernel: int,
    activation: type[nn.Module],
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Returns convolution, batch normalisation (with MobileNetV3's constants) and activation."""
    conv = nn.Conv2d(before, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width, eps=1e-3, momentum=0.01), activation())


def multiple_of_8(value: float) -> int:
    """Returns the nearest multiple of 8 that is at least 8 and nine tenths of the value."""
    nearest = max(8, int(value + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * value else nearest + 8


def read_weights(path: Path) -> dict[str, Any]:
    """Reads a state dict from a file.

    Raises OSError for an unreadable file, ValueError for one that holds no state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        state = None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} is not a weight file of PyTorch")
    return state
