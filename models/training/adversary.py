"""The adversarial stage: discriminators that are trained together with the generator."""

from typing import Any

import torch
from torch import Tensor, nn

from models.networks import channels_last
from models.networks.discriminators import Discriminator
from models.training.losses import adversarial_loss, hinge_loss, matching_loss
from models.training.parallel import Processes


class Adversary:
    """The discriminators and their optimizer."""

    def __init__(
        self, scales: int, betas: tuple[float, float], bfloat16: bool, processes: Processes
    ) -> None:
        """Builds untrained discriminators.

        Args:
            scales: number of discriminators, see `Discriminator`.
            betas: of the optimizer, Adam.
        """
        self.discriminator = channels_last(Discriminator(scales), processes.device)
        self.bfloat16 = bfloat16
        self._hinge = processes.wrap(_Hinge(self.discriminator))
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), betas=betas)

    def losses(self, restored: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Returns the generator's losses `adversarial` and `matching` for Nx3xHxW in [0, 1]."""
        # The gradient flows through the discriminators without changing them.
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
        """Trains the discriminators for one step and returns their loss.

        Args:
            restored, target: Nx3xHxW in [0, 1], `restored` detached from the generator.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(restored.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss: Tensor = self._hinge(target, restored)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state that `state_dict` returned."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])


class _Hinge(nn.Module):
    """Computes the discriminators' loss as one module, so that gradients can be averaged."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, target: Tensor, restored: Tensor) -> Tensor:
        real, found = (
            [scale[-1].float() for scale in self.discriminator(x)] for x in (target, restored)
        )
        return hinge_loss(real, found)
