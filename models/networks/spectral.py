"""Spectral normalisation: a weight divided by its largest singular value.

Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018. PyTorch's
own fails under mixed precision on CUDA, where its products of matrices come out in 16 bits; sums
of products stay in 32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

FIRST_ITERATIONS = 5
"""Of the power method, for the estimate to begin with; one more at every use in training."""


class SpectralNorm(nn.Module):
    """The parametrization of one weight; `u` and `v` are buffers, no parameters."""

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
        """A weight of any shape; the same shape, largest singular value about 1."""
        matrix = weight.flatten(1)
        if self.training:
            self._iterate(matrix.detach())
        # Cloned: the buffers change again before the gradient is computed, where a network is
        # used twice in one step.
        return weight / (self.u.clone()[:, None] * matrix * self.v.clone()).sum()

    @torch.no_grad()
    def _iterate(self, matrix: Tensor) -> None:
        self.v.copy_(F.normalize((matrix * self.u[:, None]).sum(dim=0), dim=0))
        self.u.copy_(F.normalize((matrix * self.v).sum(dim=1), dim=0))


def spectral_norm(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution, its weight normalised from now on."""
    parametrize.register_parametrization(conv, "weight", SpectralNorm(conv.weight))
    return conv


def bake_spectral_norm(network: nn.Module) -> None:
    """Makes the normalised weights plain ones, in place: what is computed stays as it is."""
    for module in list(network.modules()):
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
