"""The settings of a training run, read from a file of `models/configs/`."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.data.augmentation import AUGMENTATIONS
from models.data.samples import ReferenceMix
from models.networks import NetworkConfig, read_network
from models.networks.lite import LiteConfig


@dataclass(frozen=True)
class TrainConfig:
    """The settings of one run. `load_config` reads them from a TOML file."""

    steps: int = 30_000
    batch: int = 16  # samples per step, over all processes
    side: int = 128  # pixels; training crops are cut from the 256x256 ones
    learning_rate: float = 5e-4
    warmup: int = 500  # steps of linear warm-up
    halve_at: tuple[int, ...] = ()  # steps that halve the learning rate; if empty: half a cosine
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    clip_gradient: float = 1.0
    ema: float = 0.999  # decay of the averaged weights
    pixel_weight: float = 1.0
    align_weight: float = 0.2
    detail_weight: float = 0.1
    mse_weight: float = 0.0
    perceptual_weight: float = 0.0
    style_weight: float = 0.0
    adversarial_weight: float = 0.0
    matching_weight: float = 0.0
    temporal_weight: float = 0.0  # if not 0, samples are pairs of successive frames
    features: str = ""  # file for the perceptual and style losses, see models/features.py
    scales: int = 4  # of the discriminators
    augmentation: str = "mirror"  # or "paper"
    seed: int = 0
    workers: int = 1  # processes that load samples
    bfloat16: bool = True
    quantized: bool = False  # final stage in 8-bit integers, see models/quantize.py
    checkpoint_minutes: float = 3.0
    mix: ReferenceMix = field(default_factory=ReferenceMix)
    network: NetworkConfig = field(default_factory=LiteConfig)

    def __post_init__(self) -> None:
        """Raises ValueError for settings that contradict each other."""
        if (self.perceptual_weight or self.style_weight) and not self.features:
            raise ValueError("perceptual_weight and style_weight need a file as `features`")
        if self.quantized and not isinstance(self.network, LiteConfig):
            raise ValueError("quantized works with the network lite only")
        if self.temporal_weight and self.batch % 2:
            raise ValueError(f"temporal_weight needs pairs, but the batch of {self.batch} is odd")
        if self.augmentation not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"augmentation must be one of {known}, not {self.augmentation}")


def load_config(path: Path) -> TrainConfig:
    """Reads a TOML file.

    Raises OSError or TOMLDecodeError for an unreadable file, TypeError for an unknown key and
    ValueError for an invalid value.
    """
    settings: dict[str, Any] = tomllib.loads(path.read_text())
    settings["mix"] = ReferenceMix(**settings.get("mix", {}))
    settings["network"] = read_network(settings.get("network", {}))
    for key, value in settings.items():
        settings[key] = tuple(value) if isinstance(value, list) else value
    return TrainConfig(**settings)
