"""ST-LPIPS, from the weights that the package `stlpips-pytorch` ships: nothing is downloaded.

Only its files are read: its code needs torchvision and IPython.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.command_line import package_file
from bench.metrics.lpips import SCALE, SHIFT, batch_of
from keyframes import Picture

Network = Literal["alex", "vgg"]
CONVOLUTIONS: dict[Network, list[list[int]]] = {
    "alex": [[0], [5], [9], [11], [13]],
    "vgg": [[0, 2], [6, 8], [12, 14, 16], [20, 22, 24], [28, 30, 32]],
}
"""Numbers of the convolutions in the shipped state dicts, by slice: a feature map ends a slice."""
POOLED: dict[Network, tuple[int, ...]] = {"alex": (1, 2), "vgg": (1, 2, 3, 4)}
"""Slices that a max pooling and a blur precede."""
POOL: dict[Network, int] = {"alex": 3, "vgg": 2}
"""Width of the max pooling."""
BLUR = (1.0, 2.0, 1.0)
"""The filter that precedes each halving of the size, in both directions."""


class STLPIPS:
    """Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022): 0 for equal pictures, more is worse.

    It is no LPIPS: its networks blur before they subsample and were trained again, so that a shift
    of a pixel hardly counts. Its figures compare with those of ST-LPIPS alone.
    """

    def __init__(self, network: Network = "alex") -> None:
        """Reads one of the two networks that the package ships. Raises MissingPackageError."""
        file = package_file("stlpips_pytorch", "weights", "vST0.0", f"{network}_shift_tolerant.pth")
        self.network: Network = network
        self.weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)

    @torch.no_grad()
    def distances(self, original: Picture, pictures: Sequence[Picture]) -> list[float]:
        """Returns the distance of each HxWx3 uint8 RGB picture from the original.

        Faster than `between` for several pictures of one original.
        """
        taps = list(self._taps(original))
        return [self._distance(taps, self._taps(picture)) for picture in pictures]

    def between(self, original: Picture, picture: Picture) -> float:
        """Returns the distance of two HxWx3 uint8 RGB pictures."""
        return self.distances(original, [picture])[0]

    def _distance(self, taps: Iterable[Tensor], others: Iterable[Tensor]) -> float:
        distance = 0.0
        for number, (one, other) in enumerate(zip(taps, others, strict=True)):
            squares = (F.normalize(one, eps=1e-10) - F.normalize(other, eps=1e-10)) ** 2
            weighted = squares * self.weights[f"lin{number}.model.1.weight"]
            distance += float(weighted.sum(dim=1).mean())
        return distance

    def _taps(self, picture: Picture) -> Iterator[Tensor]:
        """Yields the five feature maps of a picture."""
        x = batch_of(picture) / 127.5 - 1
        shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        x = (x - shift) / scale
        for number, convolutions in enumerate(CONVOLUTIONS[self.network]):
            if number in POOLED[self.network]:
                x = _halved(F.max_pool2d(x, POOL[self.network], 1))
            for convolution in convolutions:
                name = f"net.slice{number + 1}.{convolution}"
                weight = self.weights[f"{name}.weight"]
                wide = 2 if weight.shape[2] > 3 else 1
                x = F.conv2d(x, weight, self.weights[f"{name}.bias"], padding=wide)
                if self.network == "alex" and number == 0:  # its first convolution has no stride
                    x = _halved(x)
                x = F.relu(x)
            yield x


def _halved(x: Tensor) -> Tensor:
    """Returns a batch blurred, at half its size; the border, two pixels wide, is mirrored."""
    line = torch.tensor(BLUR)
    kernel = torch.outer(line, line) / line.sum() ** 2
    channels = x.shape[1]
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(padded, kernel.expand(channels, 1, 3, 3), stride=2, groups=channels)
