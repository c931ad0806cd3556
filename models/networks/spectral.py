"""Spectral normalisation: divides a weight by its largest singular value.

Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018. PyTorch's
own implementation fails under mixed precision on CUDA, which computes its matrix products in 16
bits. The sums of products used here stay in 32 bits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

FIRST_ITERATIONS = 5
"""Iterations of the power method for the first estimate; each use in training adds one."""


class SpectralNorm(nn.Module):
    """The parametrization of one weight. `u` and `v` are buffers, not parameters."""

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", F.normalize(torch.randn_like(matrix[:, 0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn_like(matrix[0]), dim=0))
        for _ in range(FIRST_ITERATIONS):
            self._iterate(matrix)

    def forward(self, weight: Tensor) -> Tensor:
        """Returns the weight, of any shape, with a largest singular value of about 1."""
        matrix = weight.flatten(1)
        if self.training:
            self._iterate(matrix.detach())
        # Cloned, because a second use of the network in one step changes the buffers before the
        # gradient is computed.
        return weight / (self.u.clone()[:, None] * matrix * self.v.clone()).sum()

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        self.v.copy_(F.normalize((matrix * self.u[:, None]).sum(dim=0), dim=0))
        self.u.copy_(F.normalize((matrix * self.v).sum(dim=1), dim=0))


def spectral_norm(conv: nn.Conv2d) -> nn.Conv2d:
    """Normalises the weight of a convolution from now on, and returns the convolution."""
    parametrize.register_parametrization(conv, "weight", SpectralNorm(conv.weight))
    return conv


def bake_spectral_norm(network: nn.Module) -> None:
    """Replaces normalised weights by plain ones, in place, without changing the outputs."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
