"""The adversarial stage: discriminators that learn beside the generator."""

from typing import Any

import torch
from torch import Tensor, nn

from models.networks.discriminators import Discriminator
from models.training.losses import adversarial_loss, hinge_loss, matching_loss
from models.training.parallel import Processes


class Adversary:
    """The discriminators and their optimiser."""

    def __init__(
        self, scales: int, betas: tuple[float, float], bfloat16: bool, processes: Processes
    ) -> None:
        """`scales` as in `Discriminator`; `betas` are Adam's."""
        self.discriminator = Discriminator(scales).to(
            processes.device, memory_format=torch.channels_last
        )
        self.bfloat16 = bfloat16
        self._hinge = processes.wrap(_Hinge(self.discriminator))
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), betas=betas)

    def losses(self, restored: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The generator's `adversarial` and `matching` losses; both pictures Nx3xHxW in [0, 1]."""
        # The gradient passes through the discriminators, and is none of theirs.
        self.discriminator.requires_grad_(False)
        with torch.autocast(restored.device.type, torch.bfloat16, enabled=self.bfloat16):
            with torch.no_grad():
                real = self.discriminator(target)
            found = self.discriminator(restored)
        self.discriminator.requires_grad_(True)
        real, found = ([[x.float() for x in scale] for scale in both] for both in (real, found))
        return {
            "adversarial": adversarial_loss([scale[-1] for scale in found]),
            "matching": matching_loss(real, found),
        }

    def learn(self, restored: Tensor, target: Tensor, learning_rate: float) -> Tensor:
        """One step towards telling them apart; `restored` without gradient. Returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(restored.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss: Tensor = self._hinge(target, restored)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """All that has to be kept."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])


class _Hinge(nn.Module):
    """The discriminators' loss as one module, for its gradients to be averaged."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, target: Tensor, restored: Tensor) -> Tensor:
        real, found = (
            [scale[-1].float() for scale in self.discriminator(x)] for x in (target, restored)
        )
        return hinge_loss(real, found)
