"""LPIPS, from weights that are on this machine already: nothing is downloaded."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keyframes import Picture
from receiver.errors import InputError

LAYERS = (
    (3, 64, 11, 4, 2),
    (64, 192, 5, 1, 2),
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)
"""AlexNet's convolutions: channels in and out, kernel, stride, padding."""
NAMES = (0, 3, 6, 8, 10)
"""Indices of the convolutions in torchvision's `alexnet.features`."""
POOLED = (1, 2)
"""Convolutions that a max pooling precedes."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and standard deviation of red, green and blue in [-1, 1]."""
WANTED = "give torchvision's alexnet and LPIPS' alex.pth, in a folder or merged in one file"


class LPIPS(nn.Module):
    """AlexNet's LPIPS, version 0.1 (Zhang et al., CVPR 2018): 0 for equal pictures.

    Its weights are torchvision's `alexnet` and `lpips/weights/v0.1/alex.pth` of the authors'
    package.
    """

    def __init__(self, path: Path) -> None:
        """Reads both state dicts, merged in one file or as *.pth in a folder.

        Raises InputError if a file cannot be read, or a tensor is missing or has another shape.
        """
        super().__init__()
        self.shift: Tensor
        self.scale: Tensor
        state = _read(path)
        self.convolutions = nn.ModuleList(nn.Conv2d(*layer) for layer in LAYERS)
        self.lins = nn.ParameterList(torch.empty(1, layer[1], 1, 1) for layer in LAYERS)
        wanted = {}
        for i, number in enumerate(NAMES):
            for kind in ("weight", "bias"):
                wanted[f"convolutions.{i}.{kind}"] = f"features.{number}.{kind}"
            wanted[f"lins.{i}"] = f"lin{i}.model.1.weight"
        missing = [name for name in wanted.values() if name not in state]
        if missing:
            raise InputError(f"{path} lacks LPIPS weights: {missing[0]} is missing; {WANTED}")
        try:
            self.load_state_dict({to: state[name] for to, name in wanted.items()})
        except RuntimeError as error:
            raise InputError(
                f"{path} holds weights of another network: {error}; {WANTED}"
            ) from None
        self.requires_grad_(False)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns N distances of two Nx3xHxW batches in [-1, 1]."""
        distance = torch.zeros(len(a))
        for lin, one, other in zip(self.lins, self._taps(a), self._taps(b), strict=True):
            squares = (F.normalize(one, eps=1e-10) - F.normalize(other, eps=1e-10)) ** 2
            distance += (squares * lin).sum(dim=1).mean(dim=(1, 2))
        return distance

    def _taps(self, x: Tensor) -> list[Tensor]:
        x = (x - self.shift) / self.scale
        taps = []
        for number, convolution in enumerate(self.convolutions):
            if number in POOLED:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(convolution(x))
            taps.append(x)
        return taps

    @torch.no_grad()
    def between(self, original: Picture, picture: Picture) -> float:
        """Returns the distance of two HxWx3 uint8 RGB pictures."""
        return float(self(batch_of(original) / 127.5 - 1, batch_of(picture) / 127.5 - 1))


def batch_of(picture: Picture) -> Tensor:
    """Returns a 1x3xHxW float32 tensor, 0 to 255."""
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float()


def _read(path: Path) -> dict[str, Any]:
    files = sorted(path.glob("*.pth")) if path.is_dir() else [path]
    state: dict[str, Any] = {}
    for file in files:
        try:
            state |= torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises errors of many kinds
            raise InputError(f"{file} cannot be read as weights: {error}; {WANTED}") from None
    return state
