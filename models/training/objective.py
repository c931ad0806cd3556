"""The sum of losses that a configuration asks for."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.training.adversary import Adversary
from models.training.config import TrainConfig
from models.training.losses import (
    detail_loss,
    log_error,
    perceptual_loss,
    style_loss,
    temporal_loss,
)


class Objective:
    """Computes and weights the losses of a generator."""

    def __init__(
        self, config: TrainConfig, features: nn.Module | None, adversary: Adversary | None
    ) -> None:
        """`features` are frozen and, like `adversary`, on the device of the training."""
        self.config, self.features, self.adversary = config, features, adversary

    def losses(
        self, batch: dict[str, Tensor], restored: Tensor, aligned: Tensor
    ) -> dict[str, Tensor]:
        """Returns each loss by name, their weighted sum `loss`, and `received`.

        `received` is the mean squared error before restoration. Only `loss` has a gradient.

        Args:
            batch: as `Crops` returns samples, with a first dimension N.
            restored, aligned: Nx3xSxS float32.
        """
        config, target = self.config, batch["target"]
        # A sample without a reference has nothing to align.
        align = ((aligned - target).abs().mean(dim=(1, 2, 3)) * batch["guided"]).mean()
        losses = {
            "pixels": log_error(restored - target),
            "detail": detail_loss(restored, target),
            "align": align,
            "mse": F.mse_loss(restored, target),
            **({"temporal": temporal_loss(restored, target)} if config.temporal_weight else {}),
            **self._feature_losses(restored, target),
            **(self.adversary.losses(restored, target) if self.adversary else {}),
        }
        weights = {
            "pixels": config.pixel_weight,
            "detail": config.detail_weight,
            "align": config.align_weight,
            "mse": config.mse_weight,
            "perceptual": config.perceptual_weight,
            "style": config.style_weight,
            "adversarial": config.adversarial_weight,
            "matching": config.matching_weight,
            "temporal": config.temporal_weight,
        }
        # A loss without a weight is only logged.
        weighted = [weights[name] * value for name, value in losses.items() if weights[name]]
        return {name: value.detach() for name, value in losses.items()} | {
            "loss": torch.stack(weighted).sum(),
            "received": F.mse_loss(batch["degraded"], target),
        }

    def _feature_losses(self, restored: Tensor, target: Tensor) -> dict[str, Tensor]:
        if self.features is None:
            return {}
        with torch.autocast(restored.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            with torch.no_grad():
                wanted = [tap.float() for tap in self.features(target)]
            found = [tap.float() for tap in self.features(restored)]
        return {"perceptual": perceptual_loss(found, wanted), "style": style_loss(found, wanted)}
