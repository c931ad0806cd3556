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
    """A file of `models/configs/`, read by `load_config`."""

    steps: int = 30_000
    batch: int = 16  # of all processes together
    side: int = 128  # pixels of the training crops, cut from the 256x256 ones
    learning_rate: float = 5e-4
    warmup: int = 500
    halve_at: tuple[int, ...] = ()  # steps that halve the learning rate; none: half a cosine
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    clip_gradient: float = 1.0
    ema: float = 0.999
    pixel_weight: float = 1.0
    align_weight: float = 0.2
    detail_weight: float = 0.1
    mse_weight: float = 0.0
    perceptual_weight: float = 0.0
    style_weight: float = 0.0
    adversarial_weight: float = 0.0
    matching_weight: float = 0.0
    temporal_weight: float = 0.0  # with it, samples come in pairs of successive pictures
    features: str = ""  # file of the perceptual and style losses: see models/features.py
    scales: int = 4  # of the discriminators
    augmentation: str = "mirror"  # or paper
    seed: int = 0
    workers: int = 1
    bfloat16: bool = True
    quantized: bool = False  # a last stage, in 8-bit integers: see models/quantize.py
    checkpoint_minutes: float = 3.0
    mix: ReferenceMix = field(default_factory=ReferenceMix)
    network: NetworkConfig = field(default_factory=LiteConfig)

    def __post_init__(self) -> None:
        """Raises ValueError for settings that do not go together."""
        if (self.perceptual_weight or self.style_weight) and not self.features:
            raise ValueError("perceptual_weight and style_weight want a file of `features`")
        if self.quantized and not isinstance(self.network, LiteConfig):
            raise ValueError("quantized is for lite alone")
        if self.temporal_weight and self.batch % 2:
            raise ValueError(f"temporal_weight wants pairs: {self.batch} is an odd batch")
        if self.augmentation not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"augmentation is one of {known}, not {self.augmentation}")


def load_config(path: Path) -> TrainConfig:
    """Reads a TOML file. Raises TypeError for a key that does not exist, ValueError for a value."""
    values: dict[str, Any] = tomllib.loads(path.read_text())
    mix = ReferenceMix(**values.pop("mix", {}))
    network = read_network(values.pop("network", {}))
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return TrainConfig(**settings, mix=mix, network=network)
